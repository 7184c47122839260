"""The facades of the API server: one module a subject, each a table of methods over a part of the domain."""

from __future__ import annotations

from controller.api.domain import Domain
from controller.api.facade import Facades
from controller.api.facades import (
    agent,
    cloud,
    controller,
    highavailability,
    modelmanager,
    pinger,
    usermanager,
    watchers,
)

__all__ = ["build"]


def build(domain: Domain, hash_password: usermanager.HashPassword, status: highavailability.Status) -> Facades:
    """Return all facades of a controller. `hash_password` takes time and memory, and turns (login.py)."""
    return Facades.of(
        [
            pinger.facade(),
            watchers.facade(),
            *agent.facades(domain),
            controller.facade(domain),
            modelmanager.facade(domain),
            cloud.facade(),
            usermanager.facade(domain, hash_password),
            highavailability.facade(status),
        ]
    )

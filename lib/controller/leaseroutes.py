"""What hactl asks about leases, on control.socket."""

from __future__ import annotations

from typing import Any

from controller.answering import Nothing, Route
from controller.leases import Manager


async def _report(leases: Manager, _: Nothing) -> dict[str, Any]:
    return leases.report()


ROUTES = (Route("GET", "/leases", "lease-manager", Manager, _report),)

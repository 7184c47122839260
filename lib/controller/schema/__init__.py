"""The schema of what runs on top of the database: patches of the `controller` database, and of each model's own.

They are numbered apart from dbaccessor's own, in the ledger `application` (dbaccessor.schema says what a patch may do).
"""

from __future__ import annotations

from importlib import resources
from typing import Final

from dbaccessor import schema
from dbaccessor.schema import Patch

__all__ = ["LEDGER", "VERSION", "controller_patches", "model_patches"]

LEDGER: Final = "application"

# What this program reports of itself. Raise it with a release that has a patch which `needs version` so much.
VERSION: Final = 1


def controller_patches() -> tuple[Patch, ...]:
    """The patches of the controller database that this package adds to dbaccessor's own."""
    return schema.load(resources.files(__name__) / "controller")


def model_patches() -> tuple[Patch, ...]:
    """The patches of every model's database."""
    return schema.load(resources.files(__name__) / "model")

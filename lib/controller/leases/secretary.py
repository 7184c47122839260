"""Flow 2, hop 2: who says which leases there may be in a namespace: one secretary for each.

Without one a namespace does not exist, so that a typing error cannot make two workers hold two leases.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

from controller.leases.lease import InvalidLease, Key

SINGULAR_CONTROLLER: Final = "singular-controller"

_PART: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+@-]{0,127}")


class Secretary(Protocol):
    def check(self, key: Key, holder: str, duration_seconds: float) -> None:
        """Return if this holder may claim this lease for so long. Raises InvalidLease with the reason.

        The parts of the key are names already, and the duration is within the bounds of the timing table.
        """
        ...


class SingularController:
    """Of work that runs once per model or per controller set: the lease is named after the model's or set's uuid."""

    def check(self, key: Key, holder: str, duration_seconds: float) -> None:
        """See Secretary."""
        if key.model != key.name:
            raise InvalidLease(f"{key}: in {SINGULAR_CONTROLLER} a lease has the name of its model")


def check_names(key: Key, holder: str) -> None:
    """Raise InvalidLease unless all parts of the key, and the holder, are names: letters, digits, `._:+@-`."""
    for what, part in (
        ("namespace", key.namespace),
        ("model", key.model),
        ("name", key.name),
        ("holder", holder),
    ):
        if not _PART.fullmatch(part):
            raise InvalidLease(f"{part!r} is no {what} of a lease: 1 to 128 of letters, digits and ._:+@-")

"""Which unit leads an application: a lease that outlives its holder a little, as Juju's does. Pure: time comes in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass
class Lease:
    """The holder keeps the lease while its agent lives, and for lease_seconds after it was last seen."""

    lease_seconds: float
    holder: str | None = None
    seen: float = 0.0

    def tick(self, now: float, living: Iterable[str]) -> bool:
        """Renew, expire or grant, given the units whose agents live (best claimant first). True if it moved."""
        candidates = list(living)
        if self.holder in candidates:
            self.seen = now
            return False
        if self.holder is not None and now - self.seen < self.lease_seconds:
            return False
        before = self.holder
        self.holder = candidates[0] if candidates else None
        self.seen = now
        return before != self.holder

    def revoke(self, unit: str) -> None:
        """A unit that left in order gives its lease up at once."""
        if self.holder == unit:
            self.holder = None

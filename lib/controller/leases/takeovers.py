"""Flow 2, hop 2: how long it took to take leases over from holders that did not renew them in time.

Counted on the observer's own monotonic clock alone, from the receipt of the first answer that showed the last change:
so it is what this controller can vouch for. The holder may have died up to a renewal's interval later than that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from controller.leases.sightings import Sighting

# Seconds: around the default duration finely, since that is what is promised.
BOUNDS: Final = (1.0, 2.0, 3.0, 4.0, 5.0, 5.25, 5.5, 6.0, 7.0, 8.0, 10.0, 15.0, 20.0, 30.0, 60.0, 600.0, 3600.0)


@dataclass(frozen=True)
class TakeOver:
    """One of them. `claimed`: from when it could be claimed until the claim was sent; `seconds`: from the last change
    that was seen until this controller was sure of holding it."""

    duration_seconds: float
    claimed_seconds: float
    seconds: float


class TakeOvers:
    """All of one manager's."""

    def __init__(self) -> None:
        self.last: TakeOver | None = None
        self.count = 0
        self.total_seconds = 0.0
        self._within = [0] * len(BOUNDS)

    def note(self, last_change: Sighting, sent: float, granted: float) -> None:
        """Count one: the claim that took the lease was sent, and known to have committed, at these moments."""
        seconds = granted - last_change.since
        self.last = TakeOver(last_change.row.duration_seconds, sent - last_change.over_at, seconds)
        self.count += 1
        self.total_seconds += seconds
        for n, bound in enumerate(BOUNDS):
            self._within[n] += seconds <= bound

    def report(self) -> dict[str, Any]:
        """Return count, sum, the last one, and how many took no longer than each of BOUNDS."""
        last = self.last
        return {
            "count": self.count,
            "total-seconds": round(self.total_seconds, 3),
            "within": {str(bound): count for bound, count in zip(BOUNDS, self._within, strict=True)},
            "last": None
            if last is None
            else {
                "duration-seconds": last.duration_seconds,
                "claimed-after-seconds": round(last.claimed_seconds, 3),
                "seconds": round(last.seconds, 3),
            },
        }

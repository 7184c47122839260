"""Flow 2, hop 2: one lease that is held here: what its row is, what was sent about it, until when it is safe.

The holder counts from the sending of the attempt that is known to have committed. Every attempt has a renewal counter
of its own, so the row itself tells which one that was, whatever became of the answers.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from controller.leases.responsible import Responsibility
from controller.leases.store import Row
from controller.leases.timing import Timing


@dataclass(frozen=True)
class Attempt:
    """What was sent, and when, on the holder's clock, before any of it left."""

    row: Row
    sent: float


class Held:
    """Made from the attempt that is known to have committed. Sets the deadline of its responsibility."""

    def __init__(self, claim: Attempt, responsibility: Responsibility, timing: Timing) -> None:
        self.row = claim.row
        self.responsibility = responsibility
        self.duration_ms = claim.row.duration_ms
        self.late = 0
        self._timing = timing
        self._sent = claim.sent
        self._attempts: dict[int, Attempt] = {}
        responsibility.hold_until(self._over_at(claim))

    @property
    def renew_at(self) -> float:
        return self._sent + self._timing.renew_seconds(self.row.duration_seconds)

    def attempt(self, renewals: int, now: float) -> Attempt:
        """Note that a renewal is sent at `now`, and return it.

        It may commit without an answer, and then others count by *its* duration: from now on the shorter one holds.
        """
        row = dataclasses.replace(self.row, renewals=renewals, duration_ms=self.duration_ms, late=self.late)
        attempt = self._attempts[renewals] = Attempt(row, now)
        self.responsibility.hold_until(min(self.responsibility.deadline, self._over_at(attempt)))
        return attempt

    def heard(self, row: Row | None) -> bool:
        """Take what the row is now. False when it is not this holding's any more."""
        if row is None or row.incarnation != self.row.incarnation or row.token != self.row.token:
            return False
        self.row = row
        attempt = self._attempts.get(row.renewals)
        # Those with a lower counter are done or void, and those with a higher one compared with a row that is gone.
        self._attempts.clear()
        if attempt is not None:
            if attempt.sent - self._sent > 2 * self._timing.renew_seconds(row.duration_seconds):
                self.late += 1
            self._sent = attempt.sent
            self.responsibility.hold_until(self._over_at(attempt))
        return True

    def _over_at(self, attempt: Attempt) -> float:
        duration = attempt.row.duration_seconds
        return attempt.sent + duration - self._timing.margin_seconds(duration)

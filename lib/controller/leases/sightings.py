"""Flow 2, hop 2: what this controller has seen of all leases, and which of them may be claimed. No clock, no I/O.

A lease may be taken from its holder by who has itself seen its row unchanged for the full duration that the row names,
counted from the *receipt* of the first answer that showed it. The holder counts from before it *sent* that row, and
stops a margin earlier: so it has stopped by then, whatever anybody's wall clock shows.
"""

from __future__ import annotations

from dataclasses import dataclass

from controller.leases.lease import Key
from controller.leases.store import Changes, Row


@dataclass(frozen=True)
class Sighting:
    """A row, and when it was first seen so, on the observer's monotonic clock."""

    row: Row
    since: float

    @property
    def over_at(self) -> float:
        """When its holder must have stopped, unless the row changes before."""
        return self.since + self.row.duration_seconds


class Sightings:
    """The latest known row of each lease, as seen by the holder-to-be whose incarnation this is.

    A forced reconfiguration of the cluster may lose the latest rows, and then an old one comes back that was renewed
    in truth. So what was seen in one epoch says nothing in the next: `heed` forgets it.
    """

    def __init__(self, incarnation: str) -> None:
        self._incarnation = incarnation
        self._known: dict[Key, Sighting] = {}
        self._epoch: object = None
        self.mark = 0
        self.complete = False

    def heed(self, epoch: object) -> None:
        """Forget everything unless it was seen in this epoch."""
        if epoch != self._epoch:
            self._epoch = epoch
            self.forget()

    def forget(self) -> None:
        self._known.clear()
        self.mark, self.complete = 0, False

    def take(self, changes: Changes, now: float) -> None:
        """Take an answer that was received at `now`.

        A row that is as it was known keeps its time, also in a complete answer. One that was made after a complete
        answer was written is forgotten until the next; who takes it for free meanwhile claims in vain, as the claim
        compares with the row itself.
        """
        if changes.complete:
            rows = {row.key for row in changes.rows}
            for gone in self._known.keys() - rows:
                del self._known[gone]
            self.complete = True
        for row in changes.rows:
            self.note(row.key, row, now)
        self.mark = changes.mark

    def note(self, key: Key, row: Row | None, now: float) -> None:
        """Take what one row was said to be, in an answer that was received at `now`."""
        known = self._known.get(key)
        if row is None:
            self._known.pop(key, None)
        elif known is None or not row.is_state_of(known.row):
            self._known[key] = Sighting(row, now)

    def of_another(self, key: Key) -> Sighting | None:
        """Return the row as it was last seen if another process holds it, or held it and did not give it up."""
        known = self._known.get(key)
        return None if known is None or known.row.free or self._is_own(known.row) else known

    def row(self, key: Key) -> Row | None:
        """Return the row as it was last seen; None when there is none. Only meaningful when `complete`."""
        known = self._known.get(key)
        return None if known is None else known.row

    def rows(self) -> dict[Key, Row]:
        return {key: known.row for key, known in self._known.items()}

    def free_at(self, key: Key) -> float:
        """Return from when on this lease may be claimed, on the observer's clock; 0 for at once.

        At once means: nobody holds it, or the row is this process's own, from a claim or a holding that is over here.
        """
        known = self._known.get(key)
        if known is None or known.row.free or self._is_own(known.row):
            return 0.0
        return known.over_at

    def _is_own(self, row: Row) -> bool:
        return row.incarnation == self._incarnation

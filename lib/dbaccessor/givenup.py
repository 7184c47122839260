"""Whether a transaction that a leader gave up with its leadership may stand in its databases all the same.

libdqlite 1.18.7 folds such a transaction into the database where the write-ahead log, with it, has 1,000 frames
(docs/decisions/20-who-led-starts-anew.md). How long the log was in that moment cannot be seen afterwards, so the leader
looks at it time and again, and at how much this process writes: a transaction goes to the disk as a whole.
"""

from __future__ import annotations

import collections
import time

from dbaccessor.dqlite.walindex import WalIndexes

# A log below this would have to grow by as much between two looks, or by one transaction.
_LONG_FRAMES = 500
# Of the 500 frames of 4 KiB that are missing then, half may have come since the last look.
_MUCH_BYTES = 1 << 20
# A leader that has lost touch gives up some tenths of a second later, and a look may be late.
_LOOKED_AT_SECONDS = 1.5
_IO = "/proc/self/io"


class GivenUp:
    """Looks at the own process while its node leads."""

    def __init__(self) -> None:
        self._indexes = WalIndexes()
        # When, how long the longest log was (None: not to be seen), and how many bytes had been written by then.
        self._looks: collections.deque[tuple[float, int | None, int]] = collections.deque()

    def look(self) -> None:
        """Look once; to be called while the node leads, several times a second."""
        now = time.monotonic()
        self._looks.append((now, self._indexes.frames(), _written_bytes()))
        while self._looks[0][0] < now - _LOOKED_AT_SECONDS:
            self._looks.popleft()

    def may_stay(self) -> bool:
        """Whether it may, now that the node leads no longer, or only again."""
        if not self._looks:
            return True
        frames = [found for _, found, _ in self._looks]
        if None in frames or max(found or 0 for found in frames) >= _LONG_FRAMES:
            return True
        return _written_bytes() - self._looks[0][2] >= _MUCH_BYTES

    def forget(self) -> None:
        """Begin anew, with another run of the node."""
        self._looks.clear()


def _written_bytes() -> int:
    """Return how much this process has written to disks. Raises OSError where the kernel does not count it."""
    with open(_IO, encoding="ascii") as file:  # noqa: PTH123
        return next(int(line.split()[1]) for line in file if line.startswith("write_bytes:"))

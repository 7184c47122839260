"""How often somebody may fail to log in. Pure: the caller says what time it is.

Each failure takes one token of a bucket; an empty bucket means wait. There are two for each identity: a small one for
each place the failures come from (limits.place_of), and a large one for all places together. So one who guesses from
one place is slowed down without keeping the real one out, and many who guess are slowed down as well.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

_MOST_BUCKETS = 20_000


@dataclass(frozen=True)
class Rate:
    """So many failures at once, and then one every so many seconds."""

    burst: int
    seconds: float


FROM_ONE_PLACE = Rate(burst=10, seconds=5.0)
FROM_ANYWHERE = Rate(burst=100, seconds=0.5)


class Attempts:
    """The failures of one controller. Its memory is bounded: the buckets untouched for longest are forgotten."""

    def __init__(self, place: Rate = FROM_ONE_PLACE, anywhere: Rate = FROM_ANYWHERE, most: int = _MOST_BUCKETS) -> None:
        self._rates = place, anywhere
        self._most = most
        # Key -> (how many tokens are taken, and when that was so).
        self._taken: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()
        self.failures = 0
        self.refused = 0

    def wait_seconds(self, identity: str, place: str, now: float) -> float:
        """Return 0 if this identity may try from this place now, else how many seconds to wait. Counts the refusals."""
        waits = [
            (self._level(key, rate, now) + 1 - rate.burst) * rate.seconds
            for key, rate in zip(_keys(identity, place), self._rates, strict=True)
        ]
        longest = max(0.0, *waits)
        if longest:
            self.refused += 1
        return longest

    def failed(self, identity: str, place: str, now: float) -> None:
        """Count one failure."""
        self.failures += 1
        for key, rate in zip(_keys(identity, place), self._rates, strict=True):
            self._taken[key] = (min(self._level(key, rate, now) + 1, rate.burst), now)
            self._taken.move_to_end(key)
        while len(self._taken) > self._most:
            self._taken.popitem(last=False)

    def succeeded(self, identity: str, place: str) -> None:
        """Forget the failures of this identity at this place: it was the right one who erred."""
        self._taken.pop(_keys(identity, place)[0], None)

    def _level(self, key: tuple[str, str], rate: Rate, now: float) -> float:
        taken, when = self._taken.get(key, (0.0, now))
        return max(0.0, taken - (now - when) / rate.seconds)


def _keys(identity: str, place: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return (identity[:256], place), (identity[:256], "")

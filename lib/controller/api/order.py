"""Flow 3, hop 6: the addresses of a list -> the order in which to dial them. Pure, but for the dice it is given.

Agents spread themselves over the *controllers*: each controller is first equally often, however many addresses it has,
and after one address of a controller comes one of another. Clients go back to where they were: the last good address
is first, always. Both leave what failed a moment ago for the end; a client its last good address never.
"""

from __future__ import annotations

import random
from collections.abc import Container, Iterable, Sequence

from controller.api.scopes import HostPort

# How long a failure counts. Longer than it takes to try every controller, shorter than a machine takes to come back.
_RECENT_SECONDS = 30.0


class Failures:
    """Which addresses failed a moment ago. `now` is any clock that only goes forward."""

    def __init__(self, recent_seconds: float = _RECENT_SECONDS) -> None:
        self._recent_seconds = recent_seconds
        self._failed_at: dict[HostPort, float] = {}

    def note(self, address: HostPort, now: float) -> None:
        self._failed_at[address] = now

    def forgive(self, address: HostPort) -> None:
        """Forget its failures: it has answered."""
        self._failed_at.pop(address, None)

    def recent(self, now: float) -> frozenset[HostPort]:
        """Return those that failed within the last `recent_seconds`, and forget the others."""
        self._failed_at = {a: at for a, at in self._failed_at.items() if now - at < self._recent_seconds}
        return frozenset(self._failed_at)


def for_agent(
    controllers: Iterable[Sequence[HostPort]], dice: random.Random, failed: Container[HostPort] = ()
) -> tuple[HostPort, ...]:
    """Return every address once, controllers in random order and by turns, each one's own addresses in their order.

    `controllers` holds the addresses of each. Those in `failed` come after all others, in the same manner.
    """
    shuffled = [list(addresses) for addresses in controllers]
    dice.shuffle(shuffled)
    well = _by_turns([[a for a in addresses if a not in failed] for addresses in shuffled])
    badly = _by_turns([[a for a in addresses if a in failed] for addresses in shuffled])
    return _once([*well, *badly])


def for_client(
    addresses: Iterable[HostPort], last_good: HostPort | None = None, failed: Container[HostPort] = ()
) -> tuple[HostPort, ...]:
    """Return every address once: the last good one, then the others in their order, those in `failed` at the end.

    The last good one is dialled first even where the list does not name it any more, and even if it has just failed.
    """
    listed = list(addresses)
    first = [] if last_good is None else [last_good]
    return _once([*first, *(a for a in listed if a not in failed), *listed])


def _by_turns(groups: Sequence[Sequence[HostPort]]) -> list[HostPort]:
    longest = max(map(len, groups), default=0)
    return [group[turn] for turn in range(longest) for group in groups if turn < len(group)]


def _once(addresses: Iterable[HostPort]) -> tuple[HostPort, ...]:
    return tuple(dict.fromkeys(addresses))

"""The one rule of what is tried again: whatever provably did not happen, as a whole, until the deadline.

NotReady and NotLeader say so (busy, a checkpoint, no leader, a database closed under its connection, a connection
that ended before COMMIT was sent). Indefinite and Refused are raised at once: the first may have happened, the second
never will.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from dbaccessor import errors

_T = TypeVar("_T")

# Between two attempts: long enough not to add to an election's load, short beside any failover.
FIRST_PAUSE_SECONDS = 0.005
LONGEST_PAUSE_SECONDS = 0.05


def left(deadline: float) -> float:
    """Return the seconds until `deadline` (the event loop's clock), 0 when it has passed."""
    return max(0.0, deadline - asyncio.get_running_loop().time())


async def until_done(attempt: Callable[[], Awaitable[_T]], deadline: float, given_up: Callable[[], bool]) -> _T:
    """Return what `attempt` returns; try it again with growing, jittered pauses while it provably did nothing.

    At the deadline, or once `given_up`, the last reason is raised.
    """
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            return await attempt()
        except (errors.NotReady, errors.NotLeader):
            wait = pause * random.uniform(0.5, 1.5)
            if given_up() or left(deadline) <= wait:
                raise
        await asyncio.sleep(wait)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

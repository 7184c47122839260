"""So many at a time; the others wait, first come first served.

asyncio.Semaphore does the same and costs several calls even where nobody waits, and every request of every user takes
two turns: one on its pool, one on its connection.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque


class Turns:
    """`size` turns, on one event loop. Whoever took one gives it back."""

    def __init__(self, size: int) -> None:
        self._free = size
        self._waiters: deque[asyncio.Future[None]] = deque()

    @property
    def all_taken(self) -> bool:
        return self._free == 0

    def take(self) -> bool:
        """Take a turn, unless all are taken. A turn is never free while somebody waits for one."""
        if self._free == 0:
            return False
        self._free -= 1
        return True

    async def wait(self, deadline: float) -> None:
        """Take the next turn that is given back. Raises TimeoutError at `deadline`, on the event loop's clock."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(turn)
        try:
            async with asyncio.timeout_at(deadline):
                await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.give_back()
            else:
                with contextlib.suppress(ValueError):  # It may have been passed over already.
                    self._waiters.remove(turn)
            raise

    def give_back(self) -> None:
        """Let the next one have the turn, if somebody waits."""
        while self._waiters:
            turn = self._waiters.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

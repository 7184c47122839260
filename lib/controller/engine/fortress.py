"""A room that guests may enter while it is open, and that is locked only when the last one has left.

For workers that must not meet: one prepares something (it holds the fortress locked), the others use it (they visit).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Fortress:
    """Locked at first. A worker that runs for ever, so that it can be a manifold; `report` says who is inside."""

    def __init__(self) -> None:
        self._unlocked = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._guests = 0

    async def run(self) -> None:
        """Exist until cancelled."""
        await asyncio.Event().wait()

    def unlock(self) -> None:
        """Let guests in. Unlocking twice is the same as once."""
        self._unlocked.set()

    async def lock_down(self) -> None:
        """Let nobody in any more, and return when the last guest has left. Cancelled, it stays locked."""
        self._unlocked.clear()
        await self._empty.wait()

    @contextlib.asynccontextmanager
    async def visit(self) -> AsyncIterator[None]:
        """Wait until it is unlocked, and keep it from being locked down while the block runs."""
        while not self._unlocked.is_set():
            await self._unlocked.wait()
        self._guests += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._guests -= 1
            if not self._guests:
                self._empty.set()

    def report(self) -> dict[str, object]:
        """Return whether guests may enter, and how many are inside."""
        return {"unlocked": self._unlocked.is_set(), "guests": self._guests}

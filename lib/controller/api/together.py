"""One question for all who want to know the same at the same time.

When a list changes, every agent of a controller asks for it at once, and each answer would cost the database a read
that is confirmed by a majority. Whoever asks while a question is on its way waits for the next one: the answer is never
older than the asking.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Together(Generic[_T]):
    """Belongs to one event loop. `ask` is called once at a time, and sets its own deadline."""

    def __init__(self, ask: Callable[[], Awaitable[_T]]) -> None:
        self._ask = ask
        self._on_its_way: asyncio.Task[_T] | None = None
        self._next: asyncio.Task[_T] | None = None

    async def answer(self) -> _T:
        """Return the answer to a question that is asked from now on. Raises what that raises."""
        if self._next is None:
            self._next = asyncio.create_task(self._ask_after(self._on_its_way))
            # Those who wait may all be gone by the time it fails.
            self._next.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(self._next)

    async def _ask_after(self, before: asyncio.Task[_T] | None) -> _T:
        if before is not None:
            await asyncio.wait({before})
        self._on_its_way, self._next = self._next, None
        return await self._ask()

"""Keeps the leader's write-ahead log within bounds: hands leadership over, or restarts the node.

A leader copies its log back into the database only at a moment when nobody reads it. Where reads overlap all the time
the log grows, and with it the memory of every node and the work of each read (docs/reference/libdqlite.md). Nothing
from outside makes readers pause on all controllers at one moment; but a node that stops leading has none, and its log
is empty a moment later. So a leader whose log stays long gives leadership to another voter. One that has nobody to give
it to, a lone one mostly, is restarted in order, and only when its log has grown much longer still.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from dbaccessor import errors
from dbaccessor.dqlite.walindex import WalIndexes

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
# The library wants a checkpoint from 1,000 frames on. These are 32 MiB, and 128 MiB.
LONG_FRAMES = 8_000
HUGE_FRAMES = 32_000
# A log that is long for one look may be one large transaction, which the next one takes away.
_LOOKS = 3
# What was done shows its effect within this; a cluster that is handed around does no work.
_PAUSE_SECONDS = 5.0
_AGAIN_SECONDS = 1.0


class LogWatch:
    """`leads` says whether the own node does, None while it does not answer. `hand_over` returns to whom, "" where
    there is nobody; `restart` restarts the node. Both may raise DbAccessorError, OSError."""

    def __init__(
        self,
        indexes: WalIndexes,
        leads: Callable[[], bool | None],
        hand_over: Callable[[], Awaitable[str]],
        restart: Callable[[], Awaitable[None]],
        on_relief: Callable[[str], None],
    ) -> None:
        self._indexes = indexes
        self._leads = leads
        self._hand_over = hand_over
        self._restart = restart
        self._on_relief = on_relief
        self._led = False
        self._long_looks = 0
        self._not_before = float("-inf")
        # Of the longest log of the own node while it leads, None where it cannot be seen.
        self.frames: int | None = None

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Look once, and do what is due. Never raises for what the node or the cluster does."""
        leads = self._leads()
        # No answer is no news: a node that is too busy to give one may be writing most of all.
        self._led = self._led if leads is None else leads
        self.frames = self._indexes.frames() if self._led else None
        frames = self.frames or 0
        self._long_looks = self._long_looks + 1 if frames >= LONG_FRAMES else 0
        now = asyncio.get_running_loop().time()
        if self._long_looks < _LOOKS or now < self._not_before:
            return
        try:
            heir = await self._hand_over()
            if heir:
                log.warning("the write-ahead log has %d frames, as reads never pause: %s leads now", frames, heir)
                self._on_relief("handover")
            elif frames >= HUGE_FRAMES:
                log.warning("the write-ahead log has %d frames, and nobody else can lead: restarting the node", frames)
                await self._restart()
                self._on_relief("restart")
            else:
                return
            self._not_before = asyncio.get_running_loop().time() + _PAUSE_SECONDS
        except (errors.DbAccessorError, OSError) as error:
            self._not_before = now + _AGAIN_SECONDS
            log.warning("the write-ahead log has %d frames, and nothing could be done yet: %s", frames, error)

"""Keeps the leader's write-ahead log short enough for the library: hands leadership over, or restarts the node.

A leader copies its log back into the database only at a moment when nobody reads it. Where reads overlap all the time
the log grows, and beyond some 8,000 frames the library aborts the process (docs/reference/libdqlite.md). Nothing from
outside makes readers pause on all controllers at one moment; but a node that stops leading has none, and its log is
empty a moment later. So a leader whose log stays long gives leadership to another voter. One that has nobody to give it
to, a lone one mostly, is restarted in order: what the library would do in disorder.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from dbaccessor import errors
from dbaccessor.dqlite.walindex import WalIndexes

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.05
# The library begins to want a checkpoint at 1,000 frames, and aborts at 8,159.
LONG_FRAMES = 4000
# Beyond this there is no time to lose; nor where the log would be there after two more looks.
TOO_LONG_FRAMES = 6000
# A log that is long for one look may be one large transaction, which the next one takes away.
_LOOKS = 3
# What was done shows its effect within this; a cluster that is handed around does no work. A log that is too long all
# the same cannot wait as long.
_PAUSE_SECONDS = 5.0
_SHORT_PAUSE_SECONDS = 0.5


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
        self._long_looks = self._before = 0
        self._done_at = self._failed_at = float("-inf")
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
        before, frames = self._before, self.frames or 0
        self._before = frames
        self._long_looks = self._long_looks + 1 if frames >= LONG_FRAMES else 0
        now = asyncio.get_running_loop().time()
        growth = max(0, frames - before) if before else 0
        too_long = frames >= LONG_FRAMES and frames + 2 * growth >= TOO_LONG_FRAMES
        pause = _SHORT_PAUSE_SECONDS if too_long else _PAUSE_SECONDS
        if (self._long_looks < _LOOKS and not too_long) or now < max(self._done_at + pause, self._failed_at + 1.0):
            return
        try:
            heir = await self._hand_over()
            if heir:
                log.warning("the write-ahead log has %d frames, as reads never pause: %s leads now", frames, heir)
                self._on_relief("handover")
            elif too_long:
                log.warning("the write-ahead log has %d frames, and nobody else can lead: restarting the node", frames)
                await self._restart()
                self._on_relief("restart")
            else:
                return
            self._done_at = asyncio.get_running_loop().time()
        except (errors.DbAccessorError, OSError) as error:
            self._failed_at = now
            log.warning("the write-ahead log has %d frames, and nothing could be done yet: %s", frames, error)

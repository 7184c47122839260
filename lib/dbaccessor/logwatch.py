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

_LOOK_SECONDS = 0.1
# The library begins to want a checkpoint at 1,000 frames, and aborts at 8,159.
LONG_FRAMES = 4000
# Beyond this there is no time to lose: a few dozen transactions a second may be the rest.
TOO_LONG_FRAMES = 6000
# A log that is long for one look may be one large transaction, which the next one takes away.
_LOOKS = 3
# What was done shows its effect within this; a cluster that is handed around does no work.
_PAUSE_SECONDS = 5.0


class LogWatch:
    """`leads` says whether the own node does. `hand_over` returns to whom, "" where there is nobody; `restart` restarts
    the node. Both may raise DbAccessorError, OSError."""

    def __init__(
        self,
        indexes: WalIndexes,
        leads: Callable[[], bool],
        hand_over: Callable[[], Awaitable[str]],
        restart: Callable[[], Awaitable[None]],
        on_relief: Callable[[str], None],
    ) -> None:
        self._indexes = indexes
        self._leads = leads
        self._hand_over = hand_over
        self._restart = restart
        self._on_relief = on_relief
        self._long_looks = 0
        self._due = 0.0
        # Of the longest log of the own node while it leads, None where it cannot be seen.
        self.frames: int | None = None

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Look once, and do what is due. Never raises for what the node or the cluster does."""
        self.frames = self._indexes.frames() if self._leads() else None
        frames = self.frames or 0
        self._long_looks = self._long_looks + 1 if frames >= LONG_FRAMES else 0
        now = asyncio.get_running_loop().time()
        if (self._long_looks < _LOOKS and frames < TOO_LONG_FRAMES) or now < self._due:
            return
        self._due = now + _PAUSE_SECONDS
        try:
            heir = await self._hand_over()
            if heir:
                log.warning("the write-ahead log has %d frames, as reads never pause: %s leads now", frames, heir)
                self._on_relief("handover")
            elif frames >= TOO_LONG_FRAMES:
                log.warning("the write-ahead log has %d frames, and nobody else can lead: restarting the node", frames)
                await self._restart()
                self._on_relief("restart")
            else:
                self._due = now + _LOOK_SECONDS
        except (errors.DbAccessorError, OSError) as error:
            self._due = now + 1.0
            log.warning("the write-ahead log has %d frames, and nothing could be done yet: %s", frames, error)

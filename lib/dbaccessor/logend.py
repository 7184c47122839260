"""Where the log of the own node ends, so that it can be told to those who compare it with theirs.

It can be told only while it stands still: once a node that runs has had no leader for the hold, or has been stopped for
that long. A stopped node's log is read whole then, once: what stands behind a damage would be missed otherwise.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dbaccessor.dqlite import nodedir, raftlog
from dbaccessor.dqlite.nodedir import NO_ENTRY, LastEntry
from dbaccessor.identity import Identity

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class End:
    """`last` is NO_ENTRY while it is not known. `empty`: there surely is no entry, and the node has no vote."""

    last: LastEntry = NO_ENTRY
    empty: bool = False


UNKNOWN: Final = End()


class LogEnd:
    """The end of the log in `directory`. Use it on one event loop."""

    def __init__(self, directory: Path) -> None:
        self._loop = asyncio.get_running_loop()
        self._directory = directory
        self._end = UNKNOWN
        # Whom `_end` is of: the identity, and whether its node ran.
        self._of: tuple[Identity | None, bool] = (None, False)
        self._since = self._loop.time()
        self._read = False

    def of(self, identity: Identity | None, *, running: bool) -> End:
        """Return what the last look found, UNKNOWN if it was of another identity, or of the node in another state."""
        return self._end if (identity, running) == self._of else UNKNOWN

    async def look(
        self, identity: Identity | None, role: str, *, running: bool, silent_seconds: float, hold_seconds: float
    ) -> None:
        """Find out where the log ends, where it is time for that. The node is not started meanwhile. Raises OSError.

        `silent_seconds`: for how long the node, which runs, has had no leader.
        """
        if (identity, running) != self._of:
            self._of, self._end = (identity, running), UNKNOWN
            self._since, self._read = self._loop.time(), False
        if running:
            # Reading segments is not for every tick.
            leaderless = silent_seconds >= hold_seconds
            self._end = _end(nodedir.last_entry_on_disk(self._directory), role) if leaderless else UNKNOWN
        elif identity is not None and not self._read and self._loop.time() - self._since >= hold_seconds:
            self._end, self._read = await asyncio.to_thread(_end_of_stopped, self._directory, role), True


def _end(last: LastEntry, role: str) -> End:
    # A voter whose files were deleted under it would be taken for one that has acknowledged nothing.
    return End(last, last == NO_ENTRY and role != "voter")


def _end_of_stopped(directory: Path, role: str) -> End:
    try:
        found = raftlog.read(directory)
    except OSError as error:
        log.warning("it cannot be told where the log ends: %s", error)
        return UNKNOWN
    if found.damage:
        log.warning("it cannot be told where the log ends: %s", found.damage)
        return UNKNOWN
    return _end(LastEntry(found.term, found.index), role)

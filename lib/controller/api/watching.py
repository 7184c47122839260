"""One subject that many watch: each watcher hears once of any number of changes. Pure but for the event loop."""

from __future__ import annotations

import asyncio

from controller.api import messages
from controller.api.messages import RPCError


class Subject:
    """Something that changes. It owns its watchers until they are stopped."""

    def __init__(self) -> None:
        self._watchers: set[SubjectWatcher] = set()

    def changed(self) -> None:
        """Wake everybody who watches."""
        for watcher in self._watchers:
            watcher.due.set()

    def watch(self) -> SubjectWatcher:
        """Return a watcher of what happens from now on; its owner stops it."""
        watcher = SubjectWatcher(self._watchers)
        self._watchers.add(watcher)
        return watcher

    @property
    def watched(self) -> bool:
        """Whether anybody watches."""
        return bool(self._watchers)


class SubjectWatcher:
    """One who watches. A slow one misses no change, and hears of several as of one."""

    def __init__(self, among: set[SubjectWatcher]) -> None:
        self.due = asyncio.Event()
        self._among = among
        self._stopped = False

    async def next(self) -> None:
        """Return once something has changed. Raises RPCError (stopped) once it is stopped."""
        await self.due.wait()
        if self._stopped:
            raise RPCError("watcher was stopped", messages.STOPPED)
        self.due.clear()

    def stop(self) -> None:
        """Hear of nothing any more; whoever waits in `next` is told so."""
        self._stopped = True
        self._among.discard(self)
        self.due.set()

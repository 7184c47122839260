"""The replicated database inside a program of your own: one `DbAccessor` for each process, one process a controller.

    async with DbAccessor(Path("/var/lib/my-service"), version=1) as accessor:
        await accessor.create_database("inventory", schema.load(Path("patches")))
        inventory = accessor.database("inventory")
        await inventory.run(...)

The state directory holds `controller.conf` (docs/how-to/embed-dbaccessor.md), which says who the controllers are, and
what the node keeps. The node runs inside this process; leaving the block hands leadership over and stops it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from weakref import WeakValueDictionary

from dbaccessor import errors, retry
from dbaccessor.database import Database
from dbaccessor.namespaces import CONTROLLER, Namespaces
from dbaccessor.schema import Patch
from dbaccessor.worker import Worker

_LOCK = "controllerd.lock"
_LOOK_SECONDS = 0.05


class DbAccessor:
    """Owns the node of one state directory for as long as its block lasts.

    `version` is your program's: raise it with every release whose schema patches `needs version`. If the node ends
    for a reason that needs a new process, the block is cancelled and that reason raised.
    """

    def __init__(self, state_dir: Path, *, version: int = 0, ready_seconds: float = 60) -> None:
        self._state_dir = state_dir
        self._version = version
        self._ready_seconds = ready_seconds
        self._databases: dict[str, Database] = {}
        self._changing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._worker: Worker | None = None
        self._failure: BaseException | None = None

    async def __aenter__(self) -> DbAccessor:
        """Start, and return when this node serves. Raises NotReady, with the reason, after `ready_seconds`."""
        self._owner = asyncio.current_task()
        self._lock = contextlib.ExitStack()
        self._lock.enter_context(_locked(self._state_dir))
        self._worker = Worker(self._state_dir, self._version)
        self._namespaces = Namespaces(self._worker.database, self._version)
        self._task = asyncio.create_task(self._worker.run())
        self._task.add_done_callback(self._ended)
        try:
            await self._until_ready(self._worker)
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """The worker's task is over. If nobody asked for that, the block must not go on without its node."""
        self._failure = None if task.cancelled() else task.exception()
        if self._failure is not None and self._owner is not None:
            self._owner.cancel()

    async def _stop(self) -> None:
        for database in self._databases.values():
            database.close()
        try:
            if not self._task.done():
                await self._running.stop()
            await self._running.finish()
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        finally:
            self._lock.close()
        if self._failure is not None:
            if self._owner is not None:
                self._owner.uncancel()
            raise self._failure

    def database(self, name: str) -> Database:
        """Return the handle to a database, the same one each time. One that does not exist is Refused when used."""
        if name == CONTROLLER:
            return self._running.database(name)
        if name not in self._databases:

            async def gate(deadline: float) -> None:
                await self._namespaces.require(name, deadline_seconds=retry.left(deadline))

            self._databases[name] = self._running.new_database(name, gate)
        return self._databases[name]

    async def create_database(
        self, name: str, patches: Sequence[Patch] = (), *, deadline_seconds: float = 30
    ) -> tuple[Patch, ...]:
        """Make a database exist with this schema; idempotent, to be called at every start on every controller.

        Returns the patches that wait until every controller runs a newer version (schema).
        """
        async with self._alone(name):
            waiting = await self._namespaces.create(name, patches, deadline_seconds=deadline_seconds)
            self._running.forget_database(name)  # From here on it is used through `database`.
        return waiting

    async def delete_database(self, name: str, *, deadline_seconds: float = 30) -> None:
        """Delete a database and all that is in it; idempotent. Raises Refused for "controller"."""
        async with self._alone(name):
            await self._namespaces.delete(name, deadline_seconds=deadline_seconds)
            self._running.forget_database(name)
            if name in self._databases:
                self._databases.pop(name).close()
            self._running.metrics.forget(name)

    def _alone(self, name: str) -> asyncio.Lock:
        """One at a time for each database: who has made or deleted it closes the handle that all of them use."""
        return self._changing.setdefault(name, asyncio.Lock())

    async def databases(self, *, deadline_seconds: float = 10) -> tuple[str, ...]:
        """Return the names of all databases, "controller" first."""
        return await self._namespaces.names(deadline_seconds=deadline_seconds)

    def status(self) -> dict[str, Any]:
        """Return the node's part of the status document (docs/reference/status.md)."""
        return self._running.status()

    def nudge(self) -> None:
        """Look at controller.conf now instead of within two seconds. Callable from any thread."""
        self._running.nudge()

    @property
    def _running(self) -> Worker:
        if self._worker is None:
            raise errors.NotReady("the accessor is not entered yet")
        return self._worker

    async def _until_ready(self, worker: Worker) -> None:
        deadline = asyncio.get_running_loop().time() + self._ready_seconds
        while (status := worker.status())["state"] != "serving":
            if retry.left(deadline) <= 0:
                raise errors.NotReady(f"not ready after {self._ready_seconds:g} s: {status['reason']}")
            await asyncio.sleep(_LOOK_SECONDS)


@contextlib.contextmanager
def _locked(state_dir: Path) -> Iterator[None]:
    """Hold the lock that controllerd holds as well: one owner for one directory. Raises NotReady."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(state_dir / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise errors.NotReady(f"another process owns {state_dir}") from error
        yield
    finally:
        os.close(fd)

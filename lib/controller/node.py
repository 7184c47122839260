"""The db-accessor manifold: this controller's Dqlite node, and the databases that others get of it.

There is one node a process: what it raises needs a new process (the service manager's restart), so it is fatal here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from controller import schema
from controller.engine import Getter, Manifold, Missing, Worker
from dbaccessor import errors, retry
from dbaccessor import worker as dbworker
from dbaccessor.database import Database, Transaction
from dbaccessor.identity import Epoch, Identity
from dbaccessor.namespaces import CONTROLLER, Namespaces
from dbaccessor.schema import Patch

log = logging.getLogger(__name__)

NAME = "db-accessor"

_SERVING_SECONDS = 0.1


class Fatal(Exception):
    """Raised where only a new process helps. The engine stops everything, dependants first."""


class Node:
    """The worker of the node. Cancelled, it hands over what the node holds and stops it, before it ends."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.worker = dbworker.Worker(state_dir, schema.VERSION)
        self.databases = Databases(self.worker)
        self._started = False

    async def run(self) -> None:
        """Own the node until cancelled. Raises what needs a new process."""
        task = asyncio.create_task(self.worker.run(), name="dbaccessor")
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.done():
                await self._stop_in_order()
            raise
        finally:
            self.databases.close()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _stop_in_order(self) -> None:
        log.info("stopping the node")
        self.databases.close()  # Nobody uses them any more.
        await self.worker.stop()
        if self.worker.stuck:
            # A thread waits inside the library for ever; leaving it behind is the only way to end.
            log.error("the node did not come to an orderly end; ending without it")
            logging.shutdown()
            os._exit(1)

    def report(self) -> dict[str, Any]:
        """Return the node's part of the report (docs/reference/metrics.md)."""
        return self.worker.report()

    def manifold(self, *inputs: str) -> Manifold:
        """Return the one manifold that runs this node. `inputs` are those that must outlive it."""

        def start(get: Getter) -> Worker:
            for name in inputs:
                get(name, object)
            if self._started:
                raise Fatal("the node has ended, and one process starts it once")
            self._started = True
            return self

        return Manifold(start, inputs, output=lambda node: node.databases, filter=as_fatal)


def as_fatal(error: Exception) -> Exception:
    """A manifold's filter: whatever is wrong with this one needs a new process."""
    if isinstance(error, Missing | Fatal):
        return error
    reason: BaseException = error
    while isinstance(reason, BaseExceptionGroup) and len(reason.exceptions) == 1:
        reason = reason.exceptions[0]
    fatal = Fatal(str(reason) or type(reason).__name__)
    fatal.__cause__ = reason
    return fatal


class Databases:
    """The databases of the cluster, for every other worker. `identity` and `serving` tell about this node."""

    def __init__(self, worker: dbworker.Worker) -> None:
        self._worker = worker
        self._namespaces = Namespaces(worker.database, schema.VERSION)
        self._handles: dict[str, Database] = {}
        self._open = asyncio.Event()
        self._open.set()
        self._withdrawn = asyncio.Event()
        # Of those that are being made or deleted; a lock is there as long as somebody has it or waits for it.
        self._changing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def identity(self) -> Identity:
        """Who this node is in its cluster, now: the epoch rises under a running process. Raises NotReady."""
        identity = self._worker.identity
        if identity is None:
            raise errors.NotReady("this controller is in no cluster")
        return identity

    @property
    def network_latency_ms(self) -> int:
        """The latency setting, which every duration is scaled by."""
        return self._worker.network_latency_ms

    @property
    def epoch(self) -> Epoch | None:
        """The cluster's epoch, now; None while this node is in none."""
        return self._worker.epoch

    def withdraw(self) -> None:
        """Let whoever uses the databases stop, while they can still be used: this controller is about to leave."""
        self._open.clear()
        self._withdrawn.set()

    def offer_again(self) -> None:
        """Undo `withdraw`."""
        self._withdrawn.clear()
        self._open.set()

    async def until_withdrawn(self) -> None:
        """Return once they are withdrawn."""
        await self._withdrawn.wait()

    async def until_serving(self) -> Identity:
        """Return once this node serves. There is no limit: what it waits for stands in the status document."""
        while True:
            await self._open.wait()
            identity = self._worker.identity
            if self._worker.state == "serving" and identity is not None:
                return identity
            await asyncio.sleep(_SERVING_SECONDS)

    def database(self, name: str) -> Database:
        """Return the handle to a database, the same one each time. One that does not exist is Refused when used."""
        if name == CONTROLLER:
            return self._worker.database(name)
        if name not in self._handles:

            async def gate(deadline: float) -> None:
                await self._namespaces.require(name, deadline_seconds=retry.left(deadline))

            self._handles[name] = self._worker.new_database(name, gate)
        return self._handles[name]

    async def create(
        self,
        name: str,
        patches: Sequence[Patch],
        *,
        provided: Callable[[Transaction], Awaitable[None]] | None = None,
        deadline_seconds: float = 30,
    ) -> tuple[Patch, ...]:
        """Make a database exist with this schema; idempotent. `provided`: see Namespaces. Returns what waits."""
        async with self._alone(name):
            waiting = await self._namespaces.create(name, patches, provided=provided, deadline_seconds=deadline_seconds)
            self._worker.forget_database(name)  # From here on it is used through the handle that asks first.
        return waiting

    async def delete(self, name: str, *, deadline_seconds: float = 30) -> None:
        """Delete a database and all that is in it; idempotent. Raises Refused for "controller"."""
        async with self._alone(name):
            await self._namespaces.delete(name, deadline_seconds=deadline_seconds)
            self.forget(name)

    def _alone(self, name: str) -> asyncio.Lock:
        """One at a time for each database: who has made or deleted it closes the handle that all of them use."""
        return self._changing.setdefault(name, asyncio.Lock())

    async def names(self, *, deadline_seconds: float = 10) -> tuple[str, ...]:
        """Return the names of all databases, "controller" first."""
        return await self._namespaces.names(deadline_seconds=deadline_seconds)

    def close(self) -> None:
        """Close every handle, for good."""
        for database in self._handles.values():
            database.close()

    def forget(self, name: str) -> None:
        """Close the handles to a database that is gone, and end its series of metrics."""
        self._worker.forget_database(name)
        if name in self._handles:
            self._handles.pop(name).close()
        self._worker.metrics.forget(name)

"""Flow 3, hop 3: the lists that the address setter has published, as the API server hands them out and watches them.

One question each half second for all watchers of a controller, however many: the revision of the agents' list; and one
read for all who ask for the list then. Before anything is published, each controller is said to be where its node
listens.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final, Protocol

from controller.api import nodes, scopes
from controller.api.messages import HostPort, Servers
from controller.api.nodes import AGENTS, CLIENTS
from controller.api.together import Together
from controller.api.users import Runs
from controller.api.watching import Subject, SubjectWatcher
from dbaccessor import errors
from dbaccessor.database import Consistency, Transaction
from dbaccessor.dqlite.results import Rows
from dbaccessor.dqlite.wire import Parameters

log = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 0.5
_DEADLINE_SECONDS: Final = 5.0
_REVISION: Final = "SELECT revision, notes FROM api_servers WHERE audience = ?"


class Reads(Runs, Protocol):
    """What is needed of a Database."""

    async def read(
        self, sql: str, params: Parameters = (), *, consistency: Consistency = ..., deadline_seconds: float = ...
    ) -> Rows: ...


class PublishedAddresses:
    """The two lists. `run` keeps its watchers informed; `port` is where the API is before anything is published."""

    def __init__(self, database: Reads, port: int, *, look_seconds: float = _LOOK_SECONDS) -> None:
        self._database = database
        self._port = port
        self._look_seconds = look_seconds
        self._subject = Subject()
        self._revision: int | None = None
        self._notes: tuple[str, ...] = ()
        self._lists = {audience: Together(lambda a=audience: self._servers(a)) for audience in (AGENTS, CLIENTS)}  # type: ignore[misc]

    @property
    def notes(self) -> tuple[str, ...]:
        """What an operator should know of the agents' list, as `run` last saw it: a fallback, a controller left out."""
        return self._notes

    async def for_agents(self) -> Servers:
        """Return where agents are to go, a list for each controller."""
        return await self._lists[AGENTS].answer()

    async def for_clients(self) -> Servers:
        """Return where clients are to go, a list for each controller."""
        return await self._lists[CLIENTS].answer()

    def watch(self) -> SubjectWatcher:
        """Return a watcher of the agents' list."""
        return self._subject.watch()

    async def run(self) -> None:
        """Tell those who watch whenever the agents' list has changed, until cancelled."""
        while True:
            try:
                await self._look()
            except errors.DbAccessorError as error:
                log.debug("whether the list of addresses has changed is not known: %s", error)
            await asyncio.sleep(self._look_seconds)

    async def _look(self) -> None:
        # An old answer costs half a second, and confirming it would cost every voter a question.
        found = await self._database.read(
            _REVISION, (AGENTS,), consistency="leader", deadline_seconds=_DEADLINE_SECONDS
        )
        revision = int(str(found.rows[0][0])) if found.rows else 0
        self._notes = nodes.notes(found.rows[0][1]) if found.rows else ()
        if revision != self._revision:
            self._subject.changed()
        self._revision = revision

    async def _servers(self, audience: str) -> Servers:
        return await self._database.run(
            lambda tx: self._read(tx, audience), read_only=True, deadline_seconds=_DEADLINE_SECONDS
        )

    async def _read(self, tx: Transaction, audience: str) -> Servers:
        published = await nodes.published(tx, audience)
        if published is not None:
            return tuple(tuple(_host_port(a.host, a.port) for a in part.servers) for part in published.servers)
        found = await tx.query("SELECT dqlite_bind_address FROM controller_node ORDER BY controller_id")
        return tuple((_host_port(str(row[0]), self._port),) for row in found.rows if row[0])


def _host_port(host: str, port: int) -> HostPort:
    return HostPort(value=host, port=port, type=scopes.kind_of(host), scope=scopes.scope_of(host))

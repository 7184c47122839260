"""The program beside the cluster: it appends numbered rows, writes down what came of each, and watches who leads.

It runs in the run's namespaces and is no controller: it knows addresses and finds the leader as any client would.
Commands come as lines of JSON on stdin (the end of stdin is the end of the program); events go as lines of JSON to
stdout, each flushed before the next row is tried. `demo/history.py` reads them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from dbaccessor import errors, tls
from dbaccessor.database import Database, Transaction
from dbaccessor.dqlite.connection import Connection
from dbaccessor.identity import controller_of
from dbaccessor.leader import OutsideConnector
from demo import history

DATABASE = "demo"

_CREATE = "CREATE TABLE IF NOT EXISTS entry (number INTEGER NOT NULL PRIMARY KEY, times INTEGER NOT NULL)"
# A number applied twice must show: the key makes the row one, the counter tells how often.
_APPEND = "INSERT INTO entry (number, times) VALUES (?, 1) ON CONFLICT (number) DO UPDATE SET times = times + 1"

_ROW_SECONDS = 2.0  # How long one row may take, before it counts as refused.
_PAUSE_SECONDS = 0.02  # Between rows; also what a failover can be measured to.
_WATCH_SECONDS = 0.1
_READ_SECONDS = 20.0


class Outsider:
    """The writer and the watcher of one demo."""

    def __init__(self) -> None:
        self._addresses: dict[str, str] = {}
        # It has no certificate of its own: it shows that of a unit, as a program on that unit would.
        self._keyring = tls.Keyring(Path())
        self._connector = OutsideConnector(lambda: self._addresses, keyring=self._keyring)
        self._database = Database(self._connector, DATABASE)
        self._writing = asyncio.Event()
        self._number = 0
        self._table_made = False

    async def run(self, commands: asyncio.StreamReader) -> None:
        """Obey commands until their stream ends."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._write()), group.create_task(self._watch())]
            while command := await commands.readline():
                await self._obey(json.loads(command))
            for task in tasks:
                task.cancel()

    async def _obey(self, command: dict[str, Any]) -> None:
        match command["do"]:
            case "addresses":
                self._addresses = command["map"]
                self._keyring.directory = Path(command["certificates"])
            case "write":
                self._writing.set()
            case "rest":
                self._writing.clear()
            case "read":
                _tell("rows", **await self._read())
            case other:
                raise ValueError(f"unknown command {other!r}")

    async def _write(self) -> None:
        while True:
            if not self._writing.is_set():
                _tell("resting", at=time.monotonic())
                await self._writing.wait()
            if not self._table_made:
                await self._make_table()
            else:
                await self._append()
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _make_table(self) -> None:
        # Indefinite is as good as done or not done here: the statement may be repeated.
        with contextlib.suppress(errors.DbAccessorError):
            await self._database.run(lambda tx: tx.execute(_CREATE), deadline_seconds=_ROW_SECONDS)
            self._table_made = True

    async def _append(self) -> None:
        self._number += 1
        number = self._number  # Never used again, whatever comes of it.

        async def append(tx: Transaction) -> None:
            await tx.execute(_APPEND, [number])

        outcome: history.Outcome = "acknowledged"
        reason = ""
        sent = time.monotonic()
        try:
            await self._database.run(append, deadline_seconds=_ROW_SECONDS)
        except errors.Indefinite as error:
            outcome, reason = "indefinite", str(error)
        except errors.DbAccessorError as error:
            outcome, reason = "refused", str(error)
        _tell("write", number=number, outcome=outcome, sent=sent, done=time.monotonic(), reason=reason)

    async def _read(self) -> dict[str, Any]:
        deadline = time.monotonic() + _READ_SECONDS
        while True:
            try:
                rows = await self._database.read("SELECT number, times FROM entry ORDER BY number")
                return {"rows": [list(row) for row in rows.rows]}
            except errors.DbAccessorError as error:
                if time.monotonic() > deadline:
                    return {"error": str(error)}
                await asyncio.sleep(_WATCH_SECONDS)

    async def _watch(self) -> None:
        seen: dict[str, Any] = {}
        connection: Connection | None = None
        while True:
            try:
                if connection is None:
                    deadline = asyncio.get_running_loop().time() + 1.0
                    connection = await self._connector.to_leader(deadline=deadline)
                now = await _look(connection)
            except errors.DbAccessorError:
                now = {"leader": None, "roles": seen.get("roles", {})}
            if now["leader"] is None and connection is not None:
                connection.close()
                connection = None
            if now != seen:
                seen = now
                _tell("members", at=time.monotonic(), **now)
            await asyncio.sleep(_WATCH_SECONDS)


async def _look(connection: Connection) -> dict[str, Any]:
    leader = await connection.leader()
    roles = {controller_of(m.name): str(m.role) for m in await connection.cluster()}
    return {"leader": controller_of(leader[1]) if leader else None, "roles": dict(sorted(roles.items()))}


def _tell(event: str, **facts: Any) -> None:
    os.write(1, history.line(event, **facts))


async def _main() -> None:
    commands = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    await Outsider().run(commands)


if __name__ == "__main__":
    asyncio.run(_main())

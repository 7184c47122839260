"""Every database of the running cluster as one stream: what `POST /backup` sends.

Each database is one consistent snapshot, taken by the leader between two transactions. Two databases are not of the
same moment: no transaction spans two of them either.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass

from dbaccessor import archive, errors, retry
from dbaccessor.archive import Entry, Manifest
from dbaccessor.database import Connector, Database
from dbaccessor.dqlite.connection import Connection
from dbaccessor.dqlite.results import Rows
from dbaccessor.folding import Folding
from dbaccessor.identity import Identity

_CONNECT_SECONDS = 10.0
# The leader answers with the whole file at once; the rest is the reader's pace.
_DUMP_SECONDS = 600.0
_PARTS_AHEAD = 16
_CONTROLLER = "controller"


@dataclass(frozen=True)
class Facts:
    """What the manifest says beside the databases."""

    identity: Identity
    index: int
    version: str
    dqlite_version: str


async def names(controller_database: Database, *, deadline_seconds: float = 10) -> tuple[str, ...]:
    """Return the names of all databases that the cluster knows of, sorted, the controller's own first."""
    try:
        found = await controller_database.read(
            "SELECT namespace FROM namespace_list", deadline_seconds=deadline_seconds
        )
    except errors.Refused:  # No such table yet.
        return (_CONTROLLER,)
    return (_CONTROLLER, *sorted({str(row[0]) for row in found.rows} - {_CONTROLLER}))


async def stream(
    connector: Connector,
    confirm: Callable[[Connection, float], Awaitable[None]],
    wanted: Sequence[str],
    listed: Collection[str],
    facts: Facts,
) -> AsyncIterator[bytes]:
    """Yield the archive part by part. Raises DbAccessorError in the middle when a database cannot be read to its end.

    A database that is `listed` is there, as an empty one where nothing has made it yet; any other has to be.
    `confirm` makes sure, after a database was read, that its node was still the leader. Close the iterator in any case.
    """
    parts: asyncio.Queue[bytes | None] = asyncio.Queue(_PARTS_AHEAD)

    async def produce() -> None:
        try:
            entries = [await _dump(connector, confirm, name, name in listed, parts.put) for name in wanted]
            await parts.put(archive.ending(_manifest(facts, entries)))
        except Exception:
            # Whatever it is, whoever reads waits for the end, and then hears of it.
            await parts.put(None)
            raise
        await parts.put(None)

    task = asyncio.create_task(produce())
    try:
        while (part := await parts.get()) is not None:
            yield part
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _dump(
    connector: Connector,
    confirm: Callable[[Connection, float], Awaitable[None]],
    name: str,
    listed: bool,
    put: Callable[[bytes], Awaitable[None]],
) -> Entry:
    loop = asyncio.get_running_loop()
    digest, sizes = hashlib.sha256(), []
    connection = await connector.to_leader(deadline=loop.time() + _CONNECT_SECONDS)

    async def start(size: int) -> None:
        sizes.append(size)
        await put(archive.header(name, size))

    async def give(part: bytes) -> None:
        digest.update(part)
        await put(part)

    async with connection:
        if listed:
            await _open(connection, name)
        with contextlib.ExitStack() as held:
            folding: Folding | None = None

            async def begin(size: int, log_size: int) -> None:
                nonlocal folding
                if log_size:
                    folding = held.enter_context(Folding(size))
                else:
                    await start(size)

            async def write(part: bytes) -> None:
                await (give(part) if folding is None else asyncio.to_thread(folding.write, part))

            await connection.dump(name, begin, write, deadline_seconds=_DUMP_SECONDS)
            if folding is not None:
                await start(await asyncio.to_thread(folding.fold))
                while part := await asyncio.to_thread(folding.read):
                    await give(part)
        (size,) = sizes
        await put(archive.padding(size))
        await confirm(connection, loop.time() + _CONNECT_SECONDS)
        if not listed:
            await _open(connection, name)
        return Entry(name=name, size=size, sha256=digest.hexdigest(), patches=await _patches(connection))


async def _open(connection: Connection, name: str) -> None:
    """Open the database, and make the node have it with all that was committed. Only a leader does.

    A dump of one that no transaction has made is refused, and the list may name such a one (`namespaces` makes the row
    first). A name that is not in it may be a slip of the pen, which must not make a database: that is dumped before.
    """
    await connection.open_database(name, deadline_seconds=_CONNECT_SECONDS)
    await _ask(connection, "SELECT 1")


async def _patches(connection: Connection) -> int | None:
    """Return the number of the last schema patch. Only a leader answers: a deposed one is found out here at last."""
    try:
        found = await _ask(connection, "SELECT max(number) FROM schema_patch")
    except errors.Refused:
        await _ask(connection, "SELECT 1")
        return None
    value = found.rows[0][0]
    return value if isinstance(value, int) else None


async def _ask(connection: Connection, question: str) -> Rows:
    # Busy with a checkpoint is no reason to throw away all that was read; a connection that has ended is.
    deadline = asyncio.get_running_loop().time() + _CONNECT_SECONDS
    return await retry.until_done(
        lambda: connection.query(question, deadline_seconds=retry.left(deadline)),
        deadline,
        lambda: not connection.usable,
    )


def _manifest(facts: Facts, entries: Sequence[Entry]) -> Manifest:
    return Manifest(
        made=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        version=facts.version,
        dqlite_version=facts.dqlite_version,
        controller_id=facts.identity.controller_id,
        cluster_uuid=facts.identity.cluster_uuid,
        epoch=archive.Epoch(facts.identity.epoch.number, facts.identity.epoch.tag),
        index=facts.index,
        databases=tuple(entries),
    )

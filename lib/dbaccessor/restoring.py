"""Makes a fresh data directory hold an archive's content: `hactl restore`. Offline, to one node; others join it later.

A new cluster of one is founded in a staged directory, started for this process alone, and given every database
statement by statement. Before it takes the old directory's place, each table is compared with the archive.
"""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from dbaccessor import archive, content, offline, reconfigure, repair
from dbaccessor.archive import Manifest
from dbaccessor.dqlite import node
from dbaccessor.dqlite.connection import Connection
from dbaccessor.folding import Folding
from dbaccessor.identity import Epoch, Identity, Known, Store
from dbaccessor.offline import OfflineNode
from dbaccessor.repair import CannotRecover, Target

_CONTROLLER = "controller"
# One transaction is one entry of the log, which the library holds in memory.
_MOST_TRANSACTION_BYTES = 1 << 20
_TOLD_EVERY_ROWS = 100_000
# What tells who the members are must not come back with the content: it is written anew when the controller starts.
_MEMBERSHIP_TABLES = ("controller_node", "controller_dropped")


@dataclass(frozen=True)
class Restored:
    """Who this controller is now, and how many rows each database has."""

    identity: Identity
    rows: dict[str, int]


def restore(
    file: Path,
    into: Path,
    *,
    put_aside: bool,
    new_cluster: bool,
    force: bool,
    progress: Callable[[str], None],
) -> Restored:
    """Restore `file` into the state directory `into`, which the caller owns. Blocking.

    Raises BadArchive, CannotRecover or OSError, with everything as it was.
    """
    manifest, _ = archive.unpack(file, None)
    where = _target(into, manifest, new_cluster)
    if (where.store.has_files() or where.store.identity() is not None) and not put_aside:
        raise CannotRecover(f"{into} holds data: say --put-aside if it may go to {into / 'aside'}")
    where = repair.heed_others(where, force=force)
    identity = Identity(
        cluster_uuid=where.cluster_uuid,
        controller_id=where.controller_id,
        dqlite_id=node.new_id(),
        epoch=repair.new_epoch(manifest.epoch.number + 1, where),
        state="member",
    )
    rows: dict[str, int] = {}
    left: list[Known] = []

    def build(staging: Path) -> None:
        _, files = archive.unpack(file, where.store.make_unpacked())
        for name, path in files.items():
            archive.check_database(name, path)
        node.bootstrap(staging, identity.dqlite_id, identity.name)
        rows.update(asyncio.run(_fill(staging, identity, files, where.store, progress)))

    if not new_cluster:
        left += _members_of(file, where.store, identity.controller_id)
    with repair.said_truly(where.store, identity, f"{file} cannot be restored"):
        done = reconfigure.replace_data(where.store, "restore", identity, tuple(left), build)
    return Restored(done, rows)


def _target(into: Path, manifest: Manifest, new_cluster: bool) -> Target:
    if not new_cluster:
        known = Identity(
            cluster_uuid=manifest.cluster_uuid,
            controller_id=manifest.controller_id,
            dqlite_id=0,
            epoch=Epoch(manifest.epoch.number, manifest.epoch.tag),
        )
        try:
            return repair.target(into, known)
        except CannotRecover as error:
            raise CannotRecover(f"{error}; or found another cluster with this content, with --new-cluster") from error
    configuration = repair.configuration_of(into)
    wanted = (configuration.cluster_uuid if configuration is not None else "") or str(uuid.uuid4())
    if wanted == manifest.cluster_uuid:
        raise CannotRecover(f"the configuration in {into} names the archive's own cluster: leave --new-cluster away")
    return repair.target(into, None, cluster_uuid=wanted)


def _members_of(file: Path, store: Store, own: str) -> list[Known]:
    """Return the members that the archive knows: they are left behind, and told so when they come back."""
    try:
        _, files = archive.unpack(file, store.make_unpacked())
        if _CONTROLLER not in files or not files[_CONTROLLER].stat().st_size:
            return []
        with closing(archive.open_database(files[_CONTROLLER])) as database:
            found = database.execute("SELECT controller_id, name, dqlite_bind_address FROM controller_node").fetchall()
    except sqlite3.Error:
        return []
    finally:
        store.delete_staging()
    return [Known(str(i), str(n), str(a)) for i, n, a in found if str(i) != own]


async def _fill(
    staging: Path, identity: Identity, files: Mapping[str, Path], store: Store, progress: Callable[[str], None]
) -> dict[str, int]:
    rows = {}
    async with offline.running(staging, identity.dqlite_id, identity.name) as running:
        for name, path in files.items():
            rows[name] = await _fill_one(running, name, path, store.unpacked_dir / f"{name}.again", progress)
    return rows


async def _fill_one(running: OfflineNode, name: str, path: Path, again: Path, progress: Callable[[str], None]) -> int:
    if not path.stat().st_size:
        return 0
    with closing(content.open_values(archive.open_database(path))) as source:
        wanted = content.digests(source)
        async with await running.connect() as connection:
            await connection.open_database(name)
            await _replay(connection, source, name, progress)
        await _dump(running, name, again)
        with closing(content.open_values(archive.open_database(again))) as copy:
            found = content.digests(copy)
        again.unlink()
    for table, digest in wanted.items():
        if found.get(table) != digest:
            what = f"table {table}" if table else "the schema"
            raise CannotRecover(f"database {name}: {what} did not come out as it is in the archive")
    if found.keys() != wanted.keys():
        raise CannotRecover(f"database {name} came out with other tables than the archive has")
    if name == _CONTROLLER:
        async with await running.connect() as connection:
            await connection.open_database(name)
            for table in _MEMBERSHIP_TABLES:
                if table in wanted:
                    await connection.replay(f"DELETE FROM {table}")
    return sum(digest.rows for table, digest in wanted.items() if table and not table.startswith("sqlite_"))


async def _replay(
    connection: Connection, source: sqlite3.Connection, name: str, progress: Callable[[str], None]
) -> None:
    # Rows arrive table by table: what they refer to may come later.
    await connection.replay("PRAGMA foreign_keys = OFF")
    size = rows = told = 0
    open_ = False
    for statement in content.statements(source):
        if not open_:
            await connection.replay("BEGIN")
            open_ = True
        await connection.replay(statement.sql, statement.params)
        size += statement.bytes
        rows += statement.rows
        # Each object of the schema is a transaction of its own.
        if size >= _MOST_TRANSACTION_BYTES or not statement.rows:
            await connection.replay("COMMIT")
            size, open_ = 0, False
        if rows - told >= _TOLD_EVERY_ROWS:
            told = rows
            progress(f"{name}: {rows} rows so far")
    if open_:
        await connection.replay("COMMIT")


async def _dump(running: OfflineNode, name: str, target: Path) -> None:
    with target.open("wb") as out, ExitStack() as held:
        folding: Folding | None = None

        async def begin(size: int, log_size: int) -> None:
            nonlocal folding
            folding = held.enter_context(Folding(size)) if log_size else None

        async def write(part: bytes) -> None:
            out.write(part) if folding is None else folding.write(part)

        async with await running.connect() as connection:
            await connection.dump(name, begin, write)
        if folding is not None:
            folding.fold()
            while part := folding.read():
                out.write(part)

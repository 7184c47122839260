"""A write-ahead log of more than two parts of an index: the library alone does not survive it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sqlite3
import struct
import time
from contextlib import closing
from pathlib import Path

import pytest

from dbaccessor import errors
from dbaccessor.dqlite import native
from dbaccessor.dqlite.connection import Connection
from dqlitenodes import InProcess, Processes
from libraryversion import wal_index_in_files

_ROWS = 1500
# The third part of a wal-index begins here, and a new reader asks for it before the second.
_LIMIT_FRAMES = 8158


def frames(pid: int) -> int:
    """Return the length of the longest write-ahead log in that process, 0 where none can be seen."""
    lengths = [0]
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # A connection may end meanwhile.
            if str(entry.readlink()).startswith("/memfd:dqlite-shm"):
                header = entry.read_bytes()[:20]
                lengths += struct.unpack_from("=I", header, 16) if len(header) == 20 else ()
    return max(lengths)


async def opened(three: Processes, leader: int) -> Connection:
    connection = await Connection.open(*await three.streams(leader), deadline_seconds=20)
    try:
        await connection.open_database("t")
    except errors.DbAccessorError:
        connection.close()
        raise
    return connection


async def fill(writer: Connection) -> None:
    await writer.execute("CREATE TABLE IF NOT EXISTS big (id INTEGER NOT NULL PRIMARY KEY, n INTEGER, pad TEXT)")
    await writer.execute("DELETE FROM big")
    for _ in range(10):
        await writer.execute(
            "INSERT INTO big (n, pad) WITH RECURSIVE s (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s"
            f" WHERE i < {_ROWS // 10}) SELECT 0, hex(zeroblob(1800)) FROM s"
        )


async def lengthen(three: Processes, leader: int, writer: Connection, reader: Connection, limit: int) -> int:
    """Write while somebody reads, until the log is longer than that. Return its length."""
    await reader.execute("BEGIN")
    await reader.query("SELECT n FROM big WHERE id = 1")  # From here on no checkpoint is possible.
    length = 0
    for _ in range(2 * limit * 20 // _ROWS):
        await writer.execute("UPDATE big SET n = n + 1 WHERE id % 20 = 0")
        length = frames(three.children[leader].pid)
        if length > limit:
            return length
    raise AssertionError(f"the log has {length} frames only")


async def sum_and_count(connection: Connection) -> tuple[object, ...]:
    return tuple((await connection.query("SELECT sum(n), count(*) FROM big")).rows[0])


async def led_on(three: Processes, length: int) -> None:
    """One long log: its leader answers who is new, who has long been idle, and who writes, and so does the next one."""
    leader = await three.wait_for_leader()
    async with await opened(three, leader) as writer, await opened(three, leader) as idle:
        await fill(writer)
        assert await sum_and_count(idle) == (0, _ROWS)  # It has the first part of the index, and asks no more for now.
        async with await opened(three, leader) as reader:
            await lengthen(three, leader, writer, reader, length)
            async with await opened(three, leader) as newcomer:
                wanted = await sum_and_count(newcomer)
                assert wanted[1] == _ROWS
                assert await sum_and_count(idle) == wanted
                assert await sum_and_count(writer) == wanted
                # A writer that has only the beginning of the index goes on at its end.
                await newcomer.execute("UPDATE big SET n = n + 1 WHERE id % 20 = 0")
                wanted = (wanted[0] + _ROWS // 20, _ROWS)
                assert await sum_and_count(idle) == wanted
                assert await sum_and_count(reader) == (0, _ROWS)  # And still as it was when this one began.
            # Whoever leads next has a log as long, and no connection that ever saw a part of its index. Nor has this
            # one when it leads again.
            heir = next(index for index in three.ids if index != leader)
            for giver, taker in ((leader, heir), (heir, leader)):
                async with three.connect(giver) as connection:
                    await connection.transfer(three.ids[taker])
                assert await three.wait_for_leader(other_than=giver) == taker
                async with await opened(three, taker) as connection:
                    assert await sum_and_count(connection) == wanted
    assert await asyncio.to_thread(three.command, leader, "stop") == "stopped"
    assert await asyncio.to_thread(three.children[leader].wait, 10) == 0


@wal_index_in_files
def test_a_leader_whose_log_is_longer_than_four_parts_of_an_index_goes_on(three: Processes):
    async def story() -> None:
        await three.grow()
        for attempt in range(5):
            await three.wait_for_roles(3, 0)
            try:
                return await led_on(three, 2 * _LIMIT_FRAMES)
            except (errors.Indefinite, errors.NotLeader, errors.NotReady):
                # On a machine with other work the leader may have changed meanwhile: again, with whoever leads now.
                assert attempt < 4
                assert all(child.poll() is None for child in three.children.values())
        raise AssertionError("no leader stays long enough")

    asyncio.run(story())


def test_one_transaction_may_be_longer_than_that_while_somebody_reads(nodes: InProcess):
    """80 MiB at once, and readers that come anew all the time."""
    answers = []

    async def read_on() -> None:
        while True:
            with contextlib.suppress(errors.NotReady):  # Busy with a checkpoint.
                async with nodes.connect(0, seconds=60) as newcomer:
                    await newcomer.open_database("t")
                    answers.append((await newcomer.query("SELECT count(*) FROM big")).rows[0][0])

    async def story() -> None:
        await nodes.grow(1)
        async with nodes.connect(0, seconds=60) as writer, nodes.connect(0, seconds=60) as reader:
            await writer.open_database("t")
            await writer.execute("CREATE TABLE big (id INTEGER NOT NULL PRIMARY KEY, pad BLOB)")
            await reader.open_database("t")
            await reader.execute("BEGIN")
            assert (await reader.query("SELECT count(*) FROM big")).rows[0][0] == 0
            beside = asyncio.create_task(read_on())
            deadline = time.monotonic() + 30
            while not answers:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)
            await writer.execute(
                "INSERT INTO big (pad) WITH RECURSIVE s (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 80)"
                " SELECT zeroblob(1024 * 1024) FROM s"
            )
            while answers[-1] != 80:
                assert not beside.done(), beside
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)
            beside.cancel()
            assert (await reader.query("SELECT count(*) FROM big")).rows[0][0] == 0
        async with nodes.connect(0, seconds=60) as later:
            await later.open_database("t")
            await later.execute("UPDATE big SET pad = zeroblob(10) WHERE id = 1")
            assert (await later.query("SELECT count(*), min(length(pad)) FROM big")).rows[0] == (80, 10)

    asyncio.run(story())

    assert set(answers) == {0, 80}, "readers came before it and after it"


def test_other_connections_of_the_process_are_as_they_were(tmp_path: Path):
    """Every connection is looked at when it is opened, Python's own too; those are SQLite's business alone."""
    assert native.load().guarded
    with closing(sqlite3.connect(tmp_path / "own")) as one, closing(sqlite3.connect(tmp_path / "own")) as other:
        one.execute("PRAGMA journal_mode = WAL")
        one.execute("CREATE TABLE t (n INTEGER)")
        one.commit()
        one.execute("INSERT INTO t SELECT 1")
        assert other.execute("SELECT count(*) FROM t").fetchone() == (0,)
        one.commit()
        assert other.execute("SELECT count(*) FROM t").fetchone() == (1,)
    with closing(sqlite3.connect(":memory:")) as memory:
        assert memory.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.long
@wal_index_in_files
def test_the_library_alone_does_not_survive_it(tmp_path: Path):
    """So that the day it does is noticed: shmorder.py is there because of this."""
    three = Processes(tmp_path, 3, guarded=False)

    async def story() -> tuple[int, int | None]:
        await three.grow()
        await three.wait_for_roles(3, 0)
        for _ in range(10):
            leader = await three.wait_for_leader()
            try:
                async with await opened(three, leader) as writer, await opened(three, leader) as reader:
                    await fill(writer)
                    length = await lengthen(three, leader, writer, reader, _LIMIT_FRAMES)
                    with pytest.raises(errors.DbAccessorError):
                        async with await opened(three, leader) as newcomer:
                            await newcomer.query("SELECT count(*) FROM big")
                return length, await asyncio.to_thread(three.children[leader].wait, 10)
            except (errors.Indefinite, errors.NotLeader, errors.NotReady):
                assert three.children[leader].poll() is None
        raise AssertionError("no leader stays long enough")

    try:
        length, status = asyncio.run(story())
    finally:
        three.close()

    assert status == -signal.SIGABRT, f"it survives a log of {length} frames: shmorder.py may not be needed any more"

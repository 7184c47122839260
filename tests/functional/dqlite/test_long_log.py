"""What the library does not survive, so that the day it does is noticed: logwatch.py is there because of this."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import struct
from pathlib import Path

import pytest

from dbaccessor import errors
from dbaccessor.dqlite.connection import Connection
from dqlitenodes import Processes

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


async def lengthen(three: Processes, leader: int, writer: Connection, reader: Connection) -> int:
    """Write while somebody reads, until the log is longer than the limit. Return its length."""
    await writer.execute("CREATE TABLE IF NOT EXISTS big (id INTEGER NOT NULL PRIMARY KEY, n INTEGER, pad TEXT)")
    for _ in range(10):
        await writer.execute(
            "INSERT INTO big (n, pad) WITH RECURSIVE s (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s"
            f" WHERE i < {_ROWS // 10}) SELECT 0, hex(zeroblob(1800)) FROM s"
        )
    await reader.execute("BEGIN")
    await reader.query("SELECT n FROM big WHERE id = 1")  # From here on no checkpoint is possible.
    length = 0
    for _ in range(2 * _LIMIT_FRAMES * 20 // _ROWS):
        await writer.execute("UPDATE big SET n = n + 1 WHERE id % 20 = 0")
        length = frames(three.children[leader].pid)
        if length > _LIMIT_FRAMES:
            return length
    pytest.skip(f"this libdqlite keeps the index elsewhere: {length} frames are seen")


@pytest.mark.long
def test_a_new_reader_aborts_a_leader_whose_log_is_longer_than_two_parts_of_an_index(three: Processes):
    async def story() -> tuple[int, int | None]:
        await three.grow()
        await three.wait_for_roles(3, 0)
        for _ in range(10):
            leader = await three.wait_for_leader()
            try:
                async with await opened(three, leader) as writer, await opened(three, leader) as reader:
                    length = await lengthen(three, leader, writer, reader)
                    with pytest.raises(errors.DbAccessorError):
                        async with await opened(three, leader) as newcomer:
                            await newcomer.query("SELECT count(*) FROM big")
                return length, await asyncio.to_thread(three.children[leader].wait, 10)
            except (errors.Indefinite, errors.NotLeader, errors.NotReady):
                # On a machine with other work the leader may have changed meanwhile: again, with whoever leads now.
                assert three.children[leader].poll() is None
        raise AssertionError("no leader stays long enough")

    length, status = asyncio.run(story())

    assert status == -signal.SIGABRT, f"it survives a log of {length} frames: logwatch.py may not be needed any more"

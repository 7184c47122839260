"""What the library does not survive, so that the day it does is noticed: logwatch.py is there because of this."""

from __future__ import annotations

import asyncio
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


@pytest.mark.long
def test_a_new_reader_aborts_a_leader_whose_log_is_longer_than_two_parts_of_an_index(three: Processes):
    async def story() -> tuple[int, int | None]:
        await three.grow()
        await three.wait_for_roles(3, 0)
        leader = await three.wait_for_leader()
        process = three.children[leader]
        async with await opened(three, leader) as writer, await opened(three, leader) as reader:
            await writer.execute("CREATE TABLE big (id INTEGER NOT NULL PRIMARY KEY, n INTEGER, pad TEXT)")
            await writer.execute(
                "INSERT INTO big (n, pad) WITH RECURSIVE s (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s"
                f" WHERE i < {_ROWS}) SELECT 0, hex(zeroblob(1800)) FROM s"
            )
            await reader.execute("BEGIN")
            await reader.query("SELECT n FROM big WHERE id = 1")  # From here on no checkpoint is possible.
            for _ in range(2 * _LIMIT_FRAMES * 5 // _ROWS):
                if (length := frames(process.pid)) > _LIMIT_FRAMES:
                    break
                await writer.execute("UPDATE big SET n = n + 1 WHERE id % 5 = 0")
            else:
                pytest.skip(f"this libdqlite keeps the index elsewhere: {length} frames are seen")
            with pytest.raises(errors.DbAccessorError):
                async with await opened(three, leader) as newcomer:
                    await newcomer.query("SELECT count(*) FROM big")
        return length, await asyncio.to_thread(process.wait, 10)

    length, status = asyncio.run(story())

    assert status == -signal.SIGABRT, f"it survives a log of {length} frames: logwatch.py may not be needed any more"

"""What nodedir reads from files, against what the library itself says of them."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from dbaccessor.dqlite import node, nodedir
from dqlitenodes import InProcess

# Beyond the 1024 entries after which the library takes a snapshot and throws old segments away.
WRITES = 2500


@pytest.mark.parametrize("writes", [0, 1, 100, WRITES])
def test_the_last_index_beside_a_running_node_is_the_one_that_the_library_tells_after_the_stop(
    nodes: InProcess, writes: int
):
    directory = nodes.directory(0)

    async def play() -> nodedir.LastEntry:
        await asyncio.to_thread(nodes.found)
        await nodes.wait_for_leader()
        seen = [nodedir.last_index_on_disk(directory)]
        async with nodes.connect(0) as connection:
            await connection.open_database("data")
            await connection.execute("CREATE TABLE t(a INTEGER PRIMARY KEY, b)")
            before = nodedir.last_index_on_disk(directory)
            for number in range(1, writes + 1):
                await connection.execute("INSERT INTO t(b) VALUES(?)", ("x" * (number % 4000),))
                if number % 50 == 0:
                    # An acknowledged entry is on the disk of the only voter.
                    assert nodedir.last_index_on_disk(directory) >= before + number
                    seen.append(nodedir.last_index_on_disk(directory))
        assert seen == sorted(seen)
        return nodedir.last_entry_on_disk(directory)

    live = asyncio.run(play())
    has_snapshot = any(file.name.startswith("snapshot-") for file in directory.iterdir())
    nodes.stop(0)

    stopped = nodedir.last_entry_on_disk(directory)
    told = node.last_entry(directory, nodes.ids[0], nodes.name(0))
    assert live == stopped == told
    assert told.index >= writes + 3
    assert has_snapshot == (writes == WRITES)


def test_a_directory_copied_from_under_a_running_node_reads_the_same_as_the_library_reads_it(
    nodes: InProcess, tmp_path: Path
):
    copies = [tmp_path / f"copy-{number}" for number in range(10)]

    async def play() -> None:
        await asyncio.to_thread(nodes.found)
        await nodes.wait_for_leader()
        async with nodes.connect(0) as connection:
            await connection.open_database("data")
            await connection.execute("CREATE TABLE t(a)")
            for copy in copies:
                writing = asyncio.gather(*(connection.execute("INSERT INTO t VALUES(1)") for _ in range(30)))
                await asyncio.to_thread(shutil.copytree, nodes.directory(0), copy)
                await writing

    asyncio.run(play())
    read = [nodedir.last_entry_on_disk(copy) for copy in copies]
    told = [node.last_entry(copy, nodes.ids[0], nodes.name(0)) for copy in copies]
    # The library has closed by now what the copies held open; that must not matter either.
    again = [nodedir.last_entry_on_disk(copy) for copy in copies]
    assert read == told == again == sorted(read)
    assert read[0] < read[-1]


def test_a_follower_has_what_was_acknowledged_by_all(nodes: InProcess):
    async def play() -> None:
        await nodes.grow(3)
        await nodes.wait_for_roles(3, 0)
        async with nodes.connect(await nodes.wait_for_leader()) as connection:
            await connection.open_database("data")
            await connection.execute("CREATE TABLE t(a)")
            for _ in range(50):
                await connection.execute("INSERT INTO t VALUES(1)")
        for index in range(3):
            await asyncio.to_thread(nodes.stop, index)

    asyncio.run(play())
    told = [node.last_entry(nodes.directory(i), nodes.ids[i], nodes.name(i)) for i in range(3)]
    read = [nodedir.last_index_on_disk(nodes.directory(i)) for i in range(3)]
    assert read == [entry.index for entry in told]
    assert sorted(read)[1] >= 50

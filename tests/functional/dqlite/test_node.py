"""One real node: founding, starting, stopping, refusing, recovering."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dbaccessor import errors
from dbaccessor.dqlite import native, node, nodedir
from dbaccessor.dqlite.connection import Member, Role
from dqlitenodes import InProcess, until


def test_the_library_is_new_enough_and_says_its_version():
    library = native.load()

    assert library.version_info >= native.OLDEST
    assert library.has("dqlite_node_start")
    assert not library.has("dqlite_node_fly")


def test_a_founded_cluster_has_one_voter_under_the_random_id(nodes: InProcess):
    nodes.found()

    async def look() -> tuple[int, tuple[Member, ...]]:
        return await nodes.wait_for_leader(), await nodes.members()

    leader, members = asyncio.run(look())

    assert leader == 0
    assert members == (Member(nodes.ids[0], nodes.name(0), Role.VOTER),)
    assert not node.is_founding_id(nodes.ids[0])


def test_founding_leaves_a_log_of_two_entries_of_term_one(nodes: InProcess, tmp_path: Path):
    """Entry 1 names the founding id as the only member, entry 2 replaces it by the random one."""
    directory = tmp_path / "founded"
    directory.mkdir()

    node.bootstrap(directory, 4711, "controller-0-4711")

    assert node.last_entry(directory, 4711, "controller-0-4711") == nodedir.LastEntry(index=2, term=1)
    assert nodedir.last_index_on_disk(directory) == 2


def test_an_empty_directory_under_a_random_id_founds_nothing_and_under_a_founding_id_it_does(nodes: InProcess):
    nodes.ids = {0: node.new_id(), 1: node.BOOTSTRAP_ID}
    nodes.start(0)
    nodes.start(1)

    async def look() -> None:
        # The founding id shows that this test would see a second cluster: it leads within milliseconds.
        assert await nodes.wait_for_leader() == 1
        deadline = time.monotonic() + 1.5
        async with nodes.connect(0) as connection:
            while time.monotonic() < deadline:
                assert await connection.leader() is None
                assert await connection.cluster() == ()
                await asyncio.sleep(0.02)
            with pytest.raises(errors.NotLeader):
                await connection.open_database("data")
                await connection.query("SELECT 1")  # Older libraries open it, and say so only now.

    asyncio.run(look())


def test_the_founder_whose_directory_was_wiped_founds_no_second_cluster(nodes: InProcess):
    nodes.found()
    asyncio.run(nodes.wait_for_leader())
    nodes.stop(0)
    for file in nodes.directory(0).iterdir():
        file.unlink()
    assert not nodedir.has_data(nodes.directory(0))

    nodes.start(0)

    async def look() -> None:
        deadline = time.monotonic() + 1.5
        async with nodes.connect(0) as connection:
            while time.monotonic() < deadline:
                assert await connection.leader() is None
                await asyncio.sleep(0.02)
            assert await connection.cluster() == ()

    asyncio.run(look())
    nodes.stop(0)
    assert not nodedir.has_data(nodes.directory(0))


def test_a_node_starts_again_after_a_stop_with_the_same_object_and_address(nodes: InProcess):
    founded = nodes.found()
    for _ in range(3):
        founded.stop()
        assert not founded.running
        founded.stop()
        founded.start()
        assert asyncio.run(nodes.wait_for_leader()) == 0

    with pytest.raises(errors.Refused, match="running already"):
        founded.start()


def test_handover_of_the_only_member_says_false(nodes: InProcess):
    founded = nodes.found()
    asyncio.run(nodes.wait_for_leader())

    assert founded.handover() is False

    founded.stop()
    assert founded.handover() is False


def test_a_directory_that_another_node_uses_is_not_ready(nodes: InProcess):
    nodes.found()
    rival = node.Node(
        nodes.ids[0], nodes.name(0), nodes.directory(0), bind_address="@rival-of-a-test", connect=nodes.dial
    )

    with pytest.raises(errors.NotReady, match="uses"):
        rival.start()
    with pytest.raises(errors.NotReady, match="uses"):
        node.recover(nodes.directory(0), nodes.ids[0], nodes.name(0))
    with pytest.raises(errors.NotReady, match="uses"):
        node.last_entry(nodes.directory(0), nodes.ids[0], nodes.name(0))

    nodes.stop(0)
    rival.start()
    rival.stop()


def test_a_corrupt_segment_is_refused_and_kept_and_the_address_is_free_again(nodes: InProcess):
    founded = nodes.found()
    asyncio.run(nodes.wait_for_leader())
    founded.stop()
    segment = nodes.directory(0) / "0000000000000001-0000000000000001"
    good = segment.read_bytes()
    bad = bytearray(good)
    bad[-1] ^= 0xFF
    segment.write_bytes(bad)

    for _ in range(2):
        with pytest.raises(errors.Refused, match="checksum"):
            founded.start()

    assert segment.read_bytes() == bad
    segment.write_bytes(good)
    founded.start()
    assert asyncio.run(nodes.wait_for_leader()) == 0


def test_an_address_that_is_taken_is_not_ready(nodes: InProcess):
    nodes.found()
    nodes.ids[1] = node.new_id()
    nodes.directory(1).mkdir()
    taken = node.Node(
        nodes.ids[1],
        nodes.name(1),
        nodes.directory(1),
        bind_address="@" + nodes.socket_name(0),
        connect=nodes.dial,
    )

    with pytest.raises(errors.NotReady, match="bind"):
        taken.start()

    # The other node's socket, which has that address, was left alone.
    assert asyncio.run(nodes.wait_for_leader()) == 0


def test_an_unexpected_error_in_the_connect_function_is_logged_and_goes_no_further(
    nodes: InProcess, caplog: pytest.LogCaptureFixture
):
    def broken(name: str) -> int:
        raise ZeroDivisionError(name)

    async def look() -> None:
        await asyncio.to_thread(nodes.found, 0, connect=broken)
        await asyncio.to_thread(nodes.start, 1)
        await nodes.join(1)

        async def logged() -> bool:
            return any("unexpected" in record.message for record in caplog.records)

        with caplog.at_level(logging.ERROR, logger="dbaccessor.dqlite.node"):
            await until(logged, "a log record")
        # It may have lost its leadership by now, since it cannot reach the voter it made; it answers all the same.
        assert await nodes.leader() in (0, None)

    asyncio.run(look())


def test_a_survivor_of_two_is_writable_again_after_recovery(nodes: InProcess):
    async def play() -> None:
        await nodes.grow(2)
        await nodes.wait_for_roles(2, 0)
        leader = await nodes.wait_for_leader()
        async with nodes.connect(leader) as connection:
            await connection.open_database("data")
            await connection.execute("CREATE TABLE t(a INTEGER)")
            await connection.execute("INSERT INTO t VALUES(7)")
        survivor = 1 - leader
        last = nodedir.last_index_on_disk(nodes.directory(leader))

        async def caught_up() -> bool:
            return nodedir.last_index_on_disk(nodes.directory(survivor)) >= last

        await until(caught_up, "the survivor having all entries")
        await asyncio.to_thread(nodes.stop, leader)
        await asyncio.to_thread(nodes.stop, survivor)
        before = node.last_entry(nodes.directory(survivor), nodes.ids[survivor], nodes.name(survivor))

        node.recover(nodes.directory(survivor), nodes.ids[survivor], nodes.name(survivor))

        after = node.last_entry(nodes.directory(survivor), nodes.ids[survivor], nodes.name(survivor))
        assert after == nodedir.LastEntry(index=before.index + 1, term=1)
        await asyncio.to_thread(nodes.start, survivor)
        assert await nodes.wait_for_leader() == survivor
        assert [m.dqlite_id for m in await nodes.members()] == [nodes.ids[survivor]]
        async with nodes.connect(survivor) as connection:
            await connection.open_database("data")
            await connection.execute("INSERT INTO t VALUES(8)")
            assert (await connection.query("SELECT a FROM t ORDER BY a")).rows == ((7,), (8,))

    asyncio.run(play())


def test_a_missing_library_is_an_error_that_names_the_version_needed():
    code = (
        "from dbaccessor import errors\n"
        "from dbaccessor.dqlite import native\n"
        "try:\n    native.load()\n"
        "except errors.LibraryTooOld as error:\n    print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={"HA_CONTROLLER_LIBDQLITE": "libno-such-thing.so", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert "1.18.0 is needed" in result.stdout
    assert "libno-such-thing.so" in result.stdout

"""Where the own log ends: told only while it stands still, and only where it is surely known."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from dbaccessor.dqlite import nodedir, raftformat
from dbaccessor.dqlite.nodedir import LastEntry
from dbaccessor.logend import UNKNOWN, End, LogEnd
from situations import E2, ME


def segment(directory: Path, *terms: int) -> Path:
    """A segment with one batch for each of these terms."""
    content = raftformat.WORD.pack(raftformat.FORMAT)
    for term in terms:
        head, data = raftformat.WORD.pack(1) + raftformat.ENTRY.pack(term, 1, 8), b"\x07" * 8
        content += raftformat.CHECKSUMS.pack(nodedir.checksum(head), nodedir.checksum(data)) + head + data
    path = directory / f"{1:016d}-{len(terms):016d}"
    path.write_bytes(content)
    return path


async def look(
    end: LogEnd, *, running: bool = False, role: str = "voter", silent_seconds: float = 0.0, hold_seconds: float = 0.0
) -> End:
    await end.look(ME, role, running=running, silent_seconds=silent_seconds, hold_seconds=hold_seconds)
    return end.of(ME, running=running)


def test_a_node_that_runs_tells_it_once_it_has_had_no_leader_for_the_hold(tmp_path: Path):
    segment(tmp_path, 1, 1, 2)

    async def story() -> None:
        end = LogEnd(tmp_path)
        assert await look(end, running=True, silent_seconds=2.9, hold_seconds=3.0) == UNKNOWN
        assert await look(end, running=True, silent_seconds=3.0, hold_seconds=3.0) == End(LastEntry(2, 3))
        assert await look(end, running=True, silent_seconds=0.0, hold_seconds=3.0) == UNKNOWN

    asyncio.run(story())


def test_a_stopped_node_tells_it_once_it_has_been_stopped_for_the_hold(tmp_path: Path):
    segment(tmp_path, 1, 1, 2)

    async def story() -> None:
        end = LogEnd(tmp_path)
        assert await look(end, hold_seconds=1000.0) == UNKNOWN
        assert await look(end) == End(LastEntry(2, 3))
        assert await look(end, running=True) == End(LastEntry(2, 3))
        assert await look(end, hold_seconds=1000.0) == UNKNOWN, "it ran meanwhile"

    asyncio.run(story())


def test_a_stopped_nodes_log_is_read_once(tmp_path: Path):
    path = segment(tmp_path, 1)

    async def story() -> None:
        end = LogEnd(tmp_path)
        assert await look(end) == End(LastEntry(1, 1))
        path.unlink()
        assert await look(end) == End(LastEntry(1, 1))

    asyncio.run(story())


def test_what_stands_behind_a_damage_is_not_known_and_so_the_end_is_not(tmp_path: Path):
    path = segment(tmp_path, 1, 1, 2)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

    assert asyncio.run(_one_look(tmp_path, "spare")) == UNKNOWN


def test_a_disk_that_cannot_be_read_is_no_reason_not_to_go_on(tmp_path: Path):
    (tmp_path / f"{1:016d}-{3:016d}").mkdir()

    assert asyncio.run(_one_look(tmp_path, "spare")) == UNKNOWN


@pytest.mark.parametrize(("role", "empty"), [("voter", False), ("spare", True), ("", True)])
@pytest.mark.parametrize("running", [False, True])
def test_no_entry_at_all_is_told_of_a_node_without_a_vote(tmp_path: Path, running: bool, role: str, empty: bool):
    async def story() -> None:
        assert await look(LogEnd(tmp_path), running=running, role=role) == End(empty=empty)

    asyncio.run(story())


def test_it_is_of_the_node_that_was_looked_at_and_of_no_other(tmp_path: Path):
    segment(tmp_path, 1)

    async def story() -> None:
        end = LogEnd(tmp_path)
        assert await look(end) == End(LastEntry(1, 1))
        assert end.of(ME, running=True) == UNKNOWN
        assert end.of(msgspec.structs.replace(ME, epoch=E2), running=False) == UNKNOWN
        assert end.of(None, running=False) == UNKNOWN

    asyncio.run(story())


async def _one_look(directory: Path, role: str) -> End:
    return await look(LogEnd(directory), role=role)

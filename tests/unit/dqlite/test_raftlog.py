"""Logs as they are found on a disk: whole, torn, with a hole, with a flipped bit."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbaccessor.dqlite import nodedir, raftlog

FORMAT = struct.pack("<Q", 1)


def batch(*terms: int, size: int = 24) -> bytes:
    """A batch with one entry of `size` bytes for each of these terms."""
    head = struct.pack("<Q", len(terms)) + b"".join(struct.pack("<QB3xI", term, 1, size) for term in terms)
    data = b"\x07" * (size * len(terms))
    return struct.pack("<II", nodedir.checksum(head), nodedir.checksum(data)) + head + data


def closed(directory: Path, first: int, *terms: int, last: int | None = None) -> Path:
    path = directory / f"{first:016d}-{last or first + len(terms) - 1:016d}"
    path.write_bytes(FORMAT + b"".join(batch(t) for t in terms))
    return path


def opened(directory: Path, counter: int, *terms: int, tail: bytes = bytes(512)) -> Path:
    path = directory / f"open-{counter}"
    path.write_bytes((FORMAT + b"".join(batch(t) for t in terms) if terms or tail.strip(b"\0") else b"") + tail)
    return path


def snapshot(directory: Path, term: int, index: int) -> None:
    (directory / f"snapshot-{term}-{index}-77").write_bytes(b"state")
    rest = struct.pack("<QQ", 1, 8) + b"members!"
    meta = struct.pack("<QQ", 1, nodedir.checksum(rest)) + rest
    (directory / f"snapshot-{term}-{index}-77.meta").write_bytes(meta)


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_segments_follow_one_another_and_the_last_entry_tells_its_term(tmp_path: Path):
    closed(tmp_path, 1, 1, 1, 2)
    closed(tmp_path, 4, 2)
    opened(tmp_path, 5, 3, 4)
    opened(tmp_path, 6)

    assert raftlog.read(tmp_path) == raftlog.Log(4, 6, 1)


def test_a_snapshot_is_where_the_log_begins(tmp_path: Path):
    snapshot(tmp_path, 2, 7)
    opened(tmp_path, 1, 3)

    assert raftlog.read(tmp_path) == raftlog.Log(3, 8, 8)


def test_a_batch_torn_by_a_kill_is_the_end_and_no_damage(tmp_path: Path):
    opened(tmp_path, 1, 1, 1, tail=batch(2)[:20] + bytes(64))

    assert raftlog.read(tmp_path) == raftlog.Log(1, 2, 1)


@pytest.mark.parametrize("last", [True, False])
def test_an_entry_of_any_size_is_read_and_so_is_what_follows_it(tmp_path: Path, last: bool):
    """The library puts an entry into one segment, however large it is."""
    large = 65 << 20
    head = struct.pack("<QQB3xI", 1, 2, 1, large)  # Its data is zeros, of which the checksum is 0.
    path = closed(tmp_path, 1, 1, last=2)
    with path.open("ab") as file:
        file.write(struct.pack("<II", nodedir.checksum(head), 0) + head)
    os.truncate(path, path.stat().st_size + large)
    if not last:
        closed(tmp_path, 3, 3)

    assert raftlog.read(tmp_path) == (raftlog.Log(2, 2, 1) if last else raftlog.Log(3, 3, 1))
    assert raftlog.cut(tmp_path) == raftlog.read(tmp_path)


def test_a_flipped_bit_anywhere_in_a_large_entry_is_damage(tmp_path: Path):
    path = tmp_path / "0000000000000001-0000000000000001"
    path.write_bytes(FORMAT + batch(1, size=5 << 19))
    assert raftlog.read(tmp_path) == raftlog.Log(1, 1, 1)

    for offset in (100, 3 << 19, -1):
        flip(path, offset % path.stat().st_size)
        assert path.name in raftlog.read(tmp_path).damage
        flip(path, offset % path.stat().st_size)


def test_what_stands_behind_the_end_is_damage_however_far_behind(tmp_path: Path):
    path = closed(tmp_path, 1, 1)
    with path.open("ab") as file:
        file.write(bytes(3 << 20) + b"x\0" + bytes(2 << 20) + b"yz" + bytes(99))

    log = raftlog.read(tmp_path)
    assert (log.index, log.damage) == (1, f"{path.name} has {(2 << 20) + 4} bytes behind its end")


@pytest.mark.parametrize("offset", [0, 8, 20, 60])
def test_a_flipped_bit_in_a_closed_segment_is_named_with_its_file(tmp_path: Path, offset: int):
    closed(tmp_path, 1, 1, 1)
    path = closed(tmp_path, 3, 2, 2)
    closed(tmp_path, 5, 2)
    flip(path, offset)

    log = raftlog.read(tmp_path)
    assert log.index == 2
    assert path.name in log.damage


def test_a_missing_segment_is_a_hole(tmp_path: Path):
    closed(tmp_path, 1, 1)
    closed(tmp_path, 5, 1)

    assert raftlog.read(tmp_path) == raftlog.Log(1, 1, 1, "entries 2 to 4 are missing")


def test_a_log_that_begins_in_the_middle_without_a_snapshot_is_damaged(tmp_path: Path):
    closed(tmp_path, 5, 1)

    assert raftlog.read(tmp_path).damage == "entries 1 to 4 are missing"


def test_a_bad_description_of_a_snapshot_is_damage_even_when_an_older_one_is_good(tmp_path: Path):
    snapshot(tmp_path, 1, 4)
    snapshot(tmp_path, 1, 8)
    flip(tmp_path / "snapshot-1-8-77.meta", 30)

    assert "snapshot-1-8-77.meta" in raftlog.read(tmp_path).damage


def test_entries_behind_a_torn_open_segment_are_damage(tmp_path: Path):
    opened(tmp_path, 1, 1, tail=batch(1)[:-8] + bytes(8))
    opened(tmp_path, 2, 1)

    assert "open-1" in raftlog.read(tmp_path).damage


@settings(max_examples=40, deadline=None)  # Each example is a directory.
@given(st.integers(0, 3), st.integers(8, 200))
def test_what_is_left_after_a_cut_is_whole_and_as_long_as_was_told(tmp_path_factory, which: int, offset: int):
    directory = tmp_path_factory.mktemp("log")
    paths = [closed(directory, 1, 1, 1), closed(directory, 3, 1, 2), closed(directory, 5, 2), opened(directory, 9, 3)]
    flip(paths[which], offset % paths[which].stat().st_size)
    told = raftlog.read(directory)

    left = raftlog.cut(directory)

    assert left.damage == ""
    assert (left.term, left.index) == (told.term, told.index)


def test_nothing_is_an_empty_log(tmp_path: Path):
    assert raftlog.read(tmp_path / "nowhere") == raftlog.read(tmp_path) == raftlog.Log()

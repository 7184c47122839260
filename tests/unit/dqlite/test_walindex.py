"""The header of a wal-index, as the library leaves it in a memory file of this process."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator

import pytest

from dbaccessor.dqlite import walindex
from dbaccessor.dqlite.walindex import WalIndexes


def header(frames: int, version: int = 3007000) -> bytes:
    return struct.pack("=IIIBBHIIIIIIII", version, 0, 7, 1, 0, 4096, frames, 50, 1, 2, 3, 4, 5, 6)


@pytest.fixture
def files() -> Iterator[list[int]]:
    made = [os.memfd_create("dqlite-shm") for _ in range(2)]
    yield made
    for fd in made:
        os.close(fd)


@pytest.fixture
def indexes(monkeypatch: pytest.MonkeyPatch) -> WalIndexes:
    monkeypatch.setattr(walindex, "_LIST_SECONDS", 0.0)
    return WalIndexes()


def test_without_such_a_file_nothing_is_told(indexes: WalIndexes):
    assert indexes.frames() is None


def test_the_longest_log_counts(files: list[int], indexes: WalIndexes):
    assert indexes.frames() is None  # Nobody has written a header yet.
    for fd, frames in zip(files, (17, 4200), strict=True):
        os.pwrite(fd, header(frames) * 2, 0)

    assert indexes.frames() == 4200


@pytest.mark.parametrize(
    "content", [header(9) + header(8), header(9, version=1) * 2, b"\x01" + header(9)[1:] + header(9), header(9)]
)
def test_a_header_that_is_not_whole_says_nothing(files: list[int], indexes: WalIndexes, content: bytes):
    os.pwrite(files[0], content, 0)

    assert indexes.frames() is None


def test_a_log_is_found_at_once_where_none_was_to_be_seen_before():
    indexes = WalIndexes()
    for frames in (17, 18):
        # As when the node is restarted: its file is another, whatever the number of the descriptor is.
        assert indexes.frames() is None
        fd = os.memfd_create("dqlite-shm")
        try:
            os.pwrite(fd, header(frames) * 2, 0)
            assert indexes.frames() == frames
        finally:
            os.close(fd)


def test_a_descriptor_that_is_another_file_by_now_says_nothing(files: list[int]):
    indexes = WalIndexes()
    os.pwrite(files[0], header(9) * 2, 0)
    assert indexes.frames() == 9

    other = os.memfd_create("somebody-else")
    os.pwrite(other, header(5000) * 2, 0)
    os.dup2(other, files[0])
    os.close(other)

    assert indexes.frames() is None


def test_the_files_of_before_are_looked_at_while_no_descriptor_is_left_to_look_for_others(
    files: list[int], indexes: WalIndexes, monkeypatch: pytest.MonkeyPatch
):
    os.pwrite(files[0], header(9) * 2, 0)
    assert indexes.frames() == 9

    def none_left(path: str) -> list[str]:
        raise OSError(errno.EMFILE, "Too many open files", path)

    monkeypatch.setattr(os, "listdir", none_left)
    os.pwrite(files[0], header(10) * 2, 0)

    assert indexes.frames() == 10

"""Directories as they are found: with and without data, copied, torn, half written."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import os
import shutil
import struct
import sys
import types
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbaccessor.dqlite import nodedir


def checksum(data: bytes) -> int:
    """CRC-32 bit by bit, highest bit first, as the format's description has it; nodedir computes it otherwise."""
    register = 0
    for byte in data:
        register ^= byte << 24
        for _ in range(8):
            register = register << 1 ^ (0x04C11DB7 if register & 1 << 31 else 0)
            register &= 0xFFFFFFFF
    return register


def batch(*sizes: int, fill: bytes = b"x") -> bytes:
    """A batch of entries with data of these sizes."""
    head = struct.pack("<Q", len(sizes)) + b"".join(struct.pack("<QB3xI", 3, 1, size) for size in sizes)
    data = b"".join((fill * size).ljust((size + 7) // 8 * 8, b"\0") for size in sizes)
    return struct.pack("<II", checksum(head), checksum(data)) + head + data


FORMAT = struct.pack("<Q", 1)


@pytest.mark.parametrize(
    "name",
    [
        "metadata1",
        "metadata2",
        "open-1",
        "0000000000000001-0000000000000009",
        "snapshot-1-7-99",
        "snapshot-1-7-99.meta",
    ],
)
def test_one_file_of_raft_is_data(tmp_path: Path, name: str):
    (tmp_path / name).touch()

    assert nodedir.has_data(tmp_path)


@pytest.mark.parametrize("name", ["dqlite-lock", "identity", "metadata3", "open-x", "1-2", "snapshot-1-2", "open-1.b"])
def test_other_files_are_no_data(tmp_path: Path, name: str):
    (tmp_path / name).touch()

    assert not nodedir.has_data(tmp_path)
    assert nodedir.last_index_on_disk(tmp_path) == 0


def test_a_directory_that_is_not_there_has_no_data(tmp_path: Path):
    assert not nodedir.has_data(tmp_path / "nowhere")
    assert nodedir.last_index_on_disk(tmp_path / "nowhere") == 0


def test_a_copy_has_another_fingerprint_and_a_renamed_directory_the_same(tmp_path: Path):
    first = tmp_path / "first"
    first.mkdir()
    found = nodedir.fingerprint(first)

    shutil.copytree(first, tmp_path / "copy")
    first.rename(tmp_path / "renamed")

    assert nodedir.fingerprint(tmp_path / "renamed") == found
    assert nodedir.fingerprint(tmp_path / "copy") != found
    with pytest.raises(FileNotFoundError):
        nodedir.fingerprint(first)


XFS, EXT4 = 0x803, 0x7A0C29660A44A9DB


@dataclasses.dataclass
class FileSystem:
    """One that gives this number, and this generation to each inode; None: it does not know the request."""

    number: int
    generation: int | None

    def statvfs(self, _: object) -> types.SimpleNamespace:
        return types.SimpleNamespace(f_fsid=self.number)

    def ioctl(self, _: int, request: int, answer: bytearray) -> int:
        assert request == 0x80087601
        if self.generation is None:
            raise OSError(errno.ENOTTY, "Inappropriate ioctl for device")
        answer[:4] = self.generation.to_bytes(4, sys.byteorder)
        return 0


@pytest.fixture
def file_system(monkeypatch: pytest.MonkeyPatch) -> FileSystem:
    made = FileSystem(XFS, 0x2361024C)
    monkeypatch.setattr(os, "statvfs", made.statvfs)
    monkeypatch.setattr(fcntl, "ioctl", made.ioctl)
    return made


@pytest.mark.parametrize("shift", [0, 32], ids=["little endian", "big endian"])
@pytest.mark.parametrize("generation", [0x2361024C, 0, None])
def test_a_device_that_is_numbered_anew_changes_no_fingerprint(tmp_path, file_system, shift, generation):
    """The number of XFS, f2fs and others is that of the device, encoded in 32 bits."""
    file_system.number, file_system.generation = 0x803 << shift, generation
    before = nodedir.fingerprint(tmp_path)
    file_system.number = 0xFFF10300 << shift

    assert nodedir.fingerprint(tmp_path) == before


def test_without_a_number_of_the_file_system_the_generation_tells_a_copy(tmp_path, file_system):
    """A fresh file system gives the same inodes in the same order."""
    original = nodedir.fingerprint(tmp_path)
    file_system.generation = 0x0D17E630

    assert not nodedir.same_directory(original, nodedir.fingerprint(tmp_path))


def test_a_file_system_with_a_number_of_its_own_is_told_by_it(tmp_path, file_system):
    file_system.number = EXT4
    original = nodedir.fingerprint(tmp_path)
    assert original == f"{EXT4:x}-{tmp_path.stat().st_ino:x}", "as earlier versions wrote it"
    file_system.number = EXT4 + 1

    assert not nodedir.same_directory(original, nodedir.fingerprint(tmp_path))


def test_a_directory_that_is_gone_has_no_fingerprint_on_any_file_system(tmp_path, file_system):
    with pytest.raises(FileNotFoundError):
        nodedir.fingerprint(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("before", "now", "same"),
    [
        ("fd00-83", "fd00-83", True),
        ("fd00-83", "g2361024c-83", True),  # Kept by an earlier version, on XFS.
        ("fd00-83", "fd03-83", True),
        ("80300000000-83", "g2361024c-83", True),  # The same on a big-endian machine.
        ("0-83", "g2361024c-83", True),
        ("0-83", "7a0c29660a44a9db-83", True),  # A later kernel gives a number of the file system's own.
        ("g2361024c-83", "7a0c29660a44a9db-83", True),
        ("g2361024c-83", "0-83", True),
        ("fd00-83", "g2361024c-84", False),
        ("0-83", "0-84", False),
        ("g2361024c-83", "gd17e630-83", False),
        ("7a0c29660a44a9db-83", "7a0c29660a44a9dc-83", False),
        ("7a0c29660a44a9db-83", "g2361024c-83", False),
        ("7a0c29660a44a9db-83", "0-83", False),
        ("", "0-83", False),
        ("7a0c29660a44a9db-83", "", False),
        ("damaged", "0-83", False),
        ("da-maged-83", "0-83", False),
    ],
)
def test_what_is_known_of_two_directories_is_compared_and_nothing_else(before, now, same):
    assert nodedir.same_directory(before, now) is same


def test_what_is_put_aside_keeps_its_files_and_says_why(tmp_path: Path):
    into = tmp_path / "aside"
    targets = []
    for _ in range(3):
        directory = tmp_path / "dqlite"
        directory.mkdir()
        (directory / "metadata1").write_text("kept")
        targets.append(nodedir.put_aside(directory, into, "Data of another cluster: 8d0e/…"))
        assert not directory.exists()

    assert len(set(targets)) == 3
    assert all((target / "metadata1").read_text() == "kept" for target in targets)
    assert all("data-of-another-cluster-8d0e" in target.name for target in targets)
    assert {target.parent for target in targets} == {into}


def test_closed_segments_and_snapshots_tell_their_last_index_by_name(tmp_path: Path):
    (tmp_path / "0000000000000001-0000000000000040").touch()
    assert nodedir.last_index_on_disk(tmp_path) == 40
    (tmp_path / "0000000000000041-0000000000000050").touch()
    assert nodedir.last_index_on_disk(tmp_path) == 50
    (tmp_path / "snapshot-2-90-1234").touch()
    assert nodedir.last_index_on_disk(tmp_path) == 50, "a snapshot counts only when its .meta is there"
    (tmp_path / "snapshot-2-90-1234.meta").touch()
    (tmp_path / "snapshot-1-95-1234").touch()
    (tmp_path / "snapshot-1-95-1234.meta").touch()
    assert nodedir.last_index_on_disk(tmp_path) == 90, "the newest snapshot is the one of the highest term"


def test_entries_of_open_segments_follow_the_closed_ones(tmp_path: Path):
    (tmp_path / "0000000000000001-0000000000000040").touch()
    # A local snapshot is taken of what was applied already: it adds nothing.
    for name in ("snapshot-1-42-7", "snapshot-1-42-7.meta"):
        (tmp_path / name).touch()
    (tmp_path / "open-2").write_bytes(FORMAT + batch(8) + batch(16, 24) + bytes(64))
    (tmp_path / "open-10").write_bytes(FORMAT + batch(0))
    (tmp_path / "open-11").write_bytes(bytes(4096))
    (tmp_path / "open-12").write_bytes(b"")

    assert nodedir.last_index_on_disk(tmp_path) == 40 + 3 + 1


def test_a_log_that_begins_behind_a_received_snapshot_is_counted_from_it(tmp_path: Path):
    for name in ("snapshot-1-42-7", "snapshot-1-42-7.meta"):
        (tmp_path / name).touch()
    (tmp_path / "open-1").write_bytes(FORMAT + batch(8, 8))

    assert nodedir.last_index_on_disk(tmp_path) == 44


def test_an_entry_of_any_size_counts_with_its_term(tmp_path: Path):
    """The library puts an entry into one segment, however large it is."""
    large = 65 << 20
    head = struct.pack("<QQB3xI", 1, 4, 1, large)  # Its data is zeros, of which the checksum is 0.
    path = tmp_path / "open-1"
    path.write_bytes(FORMAT + batch(8) + struct.pack("<II", checksum(head), 0) + head)
    os.truncate(path, path.stat().st_size + large)

    assert nodedir.last_entry_on_disk(tmp_path) == nodedir.LastEntry(term=4, index=2)

    path.rename(tmp_path / "0000000000000001-0000000000000002")

    assert nodedir.last_entry_on_disk(tmp_path) == nodedir.LastEntry(term=4, index=2)


def test_a_large_entry_that_the_file_does_not_hold_to_its_end_does_not_count(tmp_path: Path):
    head = struct.pack("<QQB3xI", 1, 4, 1, 65 << 20)
    path = tmp_path / "open-1"
    path.write_bytes(FORMAT + batch(8) + struct.pack("<II", checksum(head), 0) + head)
    os.truncate(path, 65 << 20)

    assert nodedir.last_entry_on_disk(tmp_path) == nodedir.LastEntry(term=3, index=1)


batches = st.lists(st.lists(st.integers(min_value=0, max_value=40), min_size=1, max_size=4), max_size=5)


@given(batches, st.data())
def test_an_open_segment_cut_anywhere_has_the_batches_that_are_whole(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[list[int]], data: st.DataObject
):
    parts = [batch(*some) for some in sizes]
    content = FORMAT + b"".join(parts)
    cut = data.draw(st.integers(min_value=0, max_value=len(content)))
    directory = tmp_path_factory.mktemp("cut")
    (directory / "open-1").write_bytes(content[:cut] + bytes(100))
    whole = 0
    end = len(FORMAT)
    for some, part in zip(sizes, parts, strict=True):
        end += len(part)
        # Zeros follow: data that ends in zeros may be complete although its last bytes were cut off.
        if end <= cut or content[cut:end] == bytes(end - cut):
            whole += len(some)
        else:
            break

    assert nodedir.last_index_on_disk(directory) == whole


@given(batches.filter(bool), st.data())
def test_a_last_batch_with_a_changed_byte_does_not_count(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[list[int]], data: st.DataObject
):
    parts = [batch(*some) for some in sizes]
    last = bytearray(parts[-1])
    last[data.draw(st.integers(min_value=0, max_value=len(last) - 1))] ^= data.draw(st.integers(1, 255))
    directory = tmp_path_factory.mktemp("changed")
    (directory / "open-1").write_bytes(FORMAT + b"".join(parts[:-1]) + last)

    assert nodedir.last_index_on_disk(directory) == sum(map(len, sizes[:-1]))


@given(st.binary(max_size=400))
def test_any_content_of_an_open_segment_is_counted_or_ignored(tmp_path_factory: pytest.TempPathFactory, content: bytes):
    directory = tmp_path_factory.mktemp("garbage")
    (directory / "open-1").write_bytes(FORMAT + content)

    assert nodedir.last_index_on_disk(directory) >= 0


@pytest.mark.parametrize("renamed", ["before it is opened", "after it was read"])
def test_a_segment_that_is_renamed_while_it_is_read_is_not_counted_twice_nor_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: str
):
    (tmp_path / "0000000000000001-0000000000000040").touch()
    (tmp_path / "open-1").write_bytes(FORMAT + batch(8, 8))
    entries_of = nodedir._entries_of

    def rename() -> None:
        monkeypatch.setattr(nodedir, "_entries_of", entries_of)
        (tmp_path / "open-1").rename(tmp_path / "0000000000000041-0000000000000042")
        (tmp_path / "open-2").write_bytes(FORMAT + batch(8))

    def rename_too(path: Path) -> tuple[int, int]:
        if renamed == "before it is opened":
            rename()
            return entries_of(path)
        entries = entries_of(path)
        rename()
        return entries

    monkeypatch.setattr(nodedir, "_entries_of", rename_too)

    assert nodedir.last_index_on_disk(tmp_path) == 43


def test_the_last_term_is_that_of_the_last_entry_wherever_it_stands(tmp_path: Path):
    closed = tmp_path / "0000000000000001-0000000000000002"
    closed.write_bytes(FORMAT + batch(8, 8))
    (tmp_path / "open-1").write_bytes(FORMAT)

    assert nodedir.last_entry_on_disk(tmp_path) == nodedir.LastEntry(term=3, index=2)

    for name in ("snapshot-2-1-99", "snapshot-5-7-99"):
        (tmp_path / name).touch()
        (tmp_path / f"{name}.meta").touch()

    assert nodedir.last_entry_on_disk(tmp_path) == nodedir.LastEntry(term=5, index=7)


def test_a_longer_log_of_an_older_term_is_the_older_one():
    assert nodedir.LastEntry(term=3, index=900) < nodedir.LastEntry(term=4, index=8)


# The term that a node starts with.


def metadata(term: int, version: int = 1, kind: int = 1) -> bytes:
    return struct.pack("<4Q", kind, version, term, 8)


def test_a_directory_in_which_no_node_ever_ran_has_no_term_yet(tmp_path: Path):
    assert nodedir.stored_term(tmp_path) == 0
    assert nodedir.stored_term(tmp_path / "missing") == 0


def test_the_newest_term_counts_whichever_file_has_it(tmp_path: Path):
    (tmp_path / "metadata1").write_bytes(metadata(7, version=3))
    assert nodedir.stored_term(tmp_path) == 7
    (tmp_path / "metadata2").write_bytes(metadata(6, version=2))
    assert nodedir.stored_term(tmp_path) == 7


def test_a_file_that_was_torn_while_it_was_written_counts_as_none(tmp_path: Path):
    (tmp_path / "metadata1").write_bytes(metadata(7)[:20])
    (tmp_path / "metadata2").write_bytes(metadata(6, version=2))
    assert nodedir.stored_term(tmp_path) == 6


@pytest.mark.parametrize("name", ["metadata1", "open-1"])
def test_where_no_entry_was_ever_written_there_was_no_term_either(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(b"")
    assert nodedir.stored_term(tmp_path) == 0


def test_of_entries_without_a_word_about_the_term_none_is_told(tmp_path: Path):
    (tmp_path / "open-1").write_bytes(struct.pack("<Q", 1) + batch(8))
    assert nodedir.stored_term(tmp_path) is None


def test_a_format_that_is_not_known_tells_no_term(tmp_path: Path):
    (tmp_path / "metadata1").write_bytes(metadata(7, kind=2))
    assert nodedir.stored_term(tmp_path) is None

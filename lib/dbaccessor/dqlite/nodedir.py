"""The data directory of a node, as files: is there data, whose is it, how far does its log reach.

Everything here only reads, except put_aside, which renames. The names and the format are those of the raft
library inside libdqlite:

| file | meaning |
|---|---|
| metadata1, metadata2 | the newest term and vote, the newer of the two counts |
| 0000000000000001-0000000000000035 | a closed segment: entries 1 to 35 |
| open-7 | a segment being written: a format word, then batches of entries, then zeros |
| snapshot-T-I-MS, snapshot-T-I-MS.meta | the state up to entry I of term T; counts only when both are there |
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import struct
import sys
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dbaccessor.dqlite import raftformat

_METADATA = frozenset({"metadata1", "metadata2"})

_PART_BYTES = 1 << 20

_WORD32, _WORD64 = 2**32 - 1, 2**64 - 1

# _IOR('v', 1, long). Where the kernel numbers its requests otherwise (POWER) it is refused, and None comes of it.
_FS_IOC_GETVERSION = 0x80087601

# No digit, so that it is no number of a file system.
_GENERATION = "g"

# A running node renames its open segments while we read them; then the list is read again.
_ATTEMPTS = 5


def has_data(directory: Path) -> bool:
    """True when a node has ever written here. Files that are not raft's (a lock, a marker of ours) do not count."""
    return any(_is_data(name) for name in _names(directory))


def stored_term(directory: Path) -> int | None:
    """Return the newest term that the node here has ever been in, which must not run; 0 where none ever ran.

    None: it cannot be told, as there are entries and no file that says it.
    """
    terms = []
    for name in _METADATA:
        try:
            kind, _, term, _ = raftformat.METADATA.unpack((directory / name).read_bytes())
        except (FileNotFoundError, struct.error):
            continue  # A torn one was being written when the node ended, and counts for the library as none.
        except OSError:
            return None
        if kind != raftformat.FORMAT:
            return None
        terms.append(int(term))
    if terms:
        return max(terms)
    return 0 if last_entry_on_disk(directory) == NO_ENTRY else None


def _is_data(name: str) -> bool:
    patterns = (raftformat.CLOSED, raftformat.OPEN, raftformat.SNAPSHOT)
    return name in _METADATA or any(p.fullmatch(name.removesuffix(raftformat.META_SUFFIX)) for p in patterns)


def fingerprint(directory: Path) -> str:
    """Return a text that differs between this directory and any copy of it; `same_directory` compares two.

    Raises OSError if it is not there. It is the inode, behind the number of its file system. XFS, f2fs and others have
    none and give that of the device, which may be another at each boot: there the inode's generation, which is random
    and on the disk, stands in its place, or 0 where that is not told either.
    """
    inode = directory.stat().st_ino
    file_system = os.statvfs(directory).f_fsid & _WORD64
    if _names_a_file_system(file_system):
        return f"{file_system:x}-{inode:x}"
    generation = _generation(directory)
    return f"0-{inode:x}" if generation is None else f"{_GENERATION}{generation:x}-{inode:x}"


def same_directory(before: str, now: str) -> bool:
    """Whether these fingerprints, one kept and one of now, are of one directory as far as can be told.

    Earlier versions kept the number of the device, which says nothing. A later kernel may tell more than was kept.
    """
    if before == now:
        return True
    kept, _, inode = before.rpartition("-")
    found, _, inode_now = now.rpartition("-")
    if inode != inode_now:
        return False
    if kept.startswith(_GENERATION):
        return not found.startswith(_GENERATION)
    try:
        return not _names_a_file_system(int(kept, 16))
    except ValueError:
        return False


def _names_a_file_system(number: int) -> bool:
    """False for the number of a device, which has 32 bits (in the upper half on big-endian machines), and for none.

    A hash that happens to look like one is taken for one, and the generation for it: that is as good.
    """
    return bool(number >> 32 and number & _WORD32)


def _generation(directory: Path) -> int | None:
    """Return what tells this inode from any that had its number before it; None where the file system does not say."""
    answer = bytearray(8)  # The request is declared with a long, and an int is written.
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _FS_IOC_GETVERSION, answer)
    except OSError:
        return None  # Less is told apart, which `same_directory` allows for.
    finally:
        os.close(descriptor)
    return int.from_bytes(answer[:4], sys.byteorder)


def put_aside(directory: Path, into: Path, reason: str) -> Path:
    """Rename `directory` into the folder `into` (same file system), durably. Returns its new path.

    The name tells when and why. The directory is either at the old place or at the new one, never at both or
    neither.
    """
    into.mkdir(mode=0o700, parents=True, exist_ok=True)
    words = re.sub(r"[^a-z0-9]+", "-", reason.lower()).strip("-")[:60].rstrip("-") or "unnamed"
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    number = 0
    while True:
        target = into / f"{directory.name}-{stamp}-{words}{f'-{number}' if number else ''}"
        if not os.path.lexists(target):
            break
        number += 1
    directory.rename(target)
    for parent in {into, directory.parent}:
        _fsync_directory(parent)
    return target


def sums(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of the node here, by name. Files that are not raft's do not count."""
    found = {}
    for name in sorted(_names(directory)):
        if _is_data(name):
            with (directory / name).open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def render_sums(found: Mapping[str, str]) -> bytes:
    """Return them as `sha256sum --check` reads them."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(found.items())).encode()


def parse_sums(text: bytes) -> dict[str, str]:
    lines = (line.partition("  ") for line in text.decode("ascii", "replace").splitlines())
    return {name: digest for digest, _, name in lines if name}


def copy_data(source: Path, target: Path) -> None:
    """Copy the node's files to `target`, durably, and make sure that the copy reads as what was read. Raises OSError.

    The node must not run. Only what is raft's is copied: no lock, no marker.
    """
    for name in sorted(_names(source)):
        if not _is_data(name):
            continue
        read = hashlib.sha256()
        with (source / name).open("rb") as old, (target / name).open("xb") as new:
            while chunk := old.read(_PART_BYTES):
                read.update(chunk)
                new.write(chunk)
            new.flush()
            os.fsync(new.fileno())
        with (target / name).open("rb") as new:
            if hashlib.file_digest(new, "sha256").hexdigest() != read.hexdigest():
                raise OSError(errno.EIO, f"the copy of {name} differs from what was copied", str(target / name))
    _fsync_directory(target)


def sync_tree(directory: Path) -> None:
    """Make every file directly in `directory`, and their names, durable."""
    for entry in directory.iterdir():
        if entry.is_file():
            fd = os.open(entry, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
    _fsync_directory(directory)


def _fsync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@dataclass(frozen=True, order=True)
class LastEntry:
    """Where a log ends. Of two logs of one epoch the newer one is that of the higher term, then of the higher index."""

    term: int = 0
    index: int = 0

    def __str__(self) -> str:
        return f"index {self.index} of term {self.term}"


NO_ENTRY: Final = LastEntry()


def last_index_on_disk(directory: Path) -> int:
    """Return the index of `last_entry_on_disk`."""
    return last_entry_on_disk(directory).index


def last_entry_on_disk(directory: Path) -> LastEntry:
    """Return the newest whole entry in the log here, index 0 if there is none. Works beside a running node.

    It is a lower bound of what the node has: entries that are being written may be missing. It says nothing
    of what is committed: the end of a deposed leader's log may be cut off later.
    """
    best = LastEntry()
    for _ in range(_ATTEMPTS):
        before = _Listing.of(directory)
        entry, whole = before.last_entry(directory)
        best = max(best, entry, key=_reach)
        if whole and _Listing.of(directory) == before:
            return entry
    return best


@dataclass(frozen=True)
class _Listing:
    snapshot: LastEntry
    """The last entry of the newest snapshot."""
    closed: tuple[int, int]
    """The first and the last index of the newest closed segment, zeros if there is none."""
    opened: tuple[int, ...]
    """The counters of open segments, oldest first."""

    @staticmethod
    def of(directory: Path) -> _Listing:
        names = set(_names(directory))
        snapshots = [
            (int(match[1]), int(match[2]), int(match[3]))
            for name in names
            if (match := raftformat.SNAPSHOT.fullmatch(name)) and name + raftformat.META_SUFFIX in names
        ]
        closed = [(int(match[2]), int(match[1])) for name in names if (match := raftformat.CLOSED.fullmatch(name))]
        opened = sorted(int(match[1]) for name in names if (match := raftformat.OPEN.fullmatch(name)))
        last, first = max(closed, default=(0, 0))
        term, index, _ = max(snapshots, default=(0, 0, 0))
        return _Listing(LastEntry(term, index), (first, last), tuple(opened))

    def last_entry(self, directory: Path) -> tuple[LastEntry, bool]:
        """Return the last entry, and False if a file was renamed away meanwhile.

        Entries of open segments carry no number: they follow the newest closed segment, or the snapshot if
        there is none (a node that received a snapshot starts its log anew behind it).
        """
        index, term = self.closed[1] or self.snapshot.index, 0
        try:
            for counter in self.opened:
                count, newest = _entries_of(directory / f"open-{counter}")
                if count == 0:
                    break  # Prepared for later, as are all behind it.
                index, term = index + count, newest
            if term == 0 and self.closed[1]:
                _, term = _entries_of(directory / f"{self.closed[0]:016d}-{self.closed[1]:016d}")
        except FileNotFoundError:
            return max(LastEntry(term, index), self.snapshot, key=_reach), False
        return max(LastEntry(term, index), self.snapshot, key=_reach), True


def _names(directory: Path) -> list[str]:
    try:
        return [entry.name for entry in directory.iterdir()]
    except FileNotFoundError:
        return []


def _reach(entry: LastEntry) -> tuple[int, int]:
    """Order what is read of one log, whose terms only rise."""
    return entry.index, entry.term


def _entries_of(path: Path) -> tuple[int, int]:
    """Count the entries of the whole batches at the beginning of a segment, up to the first that is not whole.

    Returns the term of the last of them with it. Raises FileNotFoundError. Batches are written one after another, so
    only the last one can be half there: only its data is checked.
    """
    with path.open("rb", buffering=0) as file:
        fd = file.fileno()
        if read_word(fd, 0) != raftformat.FORMAT:
            return 0, 0
        before = total = (0, 0)
        last: Batch | None = None
        batch = read_batch(fd, raftformat.WORD.size)
        while batch is not None:
            before, total, last = total, (total[0] + len(batch.terms), batch.terms[-1]), batch
            batch = read_batch(fd, batch.end)
        return total if last is None or last.is_whole(fd) else before


@dataclass(frozen=True)
class Batch:
    """A batch whose head is good: the terms of its entries, and where in the segment their data stands."""

    terms: tuple[int, ...]
    data: int
    end: int
    data_sum: int

    def is_whole(self, fd: int) -> bool:
        """Whether the data is what was written. It is read in parts: an entry may have any size."""
        return _checksum(read_parts(fd, self.data, self.end)) == self.data_sum


def read_batch(fd: int, offset: int) -> Batch | None:
    """Read the head of the batch at `offset`; None if it is not good, or if the file ends before the batch does."""
    checksums = os.pread(fd, raftformat.CHECKSUMS.size, offset)
    offset += raftformat.CHECKSUMS.size
    count = read_word(fd, offset)
    if len(checksums) < raftformat.CHECKSUMS.size or not 0 < count <= raftformat.MAX_ENTRIES:
        return None
    header_sum, data_sum = raftformat.CHECKSUMS.unpack(checksums)
    head = os.pread(fd, raftformat.WORD.size + count * raftformat.ENTRY.size, offset)
    if len(head) < raftformat.WORD.size + count * raftformat.ENTRY.size or checksum(head) != header_sum:
        return None
    data = offset + len(head)
    entries = list(raftformat.ENTRY.iter_unpack(head[raftformat.WORD.size :]))
    end = data + sum((size + 7) // 8 * 8 for _term, _kind, size in entries)
    if end > os.fstat(fd).st_size:
        return None
    return Batch(tuple(term for term, _kind, _size in entries), data, end, data_sum)


def read_word(fd: int, offset: int) -> int:
    """Return the word at `offset`, 0 where the file ends before it."""
    data = os.pread(fd, raftformat.WORD.size, offset)
    return int(raftformat.WORD.unpack(data)[0]) if len(data) == raftformat.WORD.size else 0


def read_parts(fd: int, offset: int, end: int) -> Iterator[bytes]:
    """Yield what stands from `offset` to `end`, or to the end of the file, in parts of bounded size."""
    while offset < end and (part := os.pread(fd, min(_PART_BYTES, end - offset), offset)):
        yield part
        offset += len(part)


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def checksum(data: bytes) -> int:
    """Return raft's checksum: CRC-32 with the usual polynomial, highest bit first, from 0 and not inverted."""
    return _checksum((data,))


def _checksum(parts: Iterable[bytes]) -> int:
    # zlib computes it lowest bit first; reversing the bits of every byte and of the result makes them the same.
    register = 0xFFFFFFFF
    for part in parts:
        register = zlib.crc32(part.translate(_REVERSED), register)
    return int.from_bytes((register ^ 0xFFFFFFFF).to_bytes(4, "little").translate(_REVERSED), "big")

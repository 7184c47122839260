"""Reads a stopped node's whole log as files, and changes nothing: where does it end, and is it whole up to there?

`nodedir` tells in a moment where the log of a running node ends. This module takes its time: every batch of every
segment behind the newest snapshot is checked, so that an operator can compare directories (their last term and index)
and is told by name which file is damaged. What the library makes of a directory shows only when it starts on it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dbaccessor.dqlite import nodedir, raftformat


@dataclass(frozen=True)
class Log:
    """`term` and `index` are of the last entry that is surely whole, 0 when there is none. `first` is the first index
    that is still an entry and not only part of a snapshot (0: none is).

    `damage` is "" for a whole log, else a sentence that names the file; what stands behind that place is not counted.
    """

    term: int = 0
    index: int = 0
    first: int = 0
    damage: str = ""


@dataclass(frozen=True)
class Segment:
    """What could be read of one segment. `whole_bytes` is where its last whole batch ends."""

    terms: tuple[int, ...]
    whole_bytes: int
    damage: str


def read(directory: Path) -> Log:
    """Return what the log in `directory` holds; an empty Log when there is none. Raises OSError."""
    listing = _Listing.of(directory)
    base, bad_snapshots = _base(directory, listing)
    log = _read_closed(directory, base, listing.closed)
    if not log.damage:
        log = _read_opened(directory, log, listing)
    damage = "; ".join([*bad_snapshots.values(), log.damage] if log.damage else bad_snapshots.values())
    return Log(log.term, log.index, log.first, damage)


def cut(directory: Path) -> Log:
    """Delete what stands behind the first damage, so that what is whole can be started; return the log that is left.

    For a copy that is to be recovered by itself, never for a member's own data: it forgets entries.
    """
    listing = _Listing.of(directory)
    base, bad_snapshots = _base(directory, listing)
    for name in bad_snapshots:
        (directory / name).unlink()
        (directory / (name + raftformat.META_SUFFIX)).unlink()
    log = _read_closed(directory, base, listing.closed)
    for first, last, name in listing.closed if log.damage else ():
        if first > log.index:
            (directory / name).unlink()
        elif last > log.index:
            os.truncate(directory / name, read_segment(directory / name).whole_bytes)
            (directory / name).rename(directory / f"{first:016d}-{log.index:016d}")
    torn = bool(log.damage)
    for _, name in listing.opened:
        segment = read_segment(directory / name)
        if torn or not segment.terms:
            (directory / name).unlink()
        elif segment.damage:
            os.truncate(directory / name, segment.whole_bytes)
        torn = torn or bool(segment.damage)
    return read(directory)


@dataclass(frozen=True)
class _Listing:
    """The files of a log: snapshots by (index, term, name), newest first; segments oldest first."""

    snapshots: tuple[tuple[int, int, str], ...]
    closed: tuple[tuple[int, int, str], ...]
    opened: tuple[tuple[int, str], ...]

    @staticmethod
    def of(directory: Path) -> _Listing:
        try:
            names = {entry.name for entry in directory.iterdir()}
        except (FileNotFoundError, NotADirectoryError):
            names = set()
        snapshots = [
            (int(m[2]), int(m[1]), n)
            for n in names
            if (m := raftformat.SNAPSHOT.fullmatch(n)) and n + raftformat.META_SUFFIX in names
        ]
        return _Listing(
            tuple(sorted(snapshots, reverse=True)),
            tuple(sorted((int(m[1]), int(m[2]), n) for n in names if (m := raftformat.CLOSED.fullmatch(n)))),
            tuple(sorted((int(m[1]), n) for n in names if (m := raftformat.OPEN.fullmatch(n)))),
        )


def read_segment(path: Path) -> Segment:
    """Read one segment, open or closed, up to its end or its first bad batch."""
    with path.open("rb", buffering=0) as file:
        fd = file.fileno()
        first = nodedir.read_word(fd, 0)
        if not first and not _bytes_from(fd, 0):
            return Segment((), 0, "")  # Prepared for later.
        if first != raftformat.FORMAT:
            return Segment((), 0, f"{path.name} does not begin like a segment")
        terms: list[int] = []
        offset = raftformat.WORD.size
        while os.pread(fd, 16, offset).strip(b"\0"):
            batch = nodedir.read_batch(fd, offset)
            if batch is None or not batch.is_whole(fd):
                return Segment(tuple(terms), offset, f"{path.name} is damaged behind its {_ordinal(len(terms))} entry")
            terms += batch.terms
            offset = batch.end
        rest = _bytes_from(fd, offset)
        return Segment(tuple(terms), offset, f"{path.name} has {rest} bytes behind its end" if rest else "")


def _bytes_from(fd: int, offset: int) -> int:
    """Return how many bytes there are from `offset` on, without the zeros before and behind them."""
    begin: int | None = None
    end = 0
    for part in nodedir.read_parts(fd, offset, os.fstat(fd).st_size):
        if part.strip(b"\0"):
            begin = offset + len(part) - len(part.lstrip(b"\0")) if begin is None else begin
            end = offset + len(part.rstrip(b"\0"))
        offset += len(part)
    return 0 if begin is None else end - begin


def _base(directory: Path, listing: _Listing) -> tuple[Log, dict[str, str]]:
    """Return the newest good snapshot as the log's beginning, and the damage of those that are newer, by name."""
    bad: dict[str, str] = {}
    for index, term, name in listing.snapshots:
        damage = _meta_damage(directory / (name + raftformat.META_SUFFIX))
        if not damage and (directory / name).stat().st_size == 0:
            damage = f"{name} is empty"
        if not damage:
            return Log(term, index), bad
        bad[name] = damage
    return Log(), bad


def _meta_damage(path: Path) -> str:
    data = path.read_bytes()
    if len(data) < 4 * raftformat.WORD.size or raftformat.WORD.unpack_from(data)[0] != raftformat.FORMAT:
        return f"{path.name} does not begin like a snapshot's description"
    # Format and checksum, then what the checksum is of.
    if nodedir.checksum(data[2 * raftformat.WORD.size :]) != raftformat.WORD.unpack_from(data, raftformat.WORD.size)[0]:
        return f"{path.name} is damaged: its checksum does not fit"
    return ""


def _read_closed(directory: Path, log: Log, segments: Sequence[tuple[int, int, str]]) -> Log:
    """Read on from `log`. Older segments, kept beside the snapshot that covers them, are skipped."""
    base = log.index
    for first, last, name in segments:
        if last <= base and last != segments[-1][1]:
            continue
        if first > log.index + 1:
            return Log(log.term, log.index, log.first, f"entries {log.index + 1} to {first - 1} are missing")
        segment = read_segment(directory / name)
        whole = first + len(segment.terms) - 1
        if segment.terms and whole > log.index:
            log = Log(segment.terms[-1], whole, log.first or first, "")
        damage = segment.damage
        if not damage and whole != last:
            damage = f"{name} holds {len(segment.terms)} entries instead of {last - first + 1}"
        if damage:
            return Log(log.term, log.index, log.first, damage)
    return log


def _read_opened(directory: Path, log: Log, listing: _Listing) -> Log:
    """Read on in the open segments. Their entries carry no number: they follow the newest closed segment, or the
    snapshot if there is none (a node that received a snapshot starts its log anew behind it)."""
    index = listing.closed[-1][1] if listing.closed else log.index
    torn = ""
    for _, name in listing.opened:
        segment = read_segment(directory / name)
        if segment.terms and torn:
            return Log(log.term, log.index, log.first, torn)
        index += len(segment.terms)
        if segment.terms and index > log.index:
            log = Log(segment.terms[-1], index, log.first or index - len(segment.terms) + 1, "")
        # A batch that a kill interrupted is the usual end of a log; only what is followed by more is damage.
        torn = torn or segment.damage
    return log


def _ordinal(number: int) -> str:
    return f"{number}{'th' if number % 100 in (11, 12, 13) else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"

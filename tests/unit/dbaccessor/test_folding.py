"""A database's file and its write-ahead log become one file."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from dbaccessor import errors
from dbaccessor.folding import Folding


@pytest.fixture
def pair(tmp_path: Path) -> tuple[bytes, bytes]:
    """A file of which something is in the log alone, and that log."""
    path = tmp_path / "made"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE t (n)")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(5000)])
        return path.read_bytes(), path.with_name("made-wal").read_bytes()


def folded(pair: tuple[bytes, bytes], step: int) -> bytes:
    file, log = pair
    with Folding(len(file)) as folding:
        both = file + log
        for at in range(0, len(both), step):
            folding.write(both[at : at + step])
        size = folding.fold()
        found = b""
        while part := folding.read():
            found += part
    assert len(found) == size
    return found


@pytest.mark.parametrize("step", [1000, 65536, 1 << 24])
def test_what_was_in_the_log_is_in_the_file_then(pair: tuple[bytes, bytes], tmp_path: Path, step: int):
    one = tmp_path / "one"
    one.write_bytes(folded(pair, step))
    with contextlib.closing(sqlite3.connect(f"file:{one}?mode=ro&immutable=1", uri=True)) as database:
        assert database.execute("SELECT count(*), max(n) FROM t").fetchone() == (5000, 4999)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_what_is_no_database_is_not_made_one(pair: tuple[bytes, bytes]):
    with pytest.raises(errors.NotReady, match="make no whole"):
        folded((b"x" * 4096, pair[1]), 65536)

"""A database's file and the write-ahead log that belongs to it, made one file.

A node of libdqlite 1.18.1 hands both out when it is asked for a database; one of a later version only the file.
"""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from pathlib import Path
from types import TracebackType

from dbaccessor import errors

_CHUNK = 64 * 1024


class Folding:
    """A context manager. Takes a file of so many bytes and then its log; blocks for as long as the disk does."""

    def __init__(self, size: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ha-controller-backup-")
        self._path = Path(self._folder.name) / "database"
        self._stack = contextlib.ExitStack()
        self._file = self._stack.enter_context(self._path.open("w+b"))
        self._log = self._stack.enter_context(self._path.with_name("database-wal").open("wb"))
        self._left = size

    def __enter__(self) -> Folding:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._folder.cleanup()

    def write(self, part: bytes) -> None:
        """Take the next bytes, of the file and then of the log."""
        own, rest = part[: self._left], part[self._left :]
        self._file.write(own)
        self._left -= len(own)
        self._log.write(rest)

    def fold(self) -> int:
        """Make one file of both, and return its size. Raises NotReady where they do not fit each other."""
        self._stack.close()
        try:
            with contextlib.closing(sqlite3.connect(self._path)) as database:
                busy, *_ = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            raise errors.NotReady(f"a database and its log make no whole: {error}") from error
        if busy:
            raise errors.NotReady("a database and its log could not be made one file")
        self._file = self._stack.enter_context(self._path.open("r+b"))
        return self._path.stat().st_size

    def read(self) -> bytes:
        """Return the next bytes of the one file, b"" at its end."""
        return self._file.read(_CHUNK)

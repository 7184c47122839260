"""A stand-in for a Database, for rules about rows: SQLite itself, transactions one after another."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from dbaccessor import errors, schema
from dbaccessor.dqlite.results import Result, Rows

_T = TypeVar("_T")


class SqliteDatabase:
    """`writes` counts the transactions that changed something. `trouble` is raised once, by the next transaction."""

    def __init__(self, *patches: Path) -> None:
        self.sqlite = sqlite3.connect(":memory:", isolation_level=None)
        self.sqlite.execute("PRAGMA foreign_keys = ON")
        for path in patches:
            for statement in schema.parse(path.name, path.read_text()).statements:
                self.sqlite.execute(statement)
        self.writes = 0
        self.trouble: Exception | None = None

    async def run(
        self, fn: Callable[[SqliteDatabase], Awaitable[_T]], *, read_only: bool = False, deadline_seconds: float = 10
    ) -> _T:
        if self.trouble is not None:
            trouble, self.trouble = self.trouble, None
            raise trouble
        async with self.transaction(read_only=read_only):
            return await fn(self)

    @contextlib.asynccontextmanager
    async def transaction(
        self, *, read_only: bool = False, deadline_seconds: float = 10
    ) -> AsyncIterator[SqliteDatabase]:
        before = self.sqlite.total_changes
        self._read_only = read_only
        self.sqlite.execute("BEGIN")
        try:
            yield self
        except BaseException:
            self.sqlite.execute("ROLLBACK")
            raise
        self.sqlite.execute("COMMIT")
        self.writes += self.sqlite.total_changes > before

    async def read(
        self, sql: str, params: tuple = (), *, consistency: str = "linearizable", deadline_seconds: float = 10
    ) -> Rows:
        return await self.run(lambda tx: tx.query(sql, params), read_only=True)

    # What the body of a transaction may do.

    async def execute(self, sql: str, params: tuple = ()) -> Result:
        if self._read_only:
            raise errors.Refused(f"{sql} is not possible in a read-only transaction")
        cursor = self.sqlite.execute(sql, params)
        return Result(cursor.lastrowid or 0, cursor.rowcount)

    async def query(self, sql: str, params: tuple = ()) -> Rows:
        cursor = self.sqlite.execute(sql, params)
        return Rows(tuple(c[0] for c in cursor.description), tuple(cursor.fetchall()))

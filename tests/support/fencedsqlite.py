"""A model's database as a single-instance worker gets it: SQLite behind a fence, with every step shown to the test.

It keeps what a FencedDatabase promises where a worker relies on it: whoever has raised the fence higher shuts out all
others, a transaction is done as a whole or not at all, and what may have happened is Indefinite.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from dbaccessor import errors
from dbaccessor.dqlite.results import Result, Rows
from dbaccessor.schema import parse

_T = TypeVar("_T")
SCHEMA = Path(__file__).parents[2] / "lib" / "controller" / "schema" / "model"


class Fenced(Exception):
    """Another holder has raised the fence."""


class Store:
    """The database itself. `fence` is the highest token that was ever seen."""

    def __init__(self, *patches: str) -> None:
        self.sqlite = sqlite3.connect(":memory:", isolation_level=None)
        self.fence = 0
        for name in patches:
            for statement in parse(name, (SCHEMA / name).read_text()).statements:
                self.sqlite.execute(statement)

    def rows(self, sql: str, *params: Any) -> list[tuple[Any, ...]]:
        return self.sqlite.execute(sql, params).fetchall()


class SqliteTransaction:
    """The two methods of a transaction."""

    def __init__(self, store: Store, *, read_only: bool) -> None:
        self._sqlite = store.sqlite
        self._read_only = read_only

    async def execute(self, sql: str, params: tuple[Any, ...] = ()) -> Result:
        assert not self._read_only
        return Result(0, self._sqlite.execute(sql, params).rowcount)

    async def query(self, sql: str, params: tuple[Any, ...] = ()) -> Rows:
        cursor = self._sqlite.execute(sql, params)
        return Rows(tuple(c[0] for c in cursor.description), tuple(cursor.fetchall()))


class FencedStore:
    """What one holder has of it. `step` is called before each transaction and after each that wrote."""

    def __init__(self, store: Store, token: int = 0, step: Callable[[str], Awaitable[None]] | None = None) -> None:
        self._store = store
        self._token = token
        self._step = step
        self.troubles: list[errors.DbAccessorError] = []
        self.troubles_after: list[errors.DbAccessorError] = []

    async def run(
        self, fn: Callable[[Any], Awaitable[_T]], *, read_only: bool = False, deadline_seconds: float = 10
    ) -> _T:
        if self._step is not None:
            await self._step("before read" if read_only else "before write")
        if self.troubles:
            raise self.troubles.pop(0)
        if self._token < self._store.fence:
            raise Fenced(f"{self._token} is older than {self._store.fence}")
        self._store.fence = self._token
        # Nothing else runs meanwhile: neither of the transaction's methods waits for anything.
        self._store.sqlite.execute("BEGIN")
        try:
            found = await fn(SqliteTransaction(self._store, read_only=read_only))
        except BaseException:
            self._store.sqlite.execute("ROLLBACK")
            raise
        self._store.sqlite.execute("COMMIT")
        if not read_only:
            if self._step is not None:
                await self._step("after write")
            if self.troubles_after:
                raise self.troubles_after.pop(0)
        return found

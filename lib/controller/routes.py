"""What hactl asks of the databases: the handlers of control.socket behind `hactl sql` and `hactl backup`.

They run on the sockets' threads; the work runs on the worker's loop. Who asked and went away is noticed within a
moment, and what was being done for them is given up there too.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any

import msgspec

from controller import answering
from dbaccessor import confsocket, errors, statements
from dbaccessor.confsocket import Response
from dbaccessor.database import Transaction
from dbaccessor.dqlite.results import Result
from dbaccessor.worker import Worker

_LONGEST_SECONDS = 3600.0
_DATABASES_SECONDS = 10.0
# Of one part of a backup: the leader may have to be found, and it prepares a whole database at once.
_PART_SECONDS = 120.0
_MOST_ROWS = 100_000


class Question(msgspec.Struct, frozen=True, rename="kebab", kw_only=True):
    """The body of POST /sql and POST /sql/write. `unlisted` allows a database that the cluster's list does not name."""

    sql: str
    namespace: str = "controller"
    params: tuple[int | float | str | None, ...] = ()
    limit: int = 1000
    deadline_seconds: float = 10.0
    unlisted: bool = False
    apply: bool = False  # Of a write: without it the transaction is rolled back again, and only its effect is told.


class Wanted(msgspec.Struct, frozen=True, rename="kebab", kw_only=True):
    """The body of POST /backup. None: every database that the cluster's list names."""

    databases: tuple[str, ...] | None = None


class DatabaseRoutes:
    """The routes of one daemon. `facts` are the versions that a backup's manifest names."""

    def __init__(self, worker: Worker, loop: asyncio.AbstractEventLoop, version: str, dqlite_version: str) -> None:
        self._worker = worker
        self._loop = loop
        self._versions = version, dqlite_version

    def routes(self) -> dict[tuple[str, str], confsocket.Handler]:
        return {
            ("GET", "/databases"): answering.answering(self._databases),
            ("POST", "/sql"): answering.answering(self._read),
            ("POST", "/sql/write"): answering.answering(self._write),
            ("POST", "/backup"): answering.answering(self._backup),
        }

    def _databases(self, _: bytes) -> Response:
        return answering.as_json({"databases": list(self._wait(self._worker.databases(), _DATABASES_SECONDS))})

    def _read(self, body: bytes) -> Response:
        question = msgspec.json.decode(body, type=Question)
        seconds = min(max(question.deadline_seconds, 0.1), _LONGEST_SECONDS)
        return answering.as_json(self._wait(self._run_read(question, seconds), seconds + _PART_SECONDS))

    async def _run_read(self, question: Question, seconds: float) -> dict[str, Any]:
        await self._require(question)
        limit = min(max(question.limit, 1), _MOST_ROWS)
        sql, params = bounded(question.sql, limit + 1, question.params)
        found = await self._worker.database(question.namespace).read(sql, params, deadline_seconds=seconds)
        return {
            "columns": list(found.columns),
            "rows": [[_value(v) for v in row] for row in found.rows[:limit]],
            "truncated": len(found.rows) > limit,
        }

    def _write(self, body: bytes) -> Response:
        question = msgspec.json.decode(body, type=Question)
        seconds = min(max(question.deadline_seconds, 0.1), _LONGEST_SECONDS)
        return answering.as_json(self._wait(self._run_write(question, seconds), seconds + _PART_SECONDS))

    async def _run_write(self, question: Question, seconds: float) -> dict[str, Any]:
        await self._require(question)
        database = self._worker.database(question.namespace)
        outcome: Result | None = None
        try:
            async with database.transaction(deadline_seconds=seconds) as transaction:
                outcome = await self._execute(transaction, question)
                if not question.apply:
                    raise _OnlyTried
        except _OnlyTried:
            pass
        assert outcome is not None
        return {"rows-affected": outcome.rows_affected, "applied": question.apply}

    async def _execute(self, transaction: Transaction, question: Question) -> Result:
        before = await transaction.query("SELECT total_changes()")
        result = await transaction.execute(question.sql, question.params)
        after = await transaction.query("SELECT total_changes()")
        # The reply to a statement that changes no rows repeats the count of the one before it.
        changed = int(str(after.rows[0][0])) - int(str(before.rows[0][0]))
        return Result(result.last_insert_id, changed)

    async def _require(self, question: Question) -> None:
        """Opening a database makes it: a slip of the pen must not leave an empty one behind."""
        if question.unlisted:
            return
        known = await self._worker.databases()
        if question.namespace not in known:
            raise errors.Refused(f"there is no database {question.namespace}; there are {', '.join(known)}")

    def _backup(self, body: bytes) -> Response:
        wanted = msgspec.json.decode(body or b"{}", type=Wanted).databases
        listed = self._wait(self._worker.databases(), _DATABASES_SECONDS)
        parts = self._parts(self._worker.backup(listed if wanted is None else wanted, listed, *self._versions))
        first = next(parts)  # What goes wrong before anything was sent is an answer of its own.
        return 200, "application/x-tar", _chained(first, parts)

    def _parts(self, stream: AsyncIterator[bytes]) -> Iterator[bytes]:
        async def step() -> bytes | None:
            return await anext(stream, None)

        async def close() -> None:
            await stream.aclose()  # type: ignore[attr-defined]

        try:
            while (part := self._wait(step(), _PART_SECONDS, watch=False)) is not None:
                yield part
        finally:
            asyncio.run_coroutine_threadsafe(close(), self._loop)

    def _wait(self, work: Coroutine[Any, Any, Any], limit_seconds: float, *, watch: bool = True) -> Any:
        return answering.wait(work, self._loop, limit_seconds, watch=watch)


class _OnlyTried(Exception):
    """Ends a transaction whose effect was only to be seen."""


def bounded(sql: str, rows: int, params: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
    """Return the statement so that it yields at most so many rows, where its form allows that. Raises Refused."""
    statement = statements.check(sql, params)
    if statement.kind is not statements.Kind.READ:
        raise errors.Refused(f"{statement.verb} changes something: say so with --write")
    if statement.verb not in ("SELECT", "VALUES"):
        return sql, params
    # A comment behind the last semicolon may hold anything; SQL ends before it, and an open one ends at the line.
    text = re.sub(r";\s*\Z", "", sql)
    inside = f"SELECT * FROM (\n{text}\n) LIMIT ?"
    try:
        statements.check(inside, (*params, rows))
    except errors.Refused:
        return sql, params
    return inside, (*params, rows)


def _chained(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield first
        yield from rest
    finally:
        getattr(rest, "close", lambda: None)()


def _value(value: object) -> object:
    """JSON has neither bytes nor infinities."""
    if isinstance(value, bytes):
        return {"blob": value.hex()}
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return {"real": str(value)}
    return value

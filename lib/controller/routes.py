"""What hactl asks of the databases: the handlers of control.socket behind `hactl sql` and `hactl backup`.

They run on the sockets' threads; the work runs on the worker's loop. Who asked and went away is noticed within a
moment, and what was being done for them is given up there too.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from controller import answering
from dbaccessor import confsocket, errors, retry, statements
from dbaccessor.confsocket import Response
from dbaccessor.database import Transaction
from dbaccessor.worker import Worker

_LONGEST_SECONDS = 3600.0
_DATABASES_SECONDS = 10.0
# What a question may take beyond its own deadline, at which it ends with a better reason than "it took too long".
_LATE_SECONDS = 1.0
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


class Listing(msgspec.Struct, frozen=True, rename="kebab", kw_only=True):
    """The body of GET /databases, which may have none."""

    deadline_seconds: float = _DATABASES_SECONDS


class Wanted(msgspec.Struct, frozen=True, rename="kebab", kw_only=True):
    """The body of POST /backup. None: every database that the cluster's list names. `unlisted` as in a question."""

    databases: tuple[str, ...] | None = None
    unlisted: bool = False


@dataclass(frozen=True)
class Effect:
    """What a write did, or would do. `rows` are those that it changed, wrote, or took away."""

    rows: int
    schema: bool


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

    def _databases(self, body: bytes) -> Response:
        seconds = _seconds(msgspec.json.decode(body or b"{}", type=Listing).deadline_seconds)
        work = self._worker.databases(deadline_seconds=seconds)
        return answering.as_json({"databases": list(self._wait(work, seconds + _LATE_SECONDS))})

    def _read(self, body: bytes) -> Response:
        question = msgspec.json.decode(body, type=Question)
        seconds = _seconds(question.deadline_seconds)
        return answering.as_json(self._wait(self._run_read(question, seconds), seconds + _PART_SECONDS))

    async def _run_read(self, question: Question, seconds: float) -> dict[str, Any]:
        deadline = asyncio.get_running_loop().time() + seconds
        await self._require(question, seconds)
        limit = min(max(question.limit, 1), _MOST_ROWS)
        sql, params = bounded(question.sql, limit + 1, question.params)
        database = self._worker.database(question.namespace)
        found = await database.read(sql, params, deadline_seconds=retry.left(deadline))
        return {
            "columns": list(found.columns),
            "rows": [[_value(v) for v in row] for row in found.rows[:limit]],
            "truncated": len(found.rows) > limit,
        }

    def _write(self, body: bytes) -> Response:
        question = msgspec.json.decode(body, type=Question)
        seconds = _seconds(question.deadline_seconds)
        return answering.as_json(self._wait(self._run_write(question, seconds), seconds + _PART_SECONDS))

    async def _run_write(self, question: Question, seconds: float) -> dict[str, Any]:
        deadline = asyncio.get_running_loop().time() + seconds
        await self._require(question, seconds)
        database = self._worker.database(question.namespace)
        effect: Effect | None = None
        try:
            async with database.transaction(deadline_seconds=retry.left(deadline)) as transaction:
                effect = await self._execute(transaction, question)
                if not question.apply:
                    raise _OnlyTried
        except _OnlyTried:
            pass
        assert effect is not None
        schema = {"schema": True} if effect.schema else {}
        return {"rows-affected": effect.rows, "applied": question.apply, **schema}

    async def _execute(self, transaction: Transaction, question: Question) -> Effect:
        gone = await _rows_dropped(transaction, question.sql)
        before = await _counters(transaction)
        await transaction.execute(question.sql, question.params)
        # The reply to a statement that changes no rows repeats the count of the one before it.
        changed, version = (x - y for x, y in zip(await _counters(transaction), before, strict=True))
        # The rows of a dropped table are counted only where rows of other tables refer to them.
        return Effect(max(changed, gone), schema=version != 0)

    async def _require(self, question: Question, seconds: float) -> None:
        """Opening a database makes it: a slip of the pen must not leave an empty one behind."""
        if not question.unlisted:
            _refuse_unlisted((question.namespace,), await self._worker.databases(deadline_seconds=seconds))

    def _backup(self, body: bytes) -> Response:
        asked = msgspec.json.decode(body or b"{}", type=Wanted)
        listed = self._wait(self._worker.databases(), _DATABASES_SECONDS)
        wanted = listed if asked.databases is None else asked.databases
        if not asked.unlisted:
            # A name that is none would be found out behind the databases before it, when only the log can say so.
            _refuse_unlisted(wanted, listed)
        parts = self._parts(self._worker.backup(wanted, listed, *self._versions))
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


def _refuse_unlisted(names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise errors.Refused(f"there is no database {name}; there are {', '.join(known)}")


def _seconds(wanted: float) -> float:
    return min(max(wanted, 0.1), _LONGEST_SECONDS)


async def _counters(transaction: Transaction) -> tuple[int, int]:
    """Return what SQLite counts: the rows that this connection changed, and the database's changes of the schema."""
    found = await transaction.query("SELECT total_changes(), (SELECT schema_version FROM pragma_schema_version)")
    changes, version = (int(str(value)) for value in found.rows[0])
    return changes, version


async def _rows_dropped(transaction: Transaction, sql: str) -> int:
    """Return how many rows the table has that this statement drops; 0 if it drops none, or one that is not there."""
    name = statements.dropped_table(sql)
    if name is None:
        return 0
    there = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name = ? COLLATE NOCASE"
    if not (await transaction.query(there, (name,))).rows:
        return 0
    quoted = name.replace('"', '""')
    return int(str((await transaction.query(f'SELECT count(*) FROM "{quoted}"')).rows[0][0]))


class _OnlyTried(Exception):
    """Ends a transaction whose effect was only to be seen."""


def bounded(sql: str, rows: int, params: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
    """Return the statement so that it yields at most so many rows, where its form allows that. Raises Refused."""
    statement = statements.check(sql, params)
    if statement.kind is not statements.Kind.READ:
        raise errors.Refused(f"{statement.verb} changes something: say so with --write")
    if statement.verb not in ("SELECT", "VALUES"):
        return sql, params
    limited = statements.limited(sql, rows) if statement.verb == "SELECT" else None
    if limited is not None:
        return limited, params
    # Else a SELECT around it, in which two columns of one name are `id` and `id:1`.
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

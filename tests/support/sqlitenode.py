"""A stand-in for connections to one healthy leader: SQLite itself, with troubles that the test orders.

It keeps what a Connection promises where a committer relies on it: a failed BEGIN does nothing, a batch is committed
as a whole or not at all, and what may have happened is Indefinite.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator

from dbaccessor import errors
from dbaccessor.dqlite.connection import Member, Question, Role
from dbaccessor.dqlite.results import Result, Rows
from dbaccessor.terms import Word
from dbaccessor.witness import Link

# What to do with the next batch: carry it out (None), or raise this before or after having carried it out.
Trouble = tuple[str, errors.DbAccessorError] | None
NAME = "controller-0-7"


class SqliteNode:
    """The connector that Database wants. `troubles` are used up batch by batch; `batches` are what came."""

    identity = None
    own_name = ""

    def __init__(self, *schema: str) -> None:
        self.sqlite = sqlite3.connect(":memory:", isolation_level=None)
        for statement in schema:
            self.sqlite.execute(statement)
        self.troubles: Iterator[Trouble] = iter(())
        self.batches: list[str] = []
        self.before_batch: Callable[[], None] = lambda: None
        self.hangs = False

    async def to_leader(self, *, deadline: float) -> SqliteConnection:
        return SqliteConnection(self)

    async def leader_name(self, *, deadline: float) -> str:
        return NAME

    async def to_member(self, name: str, *, deadline: float) -> SqliteConnection:
        raise errors.NotReady("there is one node only")

    async def to_terms(self, name: str, *, deadline: float) -> Link[Word]:
        raise errors.NotReady("there is one node only")


class SqliteConnection:
    name = NAME
    dialled_as = None
    on_slow = None
    waiting = False

    def __init__(self, node: SqliteNode) -> None:
        self.node = node
        self.usable = True

    def close(self) -> None:
        self.usable = False

    async def open_database(self, name: str, *, deadline_seconds: float | None = None) -> None:
        pass

    async def cluster(self, *, deadline_seconds: float | None = None) -> tuple[Member, ...]:
        return (Member(7, NAME, Role.VOTER),)

    async def query(self, sql: str, params: tuple = (), *, deadline_seconds: float | None = None) -> Rows:
        try:
            cursor = self.node.sqlite.execute(sql, params)
        except sqlite3.OperationalError as error:
            raise errors.Refused(str(error), code=1) from error
        return Rows(tuple(c[0] for c in cursor.description), tuple(cursor.fetchall()))

    async def answer(self, question: Question, *, deadline_seconds: float | None = None) -> Rows:
        return await self.query(question.sql, tuple(question.params))

    async def answer_as_leader(
        self, question: Question, sent: Callable[[], None], *, deadline_seconds: float | None = None
    ) -> tuple[Rows | errors.Refused, tuple[Member, ...]]:
        sent()
        try:
            return await self.answer(question), await self.cluster()
        except errors.Refused as error:
            return error, await self.cluster()

    async def still_leads(self, *, deadline_seconds: float | None = None) -> None:
        pass

    async def execute(self, sql: str, params: tuple = (), *, deadline_seconds: float | None = None) -> Result:
        try:
            return Result(0, self.node.sqlite.execute(sql, params).rowcount)
        except sqlite3.OperationalError as error:
            raise errors.NotReady(str(error), code=5) from error

    async def group(
        self, write: str, ask: str, argument: str, *, deadline_seconds: float | None = None
    ) -> tuple[Result, Rows]:
        assert self.usable
        sqlite, node = self.node.sqlite, self.node
        node.batches.append(argument)
        node.before_batch()
        await asyncio.sleep(0)
        if node.hangs:
            await asyncio.Event().wait()
        trouble = next(node.troubles, None)
        if trouble is not None and trouble[0] == "before":
            raise trouble[1]
        await self.execute("BEGIN IMMEDIATE")
        try:
            affected = sqlite.execute(write, (argument,)).rowcount
            rows = await self.query(ask, (argument,))
            sqlite.execute("COMMIT")
        except sqlite3.IntegrityError as error:
            sqlite.execute("ROLLBACK")
            raise errors.Refused(str(error), code=19) from error
        if trouble is not None:
            raise trouble[1]
        return Result(0, affected), rows

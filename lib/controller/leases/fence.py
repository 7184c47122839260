"""Flow 2, hop 5: a database that only the latest holder can write, whatever a former one believes.

Each database has a table `fence`: for each lease the highest token that came here. A holder raises its row before it
reads or writes anything else, and every transaction under the lease checks the row inside itself. Dqlite runs writing
transactions one after another, so one of a former holder either comes before the raising, and the new holder sees what
it did, or finds the fence raised and changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from controller.leases.lease import Fenced, Key, Token
from dbaccessor import errors, retry
from dbaccessor.database import Consistency, Database, Transaction
from dbaccessor.dqlite.results import Rows
from dbaccessor.dqlite.wire import Parameters

_T = TypeVar("_T")

_TABLE = (
    "CREATE TABLE IF NOT EXISTS fence (name TEXT NOT NULL PRIMARY KEY, holder TEXT NOT NULL,"
    " incarnation TEXT NOT NULL, epoch INTEGER NOT NULL, count INTEGER NOT NULL)"
)
_RAISE = (
    "INSERT INTO fence (name, holder, incarnation, epoch, count) VALUES (?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE"
    " SET holder = excluded.holder, incarnation = excluded.incarnation, epoch = excluded.epoch, count = excluded.count"
)
_ASK = "SELECT holder, incarnation, epoch, count FROM fence WHERE name = ?"


class Holding(Protocol):
    """What a fence needs of a responsibility."""

    key: Key
    token: Token
    holder: str
    incarnation: str

    def check(self) -> None: ...
    def end(self, why: str) -> None: ...


class FencedDatabase:
    """A database under one responsibility. Made by `Responsibility.fenced`. The first use raises the fence.

    `run` and `read` raise Lost (the deadline passed: nothing more may be done), Fenced (a later holder was here, or the
    database was emptied: nothing was done), else what Database raises.
    """

    def __init__(self, database: Database, holding: Holding) -> None:
        self._database = database
        self._holding = holding
        self._raised = False
        self._raising = asyncio.Lock()

    async def run(
        self, fn: Callable[[Transaction], Awaitable[_T]], *, read_only: bool = False, deadline_seconds: float = 10
    ) -> _T:
        """As Database.run, with the fence checked inside the transaction."""
        deadline = asyncio.get_running_loop().time() + deadline_seconds
        await self._raise(deadline)

        async def fenced(tx: Transaction) -> _T:
            self._holding.check()
            await self._check_fence(tx)
            result = await fn(tx)
            self._holding.check()
            return result

        return await self._guarded(fenced, deadline, read_only=read_only)

    async def read(self, sql: str, params: Parameters = (), *, deadline_seconds: float = 10) -> Rows:
        """As Database.read, in a transaction that checks the fence."""

        async def ask(tx: Transaction) -> Rows:
            return await tx.query(sql, params)

        return await self.run(ask, read_only=True, deadline_seconds=deadline_seconds)

    async def peek(
        self, sql: str, params: Parameters = (), *, consistency: Consistency = "leader", deadline_seconds: float = 5
    ) -> Rows:
        """As Database.read, without the fence: cheap, for what is only watched. What it says may be old."""
        return await self._database.read(sql, params, consistency=consistency, deadline_seconds=deadline_seconds)

    async def _raise(self, deadline: float) -> None:
        self._holding.check()
        if self._raised:
            return
        async with self._raising:
            while not self._raised:
                try:
                    await self._guarded(self._put_up, deadline)
                    self._raised = True
                except errors.Indefinite:
                    # Raising it twice is as good as once.
                    if retry.left(deadline) <= 0:
                        raise

    async def _put_up(self, tx: Transaction) -> None:
        self._holding.check()
        mine, name = self._holding, str(self._holding.key)
        await tx.execute(_TABLE)
        found = await _found(tx, name)
        if found is not None and found[1] >= mine.token:
            self._heed(found)
            return
        await tx.execute(_RAISE, (name, mine.holder, mine.incarnation, mine.token.epoch, mine.token.count))

    async def _check_fence(self, tx: Transaction) -> None:
        try:
            self._heed(await _found(tx, str(self._holding.key)))
        except errors.Refused as error:
            if "no such table" not in str(error):
                raise
            self._heed(None)

    def _heed(self, found: tuple[str, Token, str] | None) -> None:
        mine = self._holding
        if found is None:
            raise Fenced(f"the fence of {mine.key} is gone: the database {self._database.name} was emptied")
        incarnation, token, holder = found
        if (incarnation, token) != (mine.incarnation, mine.token):
            raise Fenced(f"{mine.key} of {mine.token} met the fence of controller {holder}, {token}")

    async def _guarded(
        self, fn: Callable[[Transaction], Awaitable[_T]], deadline: float, *, read_only: bool = False
    ) -> _T:
        try:
            return await self._database.run(fn, read_only=read_only, deadline_seconds=retry.left(deadline))
        except Fenced as error:
            self._holding.end(str(error))
            raise


async def _found(tx: Transaction, name: str) -> tuple[str, Token, str] | None:
    """Return incarnation, token and holder of the fence; None when there is none."""
    rows = (await tx.query(_ASK, (name,))).rows
    if not rows:
        return None
    holder, incarnation, epoch, count = rows[0]
    return str(incarnation), Token(int(str(epoch)), int(str(count))), str(holder)

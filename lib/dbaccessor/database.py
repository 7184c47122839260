"""Flow 1, hop 7: a namespace (one Dqlite database) -> transactions on the leader, with the rules of what may
be retried.

A transaction begun on any controller runs on the leader; the caller never names it. What is known not to have
happened is tried again until the deadline; what may have happened (Indefinite) is the caller's to look into
and is never retried here.

The limit of `read` and of transactions that write nothing: they trust the node that believes it leads. A
leader that was paused and deposed meanwhile answers from old data until it notices. Reads that must not be
stale need to be confirmed by the other voters, which this module does not do yet. A transaction that did
write is safe from this: its COMMIT fails on a deposed leader.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NoReturn, Protocol, TypeVar

from dbaccessor import errors, statements
from dbaccessor.dqlite.connection import Connection, Result, Rows
from dbaccessor.dqlite.wire import Parameters

_T = TypeVar("_T")

# Between two attempts: long enough not to add to an election's load, short beside any failover.
_FIRST_PAUSE_SECONDS = 0.005
_LONGEST_PAUSE_SECONDS = 0.05

# Dqlite lets one writer in at a time, so ours queue here instead of fighting there. Beyond this many, the
# database is not slow but stuck, and the next one is told so at once.
MAX_WAITING = 256


class Connector(Protocol):
    """Finds the leader. The worker has the real one."""

    async def to_leader(self, *, deadline: float) -> Connection:
        """Return a fresh connection to the node that leads, before `deadline` (on the event loop's clock).

        Raises NotReady with the reason why there is none. The caller owns the connection.
        """
        ...


class Transaction:
    """What the body of a transaction may do. Valid until the block that received it ends.

    The first failure that a node answers ends it: SQLite may have rolled back on its own then, and a later
    statement would run outside any transaction. A statement that was Refused before it was sent changes
    nothing.
    """

    def __init__(self, connection: Connection, deadline: float) -> None:
        self._connection = connection
        self._deadline = deadline
        self._failure: errors.DbAccessorError | None = None
        self._over = False

    async def execute(self, sql: str, params: Parameters = ()) -> Result:
        """Run one statement that yields no rows."""
        self._check(sql, params, statements.Kind.WRITE)
        async with self._statement():
            return await self._connection.execute(sql, params, deadline_seconds=self._left())

    async def query(self, sql: str, params: Parameters = ()) -> Rows:
        """Run one statement that only reads; it sees what this transaction wrote."""
        self._check(sql, params, statements.Kind.READ)
        async with self._statement():
            return await self._connection.query(sql, params, deadline_seconds=self._left())

    def _check(self, sql: str, params: Parameters, kind: statements.Kind) -> None:
        if self._over:
            raise errors.Refused("the transaction is over")
        if self._failure is not None:
            raise errors.Refused(f"the transaction has failed already: {self._failure}", code=self._failure.code)
        statement = statements.check(sql, params)
        if statement.kind is not kind:
            self._refuse(statement)
        if statement.verb == "VACUUM":
            raise errors.Refused("VACUUM is not possible inside a transaction")

    def _refuse(self, statement: statements.Statement) -> NoReturn:
        if statement.kind is statements.Kind.CONTROL:
            raise errors.Refused(f"{statement.verb} is the transaction's own: leave the block to end it")
        other = "query" if statement.kind is statements.Kind.READ else "execute"
        raise errors.Refused(f"{statement.verb} goes through {other}")

    @contextlib.asynccontextmanager
    async def _statement(self) -> AsyncIterator[None]:
        try:
            yield
        except errors.Indefinite as error:
            # Nothing that precedes COMMIT lasts: the node rolls back what a connection leaves open.
            self._failure = _before_commit(error)
            self._connection.close()
            raise self._failure from error
        except errors.DbAccessorError as error:
            self._failure = error
            raise

    def _left(self) -> float:
        return _left(self._deadline)

    async def commit(self) -> None:
        """End the transaction so that it lasts. Only Database calls this."""
        self._over = True
        if self._failure is not None:
            raise errors.Refused(f"nothing was committed: {self._failure}", code=self._failure.code)
        if self._left() <= 0:
            raise errors.NotReady("the deadline passed before the transaction could be committed")
        await self._connection.execute("COMMIT", deadline_seconds=self._left())

    async def roll_back(self) -> None:
        """End the transaction without a trace. Only Database calls this. The connection stays usable if it can."""
        self._over = True
        if not self._connection.usable:
            return
        try:
            await self._connection.execute("ROLLBACK", deadline_seconds=min(1.0, max(0.05, self._left())))
        except errors.DbAccessorError:
            # Whatever is wrong, a closed connection is rolled back by the node itself.
            self._connection.close()


class Database:
    """One namespace. Its transactions run one after another; `read` beside them."""

    def __init__(self, connector: Connector, name: str) -> None:
        self._connector = connector
        self._name = name
        self._idle: Connection | None = None
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._closed = False

    @contextlib.asynccontextmanager
    async def transaction(self, *, deadline_seconds: float = 10) -> AsyncIterator[Transaction]:
        """Run the block as one transaction on the leader: committed when it ends, rolled back when it raises.

        Beginning is tried again until the deadline. Raises NotReady or NotLeader when nothing was done,
        Indefinite when the COMMIT's answer did not come or said that leadership was lost, Refused when a
        statement failed.
        """
        deadline = asyncio.get_running_loop().time() + deadline_seconds
        async with self._turn_until(deadline):
            connection = await self._begin(deadline)
            transaction = Transaction(connection, deadline)
            try:
                yield transaction
                try:
                    await transaction.commit()
                except errors.NotReady:
                    # Busy ("checkpoint in progress") or too late: provably not done, and the transaction is still open.
                    connection.close()
                    raise
            except asyncio.CancelledError:
                connection.close()  # Waiting for an orderly ROLLBACK is not for somebody who is to stop.
                raise
            except BaseException:
                await transaction.roll_back()
                raise
            finally:
                self._give_back(connection)

    async def run(self, fn: Callable[[Transaction], Awaitable[_T]], *, deadline_seconds: float = 10) -> _T:
        """Run `fn` in a transaction and return what it returned; begin again as a whole while provably
        nothing was done.

        So `fn` may be called several times and must have no effect but through its transaction. Indefinite is
        never retried: it is raised at once.
        """

        async def attempt(left_seconds: float) -> _T:
            async with self.transaction(deadline_seconds=left_seconds) as transaction:
                return await fn(transaction)

        return await self._until_done(attempt, deadline_seconds)

    async def read(self, sql: str, params: Parameters = (), *, deadline_seconds: float = 10) -> Rows:
        """Ask the leader one question outside any transaction. May be stale, see the module's limit."""

        async def attempt(left_seconds: float) -> Rows:
            deadline = asyncio.get_running_loop().time() + left_seconds
            connection = await self._take(deadline)
            try:
                return await connection.query(sql, params, deadline_seconds=_left(deadline))
            except (asyncio.CancelledError, errors.NotReady, errors.NotLeader):
                connection.close()
                raise
            finally:
                self._give_back(connection)

        statements.check(sql, params)
        return await self._until_done(attempt, deadline_seconds)

    def close(self) -> None:
        """Drop the idle connection. Transactions that are under way end by themselves."""
        self._closed = True
        if self._idle is not None:
            self._idle.close()
            self._idle = None

    async def _until_done(self, attempt: Callable[[float], Awaitable[_T]], deadline_seconds: float) -> _T:
        deadline = asyncio.get_running_loop().time() + deadline_seconds
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return await attempt(_left(deadline))
            except (errors.NotReady, errors.NotLeader):
                wait = pause * random.uniform(0.5, 1.5)
                if self._closed or _left(deadline) <= wait:
                    raise
            await asyncio.sleep(wait)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    @contextlib.asynccontextmanager
    async def _turn_until(self, deadline: float) -> AsyncIterator[None]:
        if self._waiting >= MAX_WAITING:
            raise errors.Refused(f"{self._waiting} transactions wait for {self._name} already")
        self._waiting += 1
        try:
            async with asyncio.timeout_at(deadline):
                await self._turn.acquire()
        except TimeoutError as error:
            raise errors.NotReady(f"other transactions on {self._name} did not end in time") from error
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._turn.release()

    async def _begin(self, deadline: float) -> Connection:
        """Return a connection with a transaction open on it that may write, so that none fails half way as busy."""

        async def attempt(left_seconds: float) -> Connection:
            connection = await self._take(deadline)
            try:
                await connection.execute("BEGIN IMMEDIATE", deadline_seconds=_left(deadline))
            except errors.Indefinite as error:
                connection.close()
                raise _before_commit(error) from error
            except BaseException:
                connection.close()
                raise
            return connection

        return await self._until_done(attempt, _left(deadline))

    async def _take(self, deadline: float) -> Connection:
        connection, self._idle = self._idle, None
        if connection is not None and connection.usable:
            return connection
        if self._closed:
            raise errors.NotReady(f"{self._name} is closed")
        connection = await self._connector.to_leader(deadline=deadline)
        try:
            await connection.open_database(self._name, deadline_seconds=_left(deadline))
        except BaseException:
            connection.close()
            raise
        return connection

    def _give_back(self, connection: Connection) -> None:
        """Keep one usable connection for the next caller. What saw anything but a plain error has closed itself."""
        if connection.usable and self._idle is None and not self._closed:
            self._idle = connection
        else:
            connection.close()


def _left(deadline: float) -> float:
    return max(0.0, deadline - asyncio.get_running_loop().time())


def _before_commit(error: errors.Indefinite) -> errors.NotReady:
    return errors.NotReady(f"nothing was committed: {error}", code=error.code, address=error.address)

"""Flow 1, hop 7: a namespace (one Dqlite database) -> transactions and reads on the leader.

A transaction begun on any controller runs on the leader; the caller never names it. What is known not to have
happened is tried again until the deadline (retry.py); what may have happened (Indefinite) is the caller's to look
into and is never retried here. Without a leader or a quorum every call ends as NotReady at its deadline.

Reads are linearizable: a value that is returned was true at some moment after the call began. Each is confirmed by
the other voters (confirm.py). `consistency="leader"` leaves that out: cheaper by one round of questions, and a leader
that was paused and deposed meanwhile answers with old data until it notices.

Each Database has its own connections and queues, so one that is stuck blocks no other.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Literal, TypeVar

from dbaccessor import confirm, errors, pool, retry
from dbaccessor.confirm import Confirmer
from dbaccessor.dbmetrics import Namespace, Request
from dbaccessor.dqlite.connection import Connection, Question
from dbaccessor.dqlite.results import Rows
from dbaccessor.dqlite.wire import Parameters
from dbaccessor.groupcommit import Batch, GroupCommit
from dbaccessor.pool import Connector
from dbaccessor.transaction import Transaction, before_commit

__all__ = ["Connector", "Consistency", "Database", "Transaction"]

Consistency = Literal["linearizable", "leader"]

# Dqlite lets one writer in at a time, so ours queue here instead of fighting there. Readers fight nobody; more
# connections than this would only share the same leader's one thread.
_WRITERS = 1
_READERS = 8

_T = TypeVar("_T")


class Database:
    """One namespace. Its writing transactions run one after another, its reads beside them.

    Databases of one process share a `confirmer`; without one, this has its own. `gate`: see Pool.
    """

    def __init__(
        self, connector: Connector, name: str, confirmer: Confirmer | None = None, gate: pool.Gate | None = None
    ) -> None:
        self.name = name
        self._confirmer = Confirmer(connector) if confirmer is None else confirmer
        self._owns_confirmer = confirmer is None
        self._writers = pool.Pool(connector, name, _WRITERS, "transactions", gate)
        self._readers = pool.Pool(connector, name, _READERS, "reads", gate)
        self._connector = connector
        self._gate = gate
        self._committers: list[GroupCommit] = []
        self._measured = self._writers.measured

    def measure(self, namespace: Namespace) -> Database:
        """Count from now on what is done here as this namespace's; by default nobody reads what is counted."""
        self._measured = self._writers.measured = self._readers.measured = namespace
        return self

    @contextlib.asynccontextmanager
    async def transaction(self, *, read_only: bool = False, deadline_seconds: float = 10) -> AsyncIterator[Transaction]:
        """Run the block as one transaction on the leader: committed when it ends, rolled back when it raises.

        Beginning is tried again until the deadline. Raises NotReady or NotLeader when nothing was done, or when what
        was read could not be confirmed; Indefinite when the COMMIT's answer did not come or said that leadership was
        lost; Refused when a statement failed.

        Values that the block read may be used outside of it only when it has ended without an error. With
        `read_only` they are all of one moment, and no writer waits for them.
        """
        deadline = asyncio.get_running_loop().time() + deadline_seconds
        with self._measured.request() as request:
            async with self._transact(read_only, deadline, request) as transaction:
                yield transaction

    @contextlib.asynccontextmanager
    async def _transact(self, read_only: bool, deadline: float, request: Request) -> AsyncIterator[Transaction]:
        connections = self._readers if read_only else self._writers
        async with connections.turn(deadline):
            connection = await self._begin(connections, "BEGIN" if read_only else "BEGIN IMMEDIATE", deadline, request)
            transaction = Transaction(connection, self._confirmer, deadline, read_only=read_only)
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
            except BaseException as error:
                await _end_failed(transaction, error)
                raise
            finally:
                connections.give_back(connection)

    async def run(
        self, fn: Callable[[Transaction], Awaitable[_T]], *, read_only: bool = False, deadline_seconds: float = 10
    ) -> _T:
        """Run `fn` in a transaction and return what it returned, once committed and confirmed; begin again as a whole
        while provably nothing was done.

        So `fn` may be called several times and must have no effect but through its transaction. Indefinite is
        never retried: it is raised at once.
        """
        deadline = asyncio.get_running_loop().time() + deadline_seconds

        async def attempt() -> _T:
            async with self._transact(read_only, deadline, request) as transaction:
                return await fn(transaction)

        with self._measured.request() as request:
            return await retry.until_done(attempt, deadline, self._is_closed)

    async def read(
        self,
        sql: str,
        params: Parameters = (),
        *,
        consistency: Consistency = "linearizable",
        deadline_seconds: float = 10,
    ) -> Rows:
        """Ask the leader one question outside any transaction; tried again until the deadline.

        With consistency "leader" the answer may be old, see the module's first words.
        """
        deadline = asyncio.get_running_loop().time() + deadline_seconds

        async def attempt() -> Rows:
            request.attempt()
            async with self._readers.turn(deadline):
                connection = await self._readers.take(deadline)
                try:
                    if consistency == "leader":
                        rows = await connection.answer(question, deadline_seconds=retry.left(deadline))
                    else:
                        rows = await self._answer_confirmed(connection, question, deadline)
                    request.answered()
                    return rows
                except (asyncio.CancelledError, errors.NotReady, errors.NotLeader):
                    connection.close()
                    raise
                finally:
                    self._readers.give_back(connection)

        with self._measured.request() as request:
            question = Question(sql, params)
            return await retry.until_done(attempt, deadline, self._is_closed)

    async def _answer_confirmed(self, connection: Connection, question: Question, deadline: float) -> Rows:
        beside = await self._confirmer.ask_beside(connection, deadline=deadline)
        try:
            said, members = await connection.answer_as_leader(
                question, beside.begin if beside is not None else _nobody, deadline_seconds=retry.left(deadline)
            )
            vouched = await self._confirmer.vouched(beside, connection, members, deadline=deadline)
        finally:
            if beside is not None:
                beside.end()
        if not vouched:
            await self._confirmer.confirm(connection, members, deadline=deadline)
            await confirm.still_leads(connection, deadline=deadline)
        if isinstance(said, errors.Refused):
            raise said  # "No such table" is an answer as well, and may be as old as any.
        return said

    def group_commit(self, batch: Batch) -> GroupCommit:
        """Return a committer that takes many small writes of one kind into one transaction (groupcommit.py)."""
        connections = pool.Pool(self._connector, self.name, 1, "batches", self._gate)
        connections.measured = self._measured
        self._committers.append(GroupCommit(connections, self._confirmer, batch))
        return self._committers[-1]

    def close(self) -> None:
        """Drop the idle connections. Transactions that are under way end by themselves."""
        for committer in self._committers:
            committer.close()
        self._writers.close()
        self._readers.close()
        if self._owns_confirmer:
            self._confirmer.close()

    def _is_closed(self) -> bool:
        return self._writers.closed

    async def _begin(self, connections: pool.Pool, begin: str, deadline: float, request: Request) -> Connection:
        """Return a connection with a transaction open on it; a writing one, so that none fails half way as busy."""

        async def attempt() -> Connection:
            request.attempt()
            connection = await connections.take(deadline)
            try:
                await connection.execute(begin, deadline_seconds=retry.left(deadline))
                request.answered()
            except errors.Indefinite as error:
                connections.drop(connection)
                raise before_commit(error) from error
            except BaseException:
                connections.drop(connection)
                raise
            return connection

        return await retry.until_done(attempt, deadline, self._is_closed)


def _nobody() -> None:
    """Who is asked beside a read, where there is nobody to ask."""


async def _end_failed(transaction: Transaction, error: BaseException) -> None:
    """Roll back. Raises NotReady instead of an error that may rest on old data."""
    try:
        if isinstance(error, Exception) and not isinstance(
            error, (errors.NotReady, errors.NotLeader, errors.Indefinite)
        ):
            await transaction.vouch()
    except (errors.NotReady, errors.NotLeader) as unconfirmed:
        raise errors.NotReady(
            f"nothing was committed; what the transaction read is not confirmed: {unconfirmed}", code=unconfirmed.code
        ) from error
    finally:
        await transaction.roll_back()

"""Flow 1, hop 7: one transaction, from the statement after BEGIN to COMMIT or ROLLBACK.

What is read inside the block is known to be true only when the block has ended without an error: a paused leader
answers from old data. So before COMMIT, unless a change is surely part of it, the other voters are asked who leads
(confirm.py), and an error that leaves the block is held to the same proof.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import NoReturn

from dbaccessor import confirm, errors, retry, statements
from dbaccessor.dqlite.connection import Connection
from dbaccessor.dqlite.results import Result, Rows
from dbaccessor.dqlite.wire import Parameters

_ROLLBACK_SECONDS = 1.0


class Transaction:
    """What the body of a transaction may do. Valid until the block that received it ends.

    The first failure that a node answers ends it: SQLite may have rolled back on its own then, and a later
    statement would run outside any transaction. A statement that was Refused before it was sent changes
    nothing.
    """

    def __init__(
        self, connection: Connection, confirmer: confirm.Confirmer, deadline: float, *, read_only: bool = False
    ) -> None:
        self._connection = connection
        self._confirmer = confirmer
        self._deadline = deadline
        self._read_only = read_only
        self._failure: errors.DbAccessorError | None = None
        self._over = False
        self._asked = False  # Something was sent that told the caller something.
        self._wrote = False  # Something was sent that may have changed something.
        self._changed = False  # Something has surely changed, so COMMIT itself asks the quorum.

    async def execute(self, sql: str, params: Parameters = ()) -> Result:
        """Run one statement that yields no rows."""
        statement = self._check(sql, params, statements.Kind.WRITE)
        if self._read_only:
            raise errors.Refused(f"{statement.verb} is not possible in a read-only transaction")
        async with self._statement():
            self._wrote = True
            result = await self._connection.execute(sql, params, deadline_seconds=self._left())
        self._changed |= statement.changes and result.rows_affected > 0
        return result

    async def query(self, sql: str, params: Parameters = ()) -> Rows:
        """Run one statement that only reads; it sees what this transaction wrote."""
        self._check(sql, params, statements.Kind.READ)
        async with self._statement():
            return await self._connection.query(sql, params, deadline_seconds=self._left())

    def _check(self, sql: str, params: Parameters, kind: statements.Kind) -> statements.Statement:
        if self._over:
            raise errors.Refused("the transaction is over")
        if self._failure is not None:
            raise errors.Refused(f"the transaction has failed already: {self._failure}", code=self._failure.code)
        statement = statements.check(sql, params)
        if statement.kind is not kind:
            self._refuse(statement)
        if statement.verb == "VACUUM":
            raise errors.Refused("VACUUM is not possible inside a transaction")
        return statement

    def _refuse(self, statement: statements.Statement) -> NoReturn:
        if statement.kind is statements.Kind.CONTROL:
            raise errors.Refused(f"{statement.verb} is the transaction's own: leave the block to end it")
        other = "query" if statement.kind is statements.Kind.READ else "execute"
        raise errors.Refused(f"{statement.verb} goes through {other}")

    @contextlib.asynccontextmanager
    async def _statement(self) -> AsyncIterator[None]:
        self._asked = True
        try:
            yield
        except errors.Indefinite as error:
            # Nothing that precedes COMMIT lasts: the node rolls back what a connection leaves open.
            self._failure = before_commit(error)
            self._connection.close()
            raise self._failure from error
        except errors.DbAccessorError as error:
            self._failure = error
            raise

    def _left(self) -> float:
        return retry.left(self._deadline)

    async def commit(self) -> None:
        """End the transaction so that it lasts, and what was read in it is true. Only Database calls this."""
        self._over = True
        if self._failure is not None:
            kind = errors.Refused if isinstance(self._failure, errors.Refused) else errors.NotReady
            raise kind(f"nothing was committed: {self._failure}", code=self._failure.code)
        if self._left() <= 0:
            raise errors.NotReady("the deadline passed before the transaction could be committed")
        if self._asked and not self._changed:
            await self._confirm()
        try:
            # Also the proof that the node has led all along: its database would be closed otherwise.
            await self._connection.execute("COMMIT", deadline_seconds=self._left())
        except errors.Indefinite as error:
            if self._wrote:
                raise
            raise before_commit(error) from error

    async def vouch(self) -> None:
        """Return if what was read so far is true. Only Database calls this, when the block raises.

        An error that leaves the block may rest on what was read in it; the old data of a deposed leader must not
        become a verdict. Raises NotReady or NotLeader.
        """
        self._over = True
        if self._asked:
            await self._confirm()
            await confirm.still_leads(self._connection, deadline=self._deadline)

    async def _confirm(self) -> None:
        members = await self._connection.cluster(deadline_seconds=self._left())
        await self._confirmer.confirm(self._connection, members, deadline=self._deadline)

    async def roll_back(self) -> None:
        """End the transaction without a trace. Only Database calls this. The connection stays usable if it can."""
        self._over = True
        if not self._connection.usable:
            return
        try:
            seconds = min(_ROLLBACK_SECONDS, max(0.05, self._left()))
            await self._connection.execute("ROLLBACK", deadline_seconds=seconds)
        except errors.DbAccessorError:
            # Whatever is wrong, a closed connection is rolled back by the node itself.
            self._connection.close()


def before_commit(error: errors.Indefinite) -> errors.NotReady:
    """Return what an outcome in doubt means where no COMMIT was sent, or nothing that it could make last."""
    return errors.NotReady(f"nothing was committed: {error}", code=error.code, address=error.address)

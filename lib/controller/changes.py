"""How those who watch rows learn cheaply that some changed: a counter in the same database, raised with each change.

Whoever writes rows that others watch raises the counter of their subject in the same transaction. Whoever watches
reads the one counter often, and the rows only when it is another one than before.
"""

from __future__ import annotations

from typing import Protocol

from dbaccessor.database import Consistency, Database, Transaction
from dbaccessor.dqlite.results import Rows
from dbaccessor.dqlite.wire import Parameters

_BUMP = (
    "INSERT INTO change_counter (subject, count) VALUES (?, 1) ON CONFLICT (subject) DO UPDATE SET count = count + 1"
)
_COUNT = "SELECT count FROM change_counter WHERE subject = ?"


async def bump(tx: Transaction, subject: str) -> None:
    """Tell those who watch `subject` that something changed, once this transaction is committed."""
    await tx.execute(_BUMP, (subject,))


async def count(
    database: Database, subject: str, *, consistency: Consistency = "leader", deadline_seconds: float = 5
) -> int:
    """Return how often `subject` changed. By default the answer may be old: that costs a watcher time."""
    return _counted(await database.read(_COUNT, (subject,), consistency=consistency, deadline_seconds=deadline_seconds))


class Peeked(Protocol):
    """What a single-instance worker watches with (leases/fence.py)."""

    async def peek(self, sql: str, params: Parameters = ()) -> Rows: ...


async def peek(database: Peeked, subject: str) -> int:
    """As count, through a database that is fenced."""
    return _counted(await database.peek(_COUNT, (subject,)))


def _counted(rows: Rows) -> int:
    return int(str(rows.rows[0][0])) if rows.rows else 0

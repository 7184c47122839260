"""How those who watch rows learn cheaply that some changed: a counter in the same database, raised with each change.

Whoever writes rows that others watch raises the counter of their subject in the same transaction. Whoever watches
reads the one counter often, and the rows only when it is another one than before.
"""

from __future__ import annotations

from dbaccessor.database import Consistency, Database, Transaction

_BUMP = (
    "INSERT INTO change_counter (subject, count) VALUES (?, 1) ON CONFLICT (subject) DO UPDATE SET count = count + 1"
)


async def bump(tx: Transaction, subject: str) -> None:
    """Tell those who watch `subject` that something changed, once this transaction is committed."""
    await tx.execute(_BUMP, (subject,))


async def count(
    database: Database, subject: str, *, consistency: Consistency = "leader", deadline_seconds: float = 5
) -> int:
    """Return how often `subject` changed. By default the answer may be old: that costs a watcher time."""
    rows = await database.read(
        "SELECT count FROM change_counter WHERE subject = ?",
        (subject,),
        consistency=consistency,
        deadline_seconds=deadline_seconds,
    )
    return int(str(rows.rows[0][0])) if rows.rows else 0

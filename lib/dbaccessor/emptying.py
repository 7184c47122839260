"""Takes the rows of a database away in transactions of bounded size.

Each page that a row leaves is in the log's entry: one of some 40 MiB can cost the leader its leadership. What cannot be
taken away row by row, as it has no rowids or as others refer to it, is left to `schema.empty`, which takes all at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from dbaccessor import schema
from dbaccessor.transaction import Transaction

_HIDDEN = "deleted "
# Of 4 KiB each: 2 MiB.
_PART_PAGES = 512
# Each row may also change a page of every index.
_MOST_ROWS = 2000


@dataclass(frozen=True)
class Part:
    """How much one transaction took away."""

    rows: int
    pages: int


NOTHING = Part(0, 0)


async def hide(tx: Transaction, kept: str) -> list[str]:
    """Rename all tables but `kept`, so that whoever still has the database open never sees a part of it; idempotent.

    Returns their new names, the newest first: those are likely to refer to older ones. What is no table is dropped.
    """
    await schema.drop_all_but_tables(tx)
    tables = [name for name in await schema.names(tx, "TABLE") if name != kept]
    for name in tables:
        if not name.startswith(_HIDDEN):
            await tx.execute(f"ALTER TABLE {schema.quoted(name)} RENAME TO {schema.quoted(_HIDDEN + name)}")
    return [name if name.startswith(_HIDDEN) else _HIDDEN + name for name in reversed(tables)]


async def take(tx: Transaction, table: str, rows: int) -> Part:
    """Delete up to so many rows. Raises Refused without rowids, and (at the end) where others refer to them."""
    await tx.query("PRAGMA defer_foreign_keys = ON")
    changes, free = await _number(tx, "SELECT total_changes()"), await _number(tx, "PRAGMA freelist_count")
    name = schema.quoted(table)
    await tx.execute(f"DELETE FROM {name} WHERE rowid IN (SELECT rowid FROM {name} LIMIT {rows})")
    changed, freed = await _number(tx, "SELECT total_changes()"), await _number(tx, "PRAGMA freelist_count")
    return Part(changed - changes, freed - free)


def next_rows(rows: int, part: Part) -> int:
    """Return how many rows to take next, after `rows` have made this part."""
    if part.pages > _PART_PAGES:
        return max(1, rows // 2)
    return min(2 * rows, _MOST_ROWS) if part.pages <= _PART_PAGES // 2 else rows


async def _number(tx: Transaction, question: str) -> int:
    return int(str((await tx.query(question)).rows[0][0]))

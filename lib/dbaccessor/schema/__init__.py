"""Numbered schema patches: files named NNNN-what.sql, applied in order, each in the transaction that records it.

A patch once released never changes. It runs once, whichever controller gets there first, and while controllers of two
versions run side by side. So patches come in two kinds (expand, then contract):

- one that code of the version before can live with (a new table, a new column with a default) runs at once;
- one that it cannot (a column dropped, a meaning changed) has `-- needs version N` as its first line. It, and all after
  it, wait until every controller has reported version N; from then on code of an older version is Refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from dbaccessor import errors
from dbaccessor.transaction import Transaction

_FILE: Final = re.compile(r"(\d{4})-[\w-]+\.sql")
_NEEDS: Final = re.compile(r"--\s*needs version (\d+)\s*\n")

_LEDGER: Final = re.compile(r"[a-z]+")
_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS {}_patch (number INTEGER NOT NULL PRIMARY KEY, name TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS {}_needs (number INTEGER NOT NULL PRIMARY KEY, version INTEGER NOT NULL)",
)


@dataclass(frozen=True)
class Patch:
    """One step. `needs` is the version that every controller must have reported, 0 for one that may run at once."""

    number: int
    name: str
    statements: tuple[str, ...]
    needs: int = 0


def load(folder: Path | Traversable) -> tuple[Patch, ...]:
    """Return the patches of a folder, in order. Raises ValueError for a gap, a repetition or a file out of place."""
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".sql")), key=lambda f: f.name)
    patches = tuple(parse(file.name, file.read_text()) for file in files)
    if [p.number for p in patches] != list(range(1, len(patches) + 1)):
        raise ValueError(f"the patches of {folder} are not numbered 0001, 0002 and so on: {[p.name for p in patches]}")
    return patches


def parse(name: str, text: str) -> Patch:
    """Return the patch in `text`. No statement may hold a semicolon inside. Raises ValueError for a wrong name."""
    found = _FILE.fullmatch(name)
    if found is None:
        raise ValueError(f"{name} is no name for a patch: NNNN-what.sql")
    needs = _NEEDS.match(text)
    body = text[needs.end() :] if needs else text
    statements = tuple(s.strip() for s in body.split(";") if s.strip())
    return Patch(int(found[1]), name, statements, int(needs[1]) if needs else 0)


def controller_patches() -> tuple[Patch, ...]:
    """The patches of the controller database."""
    return load(resources.files(__name__))


async def apply(
    tx: Transaction,
    patches: Sequence[Patch],
    *,
    own_version: int,
    lowest_version: int,
    ledger: str = "schema",
) -> tuple[Patch, ...]:
    """Run what is missing; return the patches that wait for controllers of an older version.

    What was run stands in the tables `<ledger>_patch` and `<ledger>_needs`. Two programs that share a database number
    their patches apart, each in a ledger of its own. Raises Refused when the database needs code of a newer version
    than `own_version`, ValueError for a ledger that is not one lower-case word.
    """
    if not _LEDGER.fullmatch(ledger):
        raise ValueError(f"{ledger!r} is no name for a ledger: one word of a-z")
    for table in _TABLES:
        await tx.execute(table.format(ledger))
    (highest,) = (await tx.query(f"SELECT coalesce(max(version), 0) FROM {ledger}_needs")).rows[0]
    needed = int(str(highest))
    if needed > own_version:
        raise too_old(needed, own_version)
    done = {row[0] for row in (await tx.query(f"SELECT number FROM {ledger}_patch")).rows}
    missing = [patch for patch in patches if patch.number not in done]
    for position, patch in enumerate(missing):
        if patch.needs > lowest_version:
            return tuple(missing[position:])
        await _run(tx, patch, ledger)
    return ()


def too_old(needed: int, own_version: int) -> errors.Refused:
    """What code is told that is of an older version than the database needs."""
    return errors.Refused(f"the database needs version {needed}, and this is {own_version}: refresh this controller")


async def _run(tx: Transaction, patch: Patch, ledger: str) -> None:
    for statement in patch.statements:
        await tx.execute(statement)
    await tx.execute(f"INSERT INTO {ledger}_patch (number, name) VALUES (?, ?)", (patch.number, patch.name))
    if patch.needs:
        await tx.execute(f"INSERT INTO {ledger}_needs (number, version) VALUES (?, ?)", (patch.number, patch.needs))


async def empty(tx: Transaction) -> None:
    """Drop everything in the database, whatever refers to whatever."""
    await tx.query("PRAGMA defer_foreign_keys = ON")
    await drop_all_but_tables(tx)
    tables = [quoted(name) for name in await names(tx, "TABLE")]
    # Dropping a table that rows of another refer to is an error; with all rows gone nothing refers to anything.
    for name in tables:
        await tx.execute(f"DELETE FROM {name}")
    for name in tables:
        await tx.execute(f"DROP TABLE {name}")


async def drop_all_but_tables(tx: Transaction) -> None:
    """Drop triggers, views and virtual tables."""
    for kind in ("TRIGGER", "VIEW"):
        for name in await names(tx, kind):
            await tx.execute(f"DROP {kind} {quoted(name)}")
    # A virtual table takes the tables that it keeps its data in along.
    for name in await names(tx, "TABLE", "AND sql LIKE 'CREATE VIRTUAL%'"):
        await tx.execute(f"DROP TABLE {quoted(name)}")


async def names(tx: Transaction, kind: str, condition: str = "") -> list[str]:
    """Return what the database has of this kind, but for SQLite's own, in the order in which it was made."""
    found = await tx.query(
        "SELECT name FROM sqlite_schema WHERE type = ? AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
        f" {condition} ORDER BY rowid",
        (kind.lower(),),
    )
    return [str(row[0]) for row in found.rows]


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'

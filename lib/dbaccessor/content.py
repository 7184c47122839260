"""What is in a SQLite file, as statements that make it again and as a checksum that says whether they did. Pure SQLite.

Kept are: rowids, the order of keys, WITHOUT ROWID and generated columns, AUTOINCREMENT's counters, indexes, views,
triggers, virtual tables with their shadows, user_version, and every value with its storage class: text that is no UTF-8
or holds NUL travels as bytes and is cast back.
"""

from __future__ import annotations

import hashlib
import sqlite3
import struct
from collections.abc import Iterator
from dataclasses import dataclass

Parameter = int | float | str | bytes | None

# So much goes into one statement: enough to be quick, little enough for one entry of the log.
_MOST_ROWS = 200
_MOST_PARAMETERS = 8000
_MOST_BYTES = 256 * 1024


class Text(bytes):
    """A text as it is stored; a blob is plain bytes."""


@dataclass(frozen=True)
class Statement:
    """One statement with its parameters. `rows` is how many rows it inserts, `bytes` about how much it carries."""

    sql: str
    params: tuple[Parameter, ...] = ()
    rows: int = 0
    bytes: int = 0


# Nothing else can make the table of counters, and SQLite never drops it: it outlives the last table that counts.
_MAKING_COUNTERS = (
    Statement("CREATE TABLE counting (id INTEGER PRIMARY KEY AUTOINCREMENT)"),
    Statement("DROP TABLE counting"),
)


@dataclass(frozen=True)
class Table:
    """One table: how its rows are read and written."""

    name: str
    columns: tuple[str, ...]
    order: str
    shadow: bool


@dataclass(frozen=True)
class Digest:
    """How many rows a table has, and a checksum over all of them in the order of their keys."""

    rows: int
    sha256: str


def open_values(database: sqlite3.Connection) -> sqlite3.Connection:
    """Make a connection return texts as Text."""
    database.text_factory = Text
    return database


def statements(database: sqlite3.Connection) -> Iterator[Statement]:
    """Yield what makes the database's content again in an empty one: tables, rows, counters, then all the rest."""
    objects = _objects(database)
    virtual = {name for kind, name, _ in _table_list(database) if kind == "virtual"}
    tables = _tables(database)
    shadows = {t.name for t in tables if t.shadow}
    if _has_sequence(database):
        yield from _MAKING_COUNTERS  # First of all, while every name is free.
    for kind, name, sql in objects:
        # Creating a virtual table makes its shadows.
        if kind == "table" and name not in shadows:
            yield Statement(sql)
    for table in tables:
        if table.shadow:
            yield Statement(f"DELETE FROM {_quoted(table.name)}")
        if table.name not in virtual:
            yield from _inserts(database, table)
    if _has_sequence(database):
        yield Statement("DELETE FROM sqlite_sequence")
        yield from _inserts(database, Table("sqlite_sequence", ("name", "seq"), "rowid", False))
    for kind, _, sql in objects:
        if kind != "table":
            yield Statement(sql)
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version:
        yield Statement(f"PRAGMA user_version = {int(version)}")


def digests(database: sqlite3.Connection) -> dict[str, Digest]:
    """Return one digest for each table and one, "", for the schema itself."""
    found = {table.name: _digest(database, table) for table in _tables(database)}
    if _has_sequence(database):
        found["sqlite_sequence"] = _digest(database, Table("sqlite_sequence", ("name", "seq"), "name", False))
    text = hashlib.sha256()
    objects = _objects(database)
    for kind, name, sql in sorted(objects):
        text.update(f"{kind}\0{name}\0{sql}\0".encode("utf-8", "surrogateescape"))
    return {**found, "": Digest(len(objects), text.hexdigest())}


def _objects(database: sqlite3.Connection) -> list[tuple[str, str, str]]:
    """Every object that has a statement, in the order in which they were made; indexes of keys have none."""
    found = database.execute(
        "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
        " ORDER BY rowid"
    )
    return [(_str(kind), _str(name), _str(sql)) for kind, name, sql in found]


def _table_list(database: sqlite3.Connection) -> list[tuple[str, str, bool]]:
    found = database.execute("SELECT type, name, wr FROM pragma_table_list WHERE schema = 'main' ORDER BY name")
    kinds = [(_str(kind), _str(name), bool(wr)) for kind, name, wr in found]
    return [k for k in kinds if not k[1].startswith("sqlite_") and k[0] != "view"]


def _has_sequence(database: sqlite3.Connection) -> bool:
    return database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_sequence'").fetchone() is not None


def _tables(database: sqlite3.Connection) -> list[Table]:
    return [_table(database, *entry) for entry in _table_list(database) if entry[0] != "virtual"]


def _table(database: sqlite3.Connection, kind: str, name: str, without_rowid: bool) -> Table:
    info = database.execute("SELECT name, type, pk, hidden FROM pragma_table_xinfo(?)", (name,)).fetchall()
    stored = [_str(column) for column, _, _, hidden in info if not hidden]
    keys = [_str(column) for column, _, pk, _ in sorted(info, key=lambda row: int(row[2])) if pk]
    if without_rowid:
        return Table(name, tuple(stored), ", ".join(_quoted(k) for k in keys), kind == "shadow")
    taken = {_str(column).lower() for column, _, _, _ in info}
    alias = next((a for a in ("rowid", "_rowid_", "oid") if a not in taken), None)
    if alias is None:  # All three names are columns: the rowids cannot be read, and nobody can have used them.
        return Table(name, tuple(stored), ", ".join(_quoted(c) for c in stored), kind == "shadow")
    aliased = len(keys) == 1 and any(_str(c) == keys[0] and _str(t).upper() == "INTEGER" for c, t, _, _ in info)
    columns = tuple(stored) if aliased else (alias, *stored)
    return Table(name, columns, alias, kind == "shadow")


def _rows(database: sqlite3.Connection, table: Table) -> sqlite3.Cursor:
    columns = ", ".join(_column(c) for c in table.columns)
    order = f" ORDER BY {table.order}" if table.order else ""
    return database.execute(f"SELECT {columns} FROM {_quoted(table.name)}{order}")


def _inserts(database: sqlite3.Connection, table: Table) -> Iterator[Statement]:
    if not table.columns:
        return
    head = f"INSERT INTO {_quoted(table.name)} ({', '.join(_column(c) for c in table.columns)}) VALUES "
    marks: list[str] = []
    params: list[Parameter] = []
    size = 0
    for row in _rows(database, table):
        pairs = [_parameter(value) for value in row]
        weight = sum(len(p) if isinstance(p, bytes | str) else 8 for _, p in pairs)
        if marks and (
            len(marks) >= _MOST_ROWS or len(params) + len(pairs) > _MOST_PARAMETERS or size + weight > _MOST_BYTES
        ):
            yield Statement(head + ",".join(marks), tuple(params), len(marks), size)
            marks, params, size = [], [], 0
        marks.append("(" + ",".join(mark for mark, _ in pairs) + ")")
        params += [p for _, p in pairs]
        size += weight
    if marks:
        yield Statement(head + ",".join(marks), tuple(params), len(marks), size)


def _parameter(value: object) -> tuple[str, Parameter]:
    if isinstance(value, Text):
        try:
            text = value.decode()
        except UnicodeDecodeError:
            text = "\0"
        return ("CAST(? AS TEXT)", bytes(value)) if "\0" in text else ("?", text)
    if value is None or isinstance(value, int | float | bytes):
        return "?", value
    raise TypeError(f"SQLite returned a {type(value).__name__}")


def _digest(database: sqlite3.Connection, table: Table) -> Digest:
    digest, count = hashlib.sha256(), 0
    for row in _rows(database, table):
        count += 1
        for value in row:
            digest.update(_tagged(value))
    return Digest(count, digest.hexdigest())


def _tagged(value: object) -> bytes:
    """Return bytes that no other value of any storage class has."""
    if value is None:
        return b"n"
    if isinstance(value, int):
        return b"i" + struct.pack("<q", value)
    if isinstance(value, float):
        return b"r" + struct.pack("<d", value)
    assert isinstance(value, bytes)
    data = bytes(value)
    return (b"t" if isinstance(value, Text) else b"b") + struct.pack("<q", len(data)) + data


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _column(name: str) -> str:
    # In quotes an alias of the rowid would be taken for a text where no such column is.
    return name if name in ("rowid", "_rowid_", "oid") else _quoted(name)


def _str(value: object) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)

"""Taking a SQLite file apart into statements and putting it together again, with SQLite itself as the judge."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbaccessor import content


def again(source: sqlite3.Connection) -> sqlite3.Connection:
    copy = content.open_values(sqlite3.connect(":memory:", isolation_level=None))
    for statement in content.statements(source):
        copy.execute(statement.sql, statement.params)
    return copy


def made(*statements: str) -> sqlite3.Connection:
    database = content.open_values(sqlite3.connect(":memory:", isolation_level=None))
    for statement in statements:
        database.execute(statement)
    return database


@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE TABLE t (a, b)", "INSERT INTO t (rowid, a) VALUES (7, 1), (-3, 2), (9000000000000000000, 'x')"],
        ["CREATE TABLE t (a TEXT PRIMARY KEY, b) WITHOUT ROWID", "INSERT INTO t VALUES ('z', 1), ('a', x'00ff')"],
        ["CREATE TABLE t (a, b, PRIMARY KEY (b, a)) WITHOUT ROWID", "INSERT INTO t VALUES (1, 2), (2, 1)"],
        ["CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT)", "INSERT INTO t VALUES (99)", "DELETE FROM t"],
        ["CREATE TABLE a (id INTEGER PRIMARY KEY AUTOINCREMENT)", "INSERT INTO a VALUES (NULL)", "CREATE TABLE b (x)",
         "DROP TABLE a"],
        ["CREATE TABLE counting (id INTEGER PRIMARY KEY AUTOINCREMENT)", "INSERT INTO counting VALUES (7)",
         "CREATE TABLE b (x)", "DROP TABLE counting", "CREATE TABLE counting (x)"],
        ["CREATE TABLE t (rowid TEXT, a)", "INSERT INTO t VALUES ('mine', 1)"],
        ["CREATE TABLE t (rowid, _rowid_, oid)", "INSERT INTO t VALUES (1, 2, 3)"],
        ["CREATE TABLE t (a INT, b AS (a * 2) STORED, c AS (a + 1))", "INSERT INTO t (a) VALUES (4)"],
        ["CREATE TABLE t (a)", "INSERT INTO t VALUES (CAST(x'610062' AS TEXT)), (CAST(x'fffe' AS TEXT)), (x'610062')"],
        ["CREATE TABLE t (a REAL, b)", "INSERT INTO t VALUES (1, 1.0), (9e999, -9e999), (-0.0, 0.5)"],
        ["CREATE TABLE t (a)", "CREATE INDEX i ON t (a DESC) WHERE a > 1", "INSERT INTO t VALUES (5)"],
        ["CREATE TABLE t (a)", "CREATE VIEW v AS SELECT a FROM t",
         "CREATE TRIGGER r AFTER INSERT ON t BEGIN DELETE FROM t; INSERT INTO t VALUES (0); END",
         "INSERT INTO t VALUES (5)"],
        ['CREATE TABLE "a ""b" ("select" TEXT, "c d" INTEGER)', """INSERT INTO "a ""b" VALUES ('''', 1)"""],
        ["CREATE TABLE p (a PRIMARY KEY)", "CREATE TABLE c (a REFERENCES p)", "INSERT INTO p VALUES (1)",
         "INSERT INTO c VALUES (1)"],
        ["PRAGMA user_version = 41"],
        ["CREATE VIRTUAL TABLE f USING fts5(body)", "INSERT INTO f VALUES ('the quick fox'), ('lazy')"],
    ],
)  # fmt: skip
def test_what_was_taken_apart_comes_together_as_it_was(statements: list[str]):
    source = made(*statements)

    copy = again(source)

    assert content.digests(copy) == content.digests(source)
    assert copy.execute("PRAGMA user_version").fetchone() == source.execute("PRAGMA user_version").fetchone()
    assert copy.execute("PRAGMA integrity_check").fetchall() == [(b"ok",)]


def test_an_index_of_words_still_finds_them():
    copy = again(made("CREATE VIRTUAL TABLE f USING fts5(body)", "INSERT INTO f VALUES ('the quick fox'), ('lazy')"))

    assert copy.execute("SELECT body FROM f WHERE f MATCH 'quick'").fetchall() == [(b"the quick fox",)]


def test_a_changed_value_or_storage_class_changes_the_checksum():
    one = content.digests(made("CREATE TABLE t (a)", "INSERT INTO t VALUES ('1')"))["t"]

    for value in ("1", "x'31'", "'2'", "1.0", "NULL"):
        assert content.digests(made("CREATE TABLE t (a)", f"INSERT INTO t VALUES ({value})"))["t"] != one


def test_many_and_large_rows_come_in_bounded_statements():
    source = made("CREATE TABLE t (a)")
    source.executemany("INSERT INTO t VALUES (?)", [("x" * (n * 100),) for n in range(2000)])

    found = [s for s in content.statements(source) if s.rows]

    assert sum(s.rows for s in found) == 2000
    assert all(s.rows <= 200 and s.bytes <= 600_000 for s in found)
    assert content.digests(again(source)) == content.digests(source)


values = st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text() | st.binary()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(values, values), max_size=20))
def test_any_values_come_back(rows):
    source = made("CREATE TABLE t (a, b NUMERIC)")
    rows = [tuple(v.encode("utf-8", "replace").decode() if isinstance(v, str) else v for v in row) for row in rows]
    source.executemany("INSERT INTO t VALUES (?, ?)", rows)

    assert content.digests(again(source)) == content.digests(source)


def test_a_file_that_is_damaged_is_an_error_of_sqlite(tmp_path: Path):
    (tmp_path / "x").write_bytes(b"SQLite format 3\0" + bytes(5000))

    with pytest.raises(sqlite3.Error):
        content.digests(content.open_values(sqlite3.connect(tmp_path / "x")))

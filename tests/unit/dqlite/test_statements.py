"""Statements that must never be sent, and statements that must not be kept from being sent."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dbaccessor import errors, statements
from dbaccessor.statements import Kind, Statement


@pytest.mark.parametrize(
    ("sql", "verb", "kind", "parameters"),
    [
        ("SELECT 1", "SELECT", Kind.READ, 0),
        ("  select ? -- a comment with ; and RETURNING", "SELECT", Kind.READ, 1),
        ("VALUES (?, ?)", "VALUES", Kind.READ, 2),
        ("EXPLAIN QUERY PLAN SELECT 1", "EXPLAIN", Kind.READ, 0),
        ("PRAGMA table_info(t)", "PRAGMA", Kind.READ, 0),
        ("PRAGMA page_count", "PRAGMA", Kind.READ, 0),
        ("INSERT INTO t VALUES ('?', \"?\", [?], `?`, ?);", "INSERT", Kind.WRITE, 1),
        ("INSERT INTO t VALUES ('it''s returning;')", "INSERT", Kind.WRITE, 0),
        ('SELECT "returning" FROM t', "SELECT", Kind.READ, 0),
        ("/* one; */ DELETE FROM t /* unfinished", "DELETE", Kind.WRITE, 0),
        ("UPDATE t SET a = a->>'$.x' || ?", "UPDATE", Kind.WRITE, 1),
        ("REPLACE INTO t(a) SELECT 1e-5", "REPLACE", Kind.WRITE, 0),
        ("WITH x(a) AS (SELECT 1) SELECT a FROM x", "SELECT", Kind.READ, 0),
        ("WITH x AS (SELECT 1 UNION SELECT 2) INSERT INTO t SELECT * FROM x", "INSERT", Kind.WRITE, 0),
        ("with recursive c(x) as (values (1)) delete from t where a in c", "DELETE", Kind.WRITE, 0),
        ("CREATE TABLE date(date TEXT, timestamp INTEGER DEFAULT 0, boolean)", "CREATE", Kind.WRITE, 0),
        ("CREATE INDEX i ON t(a, date)", "CREATE", Kind.WRITE, 0),
        ("ALTER TABLE t RENAME COLUMN a TO date", "ALTER", Kind.WRITE, 0),
        ("CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT 1; DELETE FROM u; END;", "CREATE", Kind.WRITE, 0),
        ("CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT CASE WHEN 1 THEN 2 END; END", "CREATE", Kind.WRITE, 0),
        ("BEGIN IMMEDIATE", "BEGIN", Kind.CONTROL, 0),
        ("COMMIT", "COMMIT", Kind.CONTROL, 0),
        ("SELECT é, 🙂", "SELECT", Kind.READ, 0),
        ("\ufeffSELECT a", "SELECT", Kind.READ, 0),
        ("SELECT * FROM pragma_table_info('t'), pragma_function_list", "SELECT", Kind.READ, 0),
        ("SELECT optimize, pragmatic FROM t", "SELECT", Kind.READ, 0),
    ],
)
def test_good_statements_pass_and_are_understood(sql: str, verb: str, kind: Kind, parameters: int):
    assert statements.check(sql, (1,) * parameters) == Statement(verb, kind, parameters)


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("INSERT INTO t VALUES (1) RETURNING a", "RETURNING"),
        ("insert into t values (1)returning*", "RETURNING"),
        ("UPDATE t SET a=1/**/ReTuRnInG--x\na", "RETURNING"),
        ("DELETE FROM t WHERE a=1 RETURNING\t'x'", "RETURNING"),
        ("WITH x AS (SELECT 1) INSERT INTO t SELECT 1 RETURNING 1", "RETURNING"),
        ("SELECT 1; SELECT 2", "several"),
        ("SELECT 1;; SELECT 2", "several"),
        ("; SELECT 1", "several"),
        ("CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT 1; END; DROP TABLE t", "several"),
        ("", "empty"),
        (" -- nothing", "empty"),
        (";", "empty"),
        ("()", "empty"),
        ("SELECT 'unfinished", "quotes"),
        ('SELECT "unfinished', "quotes"),
        ("SELECT 1\0", "NUL"),
        ("SELECT '\ud800'", "Unicode"),
        ("SELECT ?1", "plain"),
        ("SELECT :name", "plain"),
        ("SELECT @name", "plain"),
        ("SELECT $name", "plain"),
        ("WITH x AS (SELECT 1)", "does nothing"),
        ("ATTACH 'x' AS y", "ATTACH"),
        ("DETACH y", "DETACH"),
        ("PRAGMA", "PRAGMA"),
        ("PRAGMA journal_mode=DELETE", "journal_mode"),
        ("PRAGMA user_version=7", "user_version"),
        ("PRAGMA user_version(7)", "user_version"),
        ("PRAGMA delete_database", "delete_database"),
        ('PRAGMA "query_only"=table_info', "plain name"),
        ("EXPLAIN PRAGMA delete_database", "EXPLAIN PRAGMA"),
        ("explain query /**/ plan pragma query_only=1", "EXPLAIN PRAGMA"),
        ("SELECT * FROM pragma_optimize(65538)", "pragma_optimize"),
        ("CREATE VIEW v AS SELECT * FROM 'Pragma_Optimize'", "pragma_optimize"),
        ("SELECT Optimize (t) FROM t", "optimize"),
        ("(SELECT 1)", "begins with a word"),
        ("SELECT\N{NO-BREAK SPACE}1", "not a statement"),
        ("\ufeffCREATE TEMP TABLE x(a)", "temporary"),
        ("CREATE TABLE t(नाम BOOLEAN)", "BOOLEAN"),
        ("CREATE TABLE t(a€ BOOLEAN)", "BOOLEAN"),
        ("CREATE TABLE t(a \vBOOLEAN)", "BOOLEAN"),
        ("CREATE TABLE t(a BOOLEAN)", "BOOLEAN"),
        ("CREATE TEMP TABLE IF NOT EXISTS t(a, b boolean NOT NULL)", "BOOLEAN"),
        ("CREATE TABLE t(a INTEGER, 'b' \"DateTime\")", "DATETIME"),
        ("CREATE TABLE t(column 'date')", "DATE"),
        ("ALTER TABLE t ADD a TIMESTAMP", "TIMESTAMP"),
        ("ALTER TABLE t ADD COLUMN [a] `timestamp`", "TIMESTAMP"),
        ("ALTER TABLE t ADD COLUMN column BOOLEAN", "BOOLEAN"),
        ("SELECT " + "?," * 32767 + "?", "possible"),
        ("SELECT '" + "x" * 1_000_001 + "'", "longer"),
    ],
)
def test_bad_statements_are_refused_with_their_reason(sql: str, reason: str):
    with pytest.raises(errors.Refused, match=reason):
        statements.check(sql)


@pytest.mark.parametrize(
    ("sql", "params", "reason"),
    [
        ("SELECT ?", (), "1 parameters, and 0 values"),
        ("SELECT 1", (1,), "0 parameters, and 1 values"),
        ("SELECT '?'", (1,), "0 parameters"),
        ("SELECT ?", ("a\0b",), "value 1: the text contains NUL"),
        ("SELECT ?, ?", (1, "\udfff"), "value 2: the text is not valid Unicode"),
        ("SELECT ?", (2**63,), "64 bits"),
        ("SELECT ?", (-(2**63) - 1,), "64 bits"),
        ("SELECT ?", (float("nan"),), "NULL"),
        ("SELECT ?", (object(),), "object cannot be stored"),
        ("SELECT ?", (bytearray(b"x"),), "bytearray cannot be stored"),
    ],
)
def test_bad_values_are_refused_with_their_place_and_reason(sql: str, params: Sequence[object], reason: str):
    with pytest.raises(errors.Refused, match=reason):
        statements.check(sql, params)


def test_good_values_pass():
    values = (0, True, 2**63 - 1, -(2**63), 1.5, float("inf"), "", "é", b"", b"\0", None)

    assert statements.check("VALUES (" + ",".join("?" * len(values)) + ")", values).parameters == len(values)


# SQLite itself is the judge: whatever it takes as one statement that writes and returns rows must be refused. The
# pieces are those with which a tokenizer can be led astray.
_PIECES = [
    *("RETURNING", "returning", "Returning", "a", "*", "1", ".5", "1e5", "0x1f", "'", '"', "`", "[", "]", "''"),
    *("--", "\n", "/*", "*/", "/**/", " ", "\t", "\x0b", "\x0c", ";", "?", "x'00'", "'x'", '"a"', "`a`", "[a]"),
    *("WHERE", "AND", "a=", "=1", "VALUES(1)", "SELECT 1", "ON CONFLICT DO NOTHING", "é", "🙂", "\u00a0", "_", "$"),
    *("INSERT INTO t", "DELETE FROM t", "UPDATE t SET a=1", "REPLACE INTO t", "WITH x AS (SELECT 1)", "\ufeff"),
]


def _returns_rows_and_writes(sql: str) -> bool:
    database = sqlite3.connect(":memory:")
    try:
        database.execute("CREATE TABLE t(a)")
        database.execute("INSERT INTO t VALUES(0)")
        database.commit()
        cursor = database.execute(sql, (1,) * sql.count("?"))
        returns = cursor.description is not None
        cursor.fetchall()
        return returns and database.in_transaction
    except (sqlite3.Error, sqlite3.Warning, sqlite3.ProgrammingError):
        return False
    finally:
        database.close()


@settings(max_examples=300)
@given(
    st.sampled_from(["INSERT INTO t VALUES(1)", "DELETE FROM t", "UPDATE t SET a=1 WHERE a=0", ""]),
    st.lists(st.sampled_from(_PIECES), max_size=8),
)
@example("INSERT INTO t VALUES(1)", ["RETURNING", " ", "a"])
@example("DELETE FROM t", ["/**/", "returning", "*"])
def test_no_row_returning_write_that_sqlite_accepts_passes(beginning: str, pieces: list[str]):
    sql = beginning + " " + "".join(pieces)
    if not _returns_rows_and_writes(sql):
        return

    with pytest.raises(errors.Refused):
        statements.check(sql, (1,) * sql.count("?"))


def test_the_judge_can_say_yes():
    assert _returns_rows_and_writes("INSERT INTO t VALUES(1) RETURNING a")
    assert not _returns_rows_and_writes("INSERT INTO t VALUES(1)")
    assert not _returns_rows_and_writes("SELECT a FROM t")


_COLUMN_PIECES = ["a", '"a"', "'a'", "[a]", "BOOLEAN", "boolean", '"BOOLEAN"', "'date'", "[DATETIME]", "`timestamp`"]
_COLUMN_PIECES += ["नाम", "a€", "e\u0301", "\ufeffa", "\vBOOLEAN", "\v", "\N{NO-BREAK SPACE}", "a$"]
_COLUMN_PIECES += ["(1)", ",", " ", "/**/", "TEXT", "NOT NULL", "DEFAULT", "1", "COLUMN", "ADD", "PRIMARY KEY", "date"]


@given(
    st.sampled_from(["CREATE TABLE u(", "ALTER TABLE t ADD "]), st.lists(st.sampled_from(_COLUMN_PIECES), max_size=8)
)
@example("CREATE TABLE u(", ["a", "BOOLEAN"])
@example("ALTER TABLE t ADD ", ["COLUMN", "a", "'date'"])
@example("CREATE TABLE u(", ["a", "[a]", "नाम"])  # SQLite cuts this type in the middle of a letter.
def test_no_table_that_sqlite_accepts_gets_a_column_of_a_deadly_type(beginning: str, pieces: list[str]):
    sql = beginning + " ".join(pieces) + (")" if "(" in beginning else "")
    database = sqlite3.connect(":memory:")
    database.text_factory = lambda raw: raw.decode(errors="replace")
    database.execute("CREATE TABLE t(x)")
    try:
        database.execute(sql)
    except sqlite3.Error:
        return
    else:
        info = [*database.execute("PRAGMA table_xinfo(t)"), *database.execute("PRAGMA table_xinfo(u)")]
    finally:
        database.close()
    declared = {row[2].upper() for row in info}
    if declared & {"BOOLEAN", "DATE", "DATETIME", "TIMESTAMP"}:
        with pytest.raises(errors.Refused):
            statements.check(sql)


@given(st.text(max_size=40))
def test_any_text_is_understood_or_refused_and_nothing_else(sql: str):
    try:
        statements.check(sql)
    except errors.Refused:
        pass


@pytest.mark.parametrize(
    ("sql", "changes"),
    [
        ("INSERT INTO t VALUES (1)", True),
        ("INSERT OR IGNORE INTO t(a) SELECT 1", True),
        ("WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x", True),
        ("INSERT INTO t DEFAULT VALUES", True),
        ("DELETE FROM t", True),
        ("INSERT OR REPLACE INTO t VALUES (1)", False),
        ("INSERT INTO t VALUES (1) ON CONFLICT DO UPDATE SET a = a", False),
        ("REPLACE INTO t VALUES (1)", False),
        ("UPDATE t SET a = 1", False),
        ("CREATE TABLE IF NOT EXISTS t(a)", False),
        ("INSERT INTO fts(fts) VALUES ('optimize')", False),
        ('INSERT INTO fts("FTS") VALUES (1)', False),
    ],
)
def test_only_what_surely_dirties_a_page_is_said_to_change_something(sql: str, changes: bool):
    assert statements.check(sql).changes is changes


@pytest.mark.parametrize(
    "sql", ["CREATE TEMP TABLE t(a)", "create temporary view v as select 1", 'CREATE TABLE "temp".t(a)']
)
def test_temporary_tables_are_refused(sql: str):
    with pytest.raises(errors.Refused, match="temporary"):
        statements.check(sql)


def test_a_table_may_be_called_temp():
    assert statements.check("CREATE TABLE t(temp TEXT)").verb == "CREATE"


LONG = "'" + "x" * 4000 + "'"


@pytest.mark.parametrize(
    "sql",
    [
        f"SELECT {LONG}",
        f"SELECT 1, {LONG} FROM t",
        "SELECT 1 AS " + "x" * 4000,
        "SELECT " + ", ".join(["a"] * 500) + " FROM t",
        f"WITH c AS (SELECT 1) SELECT {LONG} FROM c",
        "SELECT a /* " + "x" * 4000 + " */ + 1 FROM t",
        "VALUES (" + ", ".join(["1"] * 500) + ")",
        f"SELECT a IS NOT DISTINCT FROM {LONG}",
    ],
)
def test_names_of_columns_that_a_node_would_send_for_ever_are_refused(sql: str):
    with pytest.raises(errors.Refused, match="names of the columns"):
        statements.check(sql)


@pytest.mark.parametrize(
    "sql",
    [
        f"SELECT {LONG} AS a, f({LONG}, 1) AS b FROM t",
        f"SELECT a FROM t WHERE b IN ({LONG}, {LONG}) ORDER BY a",
        f"WITH c AS (SELECT {LONG}) SELECT * FROM c",
        f"VALUES ({LONG})",
        f"INSERT INTO t SELECT {LONG}",
        f"SELECT DISTINCT a FROM t WHERE a <> {LONG}",
    ],
)
def test_long_statements_with_short_names_pass(sql: str):
    statements.check(sql)


@pytest.mark.parametrize(
    ("sql", "name"),
    [
        ("DROP TABLE t", "t"),
        ("drop/**/table If Exists main . größe; -- x", "größe"),
        ('DROP TABLE "a ""b"" c"', 'a "b" c'),
        ("DROP TABLE 'it''s'", "it's"),
        ("DROP TABLE [a[[b]", "a[[b"),
        ("DROP INDEX t", None),
        ("DELETE FROM t", None),
        ("VACUUM", None),
        ("CREATE TABLE t (n)", None),
    ],
)
def test_a_statement_tells_which_table_it_drops(sql: str, name: str | None):
    assert statements.dropped_table(sql) == name

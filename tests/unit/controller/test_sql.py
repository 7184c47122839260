"""hactl sql: what is typed, how rows are shown, and what is sent in place of a statement."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from controller import routes
from controller.asking import Format
from controller.cli import app
from controller.commands import sql
from controller.commands.sql import Answer
from dbaccessor import errors
from sqlitedatabase import SqliteDatabase


def test_statements_end_at_semicolons_and_dot_commands_at_the_line():
    typed = ["SELECT 1;\n", "\n", ".tables\n", "SELECT ';'\n", "  , 2; -- done\n", "SELECT 3"]

    assert list(sql._statements(iter(typed))) == ["SELECT 1;", ".tables", "SELECT ';'\n  , 2; -- done", "SELECT 3"]


def test_a_statement_that_is_given_up_half_typed_is_gone():
    typed = ["SELECT '\n", None, "SELECT 1;\n", "SELECT", None]

    assert list(sql._statements(iter(typed))) == ["SELECT 1;"]


def test_in_the_shell_control_c_gives_up_what_was_typed_and_control_d_runs_nothing(monkeypatch):
    typed = iter(["SELECT 'open", KeyboardInterrupt(), "SELECT 1;", ".use other", "SELECT 2", EOFError()])
    asked: list[str] = []

    def keyboard(prompt: str) -> str:
        line = next(typed)
        if isinstance(line, BaseException):
            raise line
        return line

    def request(path: Path, method: str, target: str, body: bytes, timeout_seconds: float) -> tuple[int, bytes]:
        asked.append(json.loads(body)["sql"])
        return 200, json.dumps({"columns": ["1"], "rows": [[1]]}).encode()

    monkeypatch.setattr("builtins.input", keyboard)
    monkeypatch.setattr("dbaccessor.confsocket.request", request)

    sql._interactive(sql.Shell(Path("/nowhere"), "controller", Format.TEXT, 10, 1.0, False))

    assert asked == ["SELECT 1;"]
    assert list(typed) == []


def test_rows_stand_in_columns_and_control_characters_do_not_reach_the_terminal():
    answer = Answer(("id", "text"), ((1, "a\x1b[2Jb"), (100, None), (2, {"blob": "00ff"}), (3, {"real": "-inf"})))

    assert list(sql.table(answer)) == [
        "id   text",
        "---  ---------",
        "1    a\\x1b[2Jb",
        "100  NULL",
        "2    x'00ff'",
        "3    -inf",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "SELECT n FROM t",
        " select n from t ; \n",
        "SELECT n FROM t; -- a comment",
        "SELECT n FROM t -- a comment",
        "SELECT t.n, u.n, 1 AS 'n:1' FROM t, t AS u ORDER BY 1, 2 DESC",
        "SELECT n, n FROM t LIMIT 100",
        "SELECT n, n FROM t LIMIT 2",
        "SELECT n, n FROM t LIMIT 100 OFFSET 1 + 1;",
        "SELECT n, n FROM t LIMIT 1, 100",
        "SELECT n FROM t LIMIT (SELECT 100)",
        "SELECT n FROM t LIMIT -1",
        "SELECT n FROM t LIMIT 5 + 5",
        "SELECT n, n FROM (SELECT n FROM t LIMIT 9)",
        "SELECT n, n FROM t UNION ALL SELECT n, 2 FROM t",
        "SELECT n FROM t UNION ALL VALUES (7), (8)",
        "WITH x AS (SELECT n, n AS m FROM t) SELECT n, m, n FROM x;",
        "VALUES (1), (2), (3), (4), (5), (6)",
    ],
)
def test_a_query_is_bounded_by_the_node_and_its_columns_keep_their_names(text: str):
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE t AS SELECT value AS n FROM json_each('[1, 2, 3, 4, 5, 6]')")
    plain = database.execute(text)

    bounded, params = routes.bounded(text, 4, ())

    found = database.execute(bounded, params)
    assert found.description == plain.description
    assert found.fetchall() == plain.fetchall()[:4]


def test_a_bounded_query_keeps_its_values():
    bounded, params = routes.bounded("SELECT n FROM (SELECT 1 AS n UNION SELECT 2) WHERE n > ? LIMIT ?", 11, (0, 1))

    assert sqlite3.connect(":memory:").execute(bounded, params).fetchall() == [(1,)]


@pytest.mark.parametrize("text", ["PRAGMA table_list", "EXPLAIN SELECT 1", "VALUES (1); -- a comment"])
def test_what_cannot_be_bounded_goes_as_it_is(text: str):
    assert routes.bounded(text, 11, ()) == (text, ())


@pytest.mark.parametrize("text", ["DELETE FROM t", "BEGIN", "INSERT INTO t SELECT 1", "SELECT 1; SELECT 2", ""])
def test_a_reading_shell_refuses_what_changes_something(text: str):
    with pytest.raises(errors.Refused):
        routes.bounded(text, 11, ())


STATUS = {
    "schema": 1,
    "controller-id": "0",
    "version": "1",
    "dqlite-version": "1.18.3",
    "dqlite-proven": True,
    "state": "serving",
    "reason": "",
    "since": "2026-01-01T00:00:00Z",
    "unheard-of": {"by": "this hactl"},
}
ANSWERS: dict[str, object] = {
    "/status": STATUS,
    "/databases": {"databases": ["controller"]},
    "/sql": {"columns": ["sql"], "rows": [["CREATE TABLE t (\n  a INTEGER)"]], "truncated": False},
}


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run hactl sql --format json beside a controllerd that answers everything, and return what it prints."""

    def request(path: Path, method: str, target: str, body: bytes, timeout_seconds: float) -> tuple[int, bytes]:
        return 200, json.dumps(ANSWERS[target], indent=4).encode()

    def run(*words: str, typed: str = "") -> str:
        done = CliRunner().invoke(app, ["--state-dir", "/nowhere", "sql", "--format", "json", *words], input=typed)
        assert done.exit_code == 0, done.output
        return done.stdout

    monkeypatch.setattr("dbaccessor.confsocket.request", request)
    return run


@pytest.mark.parametrize(
    ("statement", "document"),
    [
        (".cluster", STATUS),
        (".help", {"help": sql._HELP}),
        (".namespaces", {"columns": ["namespace"], "rows": [["controller"]], "truncated": False}),
        (".tables", ANSWERS["/sql"]),
        (".ddl t", ANSWERS["/sql"]),
        ("SELECT sql FROM sqlite_schema", ANSWERS["/sql"]),
    ],
)
def test_as_json_every_answer_is_a_json_document(ask: Callable[..., str], statement: str, document: object):
    assert json.loads(ask(statement)) == document


@pytest.mark.parametrize("word", [".quit", ".exit", ".quit;"])
def test_on_stdin_the_words_that_leave_the_shell_end_it(ask: Callable[..., str], word: str):
    assert json.loads(ask(typed=f".help\n{word}\n.no-such-word\n")) == {"help": sql._HELP}


def test_as_json_several_statements_are_answered_with_one_line_each(ask: Callable[..., str]):
    printed = ask(typed=".cluster\n.use controller\n.help\nSELECT sql\nFROM sqlite_schema;\n.namespaces\n")

    found = [json.loads(line) for line in printed.splitlines()]
    assert found[:3] == [STATUS, {"help": sql._HELP}, ANSWERS["/sql"]]
    assert len(found) == 4


class OneDatabase:
    """What DatabaseRoutes needs of a worker, on SQLite."""

    def __init__(self, *statements: str) -> None:
        self.rows = SqliteDatabase()
        for statement in statements:
            self.rows.sqlite.execute(statement)

    async def databases(self, *, deadline_seconds: float) -> tuple[str, ...]:
        return ("controller",)

    def database(self, name: str) -> SqliteDatabase:
        return self.rows

    def write(self, statement: str, **more: Any) -> dict[str, Any]:
        async def run() -> dict[str, Any]:
            here = routes.DatabaseRoutes(cast(Any, self), asyncio.get_running_loop(), "1", "1")
            return await here._run_write(routes.Question(sql=statement, **more), 5)

        return asyncio.run(run())


@pytest.mark.parametrize(
    ("statement", "rows", "schema"),
    [
        ("UPDATE t SET n = 7", 3, False),
        ("DELETE FROM t WHERE n > 9", 0, False),
        ("DROP TABLE t", 3, True),
        ('drop table if exists main."T" -- all of it', 3, True),
        ("DROP TABLE [Größe];", 1, True),
        ("DROP TABLE größe", 1, True),
        ("DROP TABLE parent", 3, True),
        ("DROP TABLE IF EXISTS absent", 0, False),
        ("DROP VIEW v", 0, True),
        ("CREATE TABLE u (n)", 0, True),
        ("CREATE TABLE IF NOT EXISTS t (n)", 0, False),
        ("ALTER TABLE t ADD COLUMN m", 0, True),
        ("REINDEX", 0, False),
    ],
)
def test_what_a_write_changes_is_told_and_a_schema_counts(statement: str, rows: int, schema: bool):
    here = OneDatabase(
        "CREATE TABLE t (n)",
        "INSERT INTO t VALUES (1), (2), (3)",
        "CREATE VIEW v AS SELECT n FROM t",
        'CREATE TABLE "größe" AS SELECT 1 AS n',
        "CREATE TABLE parent (n INTEGER PRIMARY KEY)",
        "CREATE TABLE child (n REFERENCES parent (n) ON DELETE CASCADE)",
        "INSERT INTO parent VALUES (1)",
        "INSERT INTO child VALUES (1), (1)",
    )
    expected = {"rows-affected": rows, "applied": False} | ({"schema": True} if schema else {})

    assert here.write(statement) == expected
    assert here.rows.sqlite.execute("SELECT count(*) FROM t").fetchone() == (3,)
    assert here.write(statement, apply=True) == expected | {"applied": True}


@pytest.mark.parametrize(
    ("outcome", "says", "done"),
    [
        ({"rows-affected": 1}, "changes 1 row:", "done: 1 rows changed\n"),
        ({"rows-affected": 0}, "changes 0 rows:", "done: 0 rows changed\n"),
        ({"rows-affected": 0, "schema": True}, "changes the schema:", "done: the schema is changed\n"),
        (
            {"rows-affected": 12, "schema": True},
            "changes the schema and takes 12 rows away:",
            "done: the schema is changed\n",
        ),
    ],
)
def test_before_a_write_hactl_says_what_it_changes(monkeypatch, outcome: dict[str, object], says: str, done: str):
    def request(path: Path, method: str, target: str, body: bytes, timeout_seconds: float) -> tuple[int, bytes]:
        return 200, json.dumps(outcome | {"applied": json.loads(body)["apply"]}).encode()

    def run(*words: str) -> Any:
        return CliRunner().invoke(app, ["--state-dir", "/nowhere", "sql", *words, "--write", "DROP TABLE t"])

    monkeypatch.setattr("dbaccessor.confsocket.request", request)

    unsure = run()
    assert (unsure.exit_code, says in unsure.stderr) == (1, True)
    assert run("--yes").stdout == done
    assert json.loads(run("--yes", "--format", "json").stdout) == outcome


@pytest.mark.parametrize(
    "words",
    [
        ("SELECT '\udcff'",),
        (".ddl \udcff",),
        (".\udcff",),
        ("--write", "--yes", "UPDATE t SET n = '\udcff'"),
        ("--namespace", "\udcff", ".tables"),
        ("--namespace", "\udcff"),
        (),
    ],
)
def test_what_is_no_utf8_is_refused_in_a_sentence(monkeypatch, words: tuple[str, ...]):
    asked: list[str] = []
    monkeypatch.setattr("dbaccessor.confsocket.request", lambda *_: asked.append("something"))

    done = CliRunner().invoke(app, ["--state-dir", "/nowhere", "sql", *words], input=b"SELECT '\xff';\n")

    assert (done.exit_code, "this is no UTF-8" in done.stderr, asked) == (2, True, [])

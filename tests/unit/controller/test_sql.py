"""hactl sql: what is typed, how rows are shown, and what is sent in place of a statement."""

from __future__ import annotations

import pytest

from controller import routes
from controller.commands import sql
from controller.commands.sql import Answer
from dbaccessor import errors


def test_statements_end_at_semicolons_and_dot_commands_at_the_line():
    typed = ["SELECT 1;\n", "\n", ".tables\n", "SELECT ';'\n", "  , 2; -- done\n", "SELECT 3"]

    assert list(sql._statements(iter(typed))) == ["SELECT 1;", ".tables", "SELECT ';'\n  , 2; -- done", "SELECT 3"]


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
    "text", ["SELECT 1", "SELECT 1;", " select 1 ; \n", "WITH x AS (SELECT 1) SELECT * FROM x;", "VALUES (1)"]
)
def test_a_query_is_bounded_by_the_node(text: str):
    bounded, params = routes.bounded(text, 11, ())

    assert bounded.endswith("LIMIT ?")
    assert ";" not in bounded
    assert params == (11,)


@pytest.mark.parametrize("text", ["PRAGMA table_list", "EXPLAIN SELECT 1", "SELECT 1; -- a comment"])
def test_what_cannot_be_bounded_goes_as_it_is(text: str):
    assert routes.bounded(text, 11, ()) == (text, ())


@pytest.mark.parametrize("text", ["DELETE FROM t", "BEGIN", "INSERT INTO t SELECT 1", "SELECT 1; SELECT 2", ""])
def test_a_reading_shell_refuses_what_changes_something(text: str):
    with pytest.raises(errors.Refused):
        routes.bounded(text, 11, ())

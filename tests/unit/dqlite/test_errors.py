"""Every code becomes the class that says what the caller can do."""

from __future__ import annotations

import pytest

from dbaccessor import errors

NOTHING_DONE = [
    (10250, errors.NotLeader),
    (8202, errors.NotLeader),  # The same, as older libraries number it.
    (5, errors.NotReady),
    (517, errors.NotReady),  # SQLITE_BUSY_SNAPSHOT
    (12, errors.NotReady),  # The connection's database was closed by a change of leader.
    (0, errors.Refused),  # "empty statement"
    (1, errors.Refused),
    (19, errors.Refused),
    (2067, errors.Refused),  # SQLITE_CONSTRAINT_UNIQUE
    (23, errors.Refused),
    (1005, errors.Refused),
]
DOUBTFUL = [10506, 8458, 10, 100, 101, 11, 4106, 25354]


@pytest.mark.parametrize(("code", "kind"), NOTHING_DONE)
@pytest.mark.parametrize("changes", [True, False])
def test_codes_that_say_that_nothing_was_done(code: int, kind: type[errors.DbAccessorError], changes: bool):
    error = errors.from_failure(code, "text", changes=changes, address="controller-0-1")

    assert type(error) is kind
    assert (error.code, error.address) == (code, "controller-0-1")
    assert str(error) == f"text (code {code})"


@pytest.mark.parametrize("code", DOUBTFUL)
def test_every_other_code_leaves_a_write_in_doubt_and_spoils_the_connection(code: int):
    assert type(errors.from_failure(code, "text", changes=True)) is errors.Indefinite
    assert type(errors.from_failure(code, "text", changes=False)) is errors.NotReady
    assert errors.spoils_connection(code)


@pytest.mark.parametrize(
    ("code", "spoils"), [(1, False), (5, False), (517, False), (19, False), (10250, False), (12, True)]
)
def test_only_what_leaves_the_connection_in_doubt_spoils_it(code: int, spoils: bool):
    assert errors.spoils_connection(code) is spoils


def test_an_answer_that_never_came_is_in_doubt_only_for_a_change():
    assert type(errors.from_ended("gone", changes=True)) is errors.Indefinite
    assert type(errors.from_ended("gone", changes=False)) is errors.NotReady


def test_the_library_s_own_words_are_kept():
    error = errors.from_library("start of x", 1, "raft_start(): io: load closed segment")

    assert type(error) is errors.Refused
    assert "start of x failed: raft_start(): io: load closed segment (code 1)" in str(error)
    assert "misuse" in str(errors.from_library("start of x", 2, ""))
    assert type(errors.from_library("start", 1, "couldn't lock the raft directory")) is errors.NotReady


def test_all_errors_have_one_base():
    for kind in (errors.NotReady, errors.NotLeader, errors.Indefinite, errors.Refused, errors.LibraryTooOld):
        assert issubclass(kind, errors.DbAccessorError)
        assert (kind("x").code, kind("x").address) == (0, "")

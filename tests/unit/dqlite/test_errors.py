"""Every code becomes the class that says what the caller can do."""

from __future__ import annotations

import pytest

from dbaccessor import errors

# Every code that libdqlite 1.18.1 and 1.18.7 answer with: Dqlite's own, and SQLite's primary codes. An extended code
# of SQLite (its low byte is the primary one) follows its primary code, except where it is listed.
NOTHING_DONE = {
    10250: errors.NotLeader,  # SQLITE_IOERR | 40 << 8, Dqlite's "not leader".
    5: errors.NotReady,  # SQLITE_BUSY; also "checkpoint in progress", and a second Open on one connection.
    261: errors.NotReady,  # SQLITE_BUSY_RECOVERY
    517: errors.NotReady,  # SQLITE_BUSY_SNAPSHOT
    773: errors.NotReady,  # SQLITE_BUSY_TIMEOUT
    12: errors.NotReady,  # No database or statement of this number: a change of leader closed it.
    0: errors.Refused,  # "empty statement"
    1: errors.Refused,  # SQLITE_ERROR; DQLITE_ERROR
    2: errors.Refused,  # SQLITE_INTERNAL; DQLITE_MISUSE
    3: errors.Refused,  # SQLITE_PERM; DQLITE_NOMEM
    4: errors.Refused,  # SQLITE_ABORT
    516: errors.Refused,  # SQLITE_ABORT_ROLLBACK
    6: errors.Refused,  # SQLITE_LOCKED
    7: errors.Refused,  # SQLITE_NOMEM
    8: errors.Refused,  # SQLITE_READONLY
    9: errors.NotReady,  # SQLITE_INTERRUPT
    13: errors.Refused,  # SQLITE_FULL
    14: errors.Refused,  # SQLITE_CANTOPEN
    15: errors.Refused,  # SQLITE_PROTOCOL
    16: errors.Refused,  # SQLITE_EMPTY
    17: errors.Refused,  # SQLITE_SCHEMA
    18: errors.Refused,  # SQLITE_TOOBIG
    19: errors.Refused,  # SQLITE_CONSTRAINT
    275: errors.Refused,  # SQLITE_CONSTRAINT_CHECK
    787: errors.Refused,  # SQLITE_CONSTRAINT_FOREIGNKEY
    1299: errors.Refused,  # SQLITE_CONSTRAINT_NOTNULL
    1555: errors.Refused,  # SQLITE_CONSTRAINT_PRIMARYKEY
    1811: errors.Refused,  # SQLITE_CONSTRAINT_TRIGGER
    2067: errors.Refused,  # SQLITE_CONSTRAINT_UNIQUE
    20: errors.Refused,  # SQLITE_MISMATCH
    21: errors.Refused,  # SQLITE_MISUSE
    22: errors.Refused,  # SQLITE_NOLFS
    23: errors.Refused,  # SQLITE_AUTH
    24: errors.Refused,  # SQLITE_FORMAT
    25: errors.Refused,  # SQLITE_RANGE
    26: errors.Refused,  # SQLITE_NOTADB
    1001: errors.Refused,  # DQLITE_PROTO
    1002: errors.Refused,  # DQLITE_NOTFOUND
    1003: errors.Refused,  # DQLITE_PARSE: the statement's tail
    1004: errors.Refused,
    1005: errors.Refused,  # Unrecognized request, schema or format.
}
DOUBTFUL = {
    10506: "SQLITE_IOERR | 41 << 8, Dqlite's 'leadership lost'",
    8458: "the same before 1.18; SQLITE_IOERR_CORRUPTFS since",
    8202: "SQLITE_IOERR_DATA; before 1.18 'not leader', which its words tell",
    10: "SQLITE_IOERR",
    266: "SQLITE_IOERR_READ",
    778: "SQLITE_IOERR_WRITE",
    1034: "SQLITE_IOERR_FSYNC",
    3850: "SQLITE_IOERR_LOCK",
    10762: "the next number that Dqlite may give itself",
    11: "SQLITE_CORRUPT",
    267: "SQLITE_CORRUPT_VTAB",
    27: "SQLITE_NOTICE",
    28: "SQLITE_WARNING",
    100: "SQLITE_ROW; 1.18.1 answers RETURNING with it",
    101: "SQLITE_DONE",
    29: "a primary code that SQLite does not have yet",
    1000: "none of Dqlite's",
    1006: "none of Dqlite's yet",
}


@pytest.mark.parametrize(("code", "kind"), NOTHING_DONE.items(), ids=str)
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


def test_every_primary_code_of_sqlite_is_in_one_of_the_tables():
    assert {*range(29), 100, 101} <= NOTHING_DONE.keys() | DOUBTFUL.keys()
    assert NOTHING_DONE.keys() & DOUBTFUL.keys() == set()


def test_no_code_at_all_says_done_and_only_those_that_leave_doubt_end_the_connection():
    for code in range(12_000):
        kind = type(errors.from_failure(code, "text", changes=True))
        assert kind in (errors.NotLeader, errors.NotReady, errors.Refused, errors.Indefinite)
        assert errors.spoils_connection(code) == (kind is errors.Indefinite or code in (9, 12))


@pytest.mark.parametrize("changes", [True, False])
def test_the_old_number_of_not_leader_counts_only_with_its_words(changes: bool):
    assert type(errors.from_failure(8202, "not leader", changes=changes)) is errors.NotLeader
    assert type(errors.from_failure(8202, "disk I/O error", changes=True)) is errors.Indefinite


@pytest.mark.parametrize(
    ("code", "spoils"), [(1, False), (5, False), (517, False), (19, False), (10250, False), (12, True), (9, True)]
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
    assert type(errors.from_library("creation", 1, "raft_init(): io: not enough space", passes=True)) is errors.NotReady


def test_all_errors_have_one_base():
    for kind in (errors.NotReady, errors.NotLeader, errors.Indefinite, errors.Refused, errors.LibraryTooOld):
        assert issubclass(kind, errors.DbAccessorError)
        assert (kind("x").code, kind("x").address) == (0, "")


@pytest.mark.parametrize("text", ["nonempty statement tail", "barrier error"])
def test_a_query_that_a_loss_of_leadership_overtook_is_no_mistake_of_the_caller(text: str):
    """libdqlite says so under SQLite's code for one. A write of that kind is Refused as before: it is none of these."""
    assert type(errors.from_failure(1, text, changes=False)) is errors.NotReady
    assert type(errors.from_failure(1, text, changes=True)) is errors.Refused
    assert type(errors.from_failure(1, f"near {text!r}: syntax error", changes=False)) is errors.Refused

"""One conversation: deadlines, ends and nonsense, and what each leaves behind."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable

import pytest

import fakenode
from dbaccessor import errors
from dbaccessor.dqlite import wire
from dbaccessor.dqlite.connection import Connection, Member, Role
from dbaccessor.dqlite.results import Result, Rows
from fakenode import END, SILENCE, Asked, FakeNode, failure, message, rows, text, words

Play = Callable[[FakeNode, Connection], Awaitable[None]]


def hold(play: Play, script: fakenode.Script = fakenode.obliging) -> None:
    async def run() -> None:
        async with FakeNode(script) as node:
            await play(node, await node.connect())

    asyncio.run(run())


def always(answer: object) -> fakenode.Script:
    return lambda asked: answer


# How to ask each kind of request, and whether it can change anything.
READS: dict[str, Callable[[Connection], Awaitable[object]]] = {
    "leader": lambda c: c.leader(deadline_seconds=0.05),
    "cluster": lambda c: c.cluster(deadline_seconds=0.05),
    "open": lambda c: c.open_database("data", deadline_seconds=0.05),
    "query": lambda c: c.query("SELECT 1", deadline_seconds=0.05),
}
CHANGES: dict[str, Callable[[Connection], Awaitable[object]]] = {
    "execute": lambda c: c.execute("DELETE FROM t", deadline_seconds=0.05),
    "add": lambda c: c.add(7, "controller-0-7", deadline_seconds=0.05),
    "remove": lambda c: c.remove(7, deadline_seconds=0.05),
    "transfer": lambda c: c.transfer(7, deadline_seconds=0.05),
}


def test_answers_become_values():
    async def play(node: FakeNode, connection: Connection) -> None:
        node.script = always(message(1, words(7) + text("controller-0-7")))
        assert await connection.leader() == (7, "controller-0-7")
        node.script = always(message(1, words(0) + text("")))
        assert await connection.leader() is None
        node.script = always(message(3, words(1, 7) + text("controller-0-7") + words(1)))
        assert await connection.cluster() == (Member(7, "controller-0-7", Role.STANDBY),)
        node.script = always(fakenode.result(3, 2))
        assert await connection.execute("DELETE FROM t") == Result(3, 2)
        node.script = always(rows(1, 2, done=False) + rows(3))
        assert await connection.query("SELECT n FROM t") == Rows(("n",), ((1,), (2,), (3,)))
        assert connection.usable

    hold(play)


@pytest.mark.parametrize("trouble", [SILENCE, END, b"garbage!", message(6, words(1)), message(10, words(0, 0))])
@pytest.mark.parametrize(
    ("ask", "kind"),
    [*((ask, errors.NotReady) for ask in READS.values()), *((ask, errors.Indefinite) for ask in CHANGES.values())],
    ids=[*READS, *CHANGES],
)
def test_an_answer_that_does_not_come_is_in_doubt_only_for_a_change_and_ends_the_conversation(
    ask: Callable[[Connection], Awaitable[object]], kind: type[errors.DbAccessorError], trouble: object
):
    async def play(node: FakeNode, connection: Connection) -> None:
        with pytest.raises(errors.DbAccessorError) as caught:
            await ask(connection)
        assert type(caught.value) is kind
        assert not connection.usable
        with pytest.raises(errors.NotReady, match="closed"):
            await connection.leader()
        assert len(node.asked) == 1

    hold(play, always(trouble))


def test_the_answer_to_another_question_ends_the_conversation():
    async def play(node: FakeNode, connection: Connection) -> None:
        with pytest.raises(errors.Indefinite, match="Empty came instead of Result"):
            await connection.execute("DELETE FROM t")
        assert not connection.usable

    hold(play, always(fakenode.EMPTY))


@pytest.mark.parametrize(
    ("code", "usable"), [(1, True), (5, True), (10250, True), (12, False), (10506, False), (10, False)]
)
def test_failures_that_leave_doubt_end_the_conversation(code: int, usable: bool):
    async def play(node: FakeNode, connection: Connection) -> None:
        with pytest.raises(errors.DbAccessorError) as caught:
            await connection.execute("DELETE FROM t")
        assert caught.value.code == code
        assert connection.usable is usable

    hold(play, always(failure(code)))


def test_a_connection_on_which_rows_were_yielded_is_never_used_again():
    async def play(node: FakeNode, connection: Connection) -> None:
        with pytest.raises(errors.Refused):
            await connection.execute("DELETE FROM t")
        assert not connection.usable

    hold(play, always(failure(1, "rows yielded when none expected for EXEC request")))


def test_no_row_counts_before_the_done_marker():
    async def play(node: FakeNode, connection: Connection) -> None:
        node.script = always(rows(1, done=False) + rows(2, done=False) + failure(10506, "leadership lost"))
        with pytest.raises(errors.NotReady, match="leadership lost"):
            await connection.query("SELECT n FROM t")

    hold(play)


def test_one_request_waits_for_the_other():
    async def play(node: FakeNode, connection: Connection) -> None:
        first = asyncio.create_task(connection.query("SELECT 1"))
        second = asyncio.create_task(connection.query("SELECT 2"))
        await asyncio.gather(first, second)
        assert node.statements == ["SELECT 1", "SELECT 2"]

    hold(play)


def test_who_waits_for_the_connection_too_long_leaves_it_as_it_is():
    async def play(node: FakeNode, connection: Connection) -> None:
        release = asyncio.Event()
        node.script = lambda asked: SILENCE if asked.text == "SELECT 1" else rows(2)
        first = asyncio.create_task(connection.query("SELECT 1"))
        while not node.asked:
            await asyncio.sleep(0)
        with pytest.raises(errors.NotReady, match="busy"):
            await connection.execute("DELETE FROM t", deadline_seconds=0.02)
        assert connection.usable
        assert node.statements == ["SELECT 1"]
        release.set()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first

    hold(play)


@pytest.mark.parametrize("sql", ["SELECT 1", "DELETE FROM t"])
def test_a_cancelled_caller_ends_the_conversation(sql: str):
    async def play(node: FakeNode, connection: Connection) -> None:
        ask = connection.query if sql.startswith("SELECT") else connection.execute
        task = asyncio.create_task(ask(sql))
        while not node.asked:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not connection.usable
        while not node.ended:
            await asyncio.sleep(0)

    hold(play, always(SILENCE))


def test_leaving_a_query_reads_its_answer_to_the_end_and_leaving_anything_else_does_not():
    """See farewell: a node must be able to finish an answer of several parts."""

    async def play(node: FakeNode, connection: Connection) -> None:
        parts = 0

        def part(asked: Asked) -> object:
            nonlocal parts
            parts += 1
            return rows(*range(1000), done=False) * 200

        node.script = part
        with pytest.raises(errors.NotReady):
            await connection.query("SELECT n FROM t", deadline_seconds=0.0)
        assert not connection.usable
        assert connection._channel._writer.transport.get_protocol() is not None
        # The fake node sees the half-closed connection only after its whole answer was taken off its hands.
        while not node.ended:
            await asyncio.sleep(0.001)
        assert parts == 1

    hold(play)


def test_what_is_refused_is_not_sent():
    async def play(node: FakeNode, connection: Connection) -> None:
        for ask, sql in (
            (connection.execute, "INSERT INTO t VALUES(1) RETURNING a"),
            (connection.query, "INSERT INTO t VALUES(1)"),
            (connection.execute, "SELECT 1"),
            (connection.query, "BEGIN"),
        ):
            with pytest.raises(errors.Refused):
                await ask(sql)
        for name in ("", ":memory:", "a/b", "x" * 200, ".x", "data-wal", "data-journal", "data-SHM"):
            with pytest.raises(errors.Refused, match="no name"):
                await connection.open_database(name)
        with pytest.raises(errors.Refused, match="NUL"):
            await connection.add(7, "a\0b")
        assert node.asked == []
        assert connection.usable

    hold(play)


def test_a_result_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("dbaccessor.dqlite.results.MAX_RESULT_BYTES", 1000)

    async def play(node: FakeNode, connection: Connection) -> None:
        with pytest.raises(errors.Refused, match="larger"):
            await connection.query("SELECT n FROM t")
        assert not connection.usable

    hold(play, always(rows(*range(100), done=False) + rows(1)))


def test_one_row_that_is_too_long_for_a_message_is_refused_and_not_asked_for_again():
    async def play(node: FakeNode, connection: Connection) -> None:
        with pytest.raises(errors.Refused, match="larger than"):
            await connection.query("SELECT n FROM t")
        assert not connection.usable

    hold(play, always(struct.pack("<IBBH", wire.MAX_BODY_BYTES // 8 + 1, 7, 0, 0)))


def test_an_empty_part_that_is_not_the_last_is_the_defect_of_long_names():
    async def play(node: FakeNode, connection: Connection) -> None:
        with pytest.raises(errors.Refused, match="names of the columns"):
            await connection.query("SELECT n FROM t")
        assert not connection.usable

    hold(play, always(rows(done=False)))


def test_the_deadline_of_a_dump_counts_whoever_takes_it_as_well():
    size = 1 << 20
    file = words(1) + text("x.db") + words(size) + bytes(size)

    async def play(node: FakeNode, connection: Connection) -> None:
        async def stuck(part: bytes) -> None:
            await asyncio.Event().wait()

        async def begin(size: int, log_size: int) -> None:
            assert (size, log_size) == (1 << 20, 0)

        async with asyncio.timeout(10):
            with pytest.raises(errors.NotReady):
                await connection.dump("x.db", begin, stuck, deadline_seconds=0.1)

    hold(play, always(message(9, file)))


WRITE, ASK = "INSERT INTO t SELECT value FROM json_each(?)", "SELECT n FROM t, json_each(?)"
TOGETHER = f"BEGIN IMMEDIATE; {WRITE}"


def test_a_statement_without_columns_is_no_error_where_a_node_calls_it_one():
    async def play(node: FakeNode, connection: Connection) -> None:
        assert await connection.query("PRAGMA defer_foreign_keys = ON") == Rows((), ())
        assert connection.usable

    hold(play, always(failure(errors.ERROR, "not an error")))


class OfEarlier:
    """A node that binds parameters to the first statement of a request. `begun` is what it answers to BEGIN alone."""

    def __init__(self, begun: bytes | None = None, written: bytes | None = None) -> None:
        self.begun = begun or fakenode.result()
        self.written = written or fakenode.result(0, 1)
        self.inside = False

    def __call__(self, asked: Asked) -> object:
        match asked.text:
            case "BEGIN IMMEDIATE":
                self.inside = self.begun == fakenode.result()
                return self.begun
            case text if text == TOGETHER:
                return failure(errors.RANGE, "bind parameters")
            case text if text == WRITE:
                assert self.inside, "it would last whatever came of BEGIN"
                return self.written
            case "COMMIT":
                was, self.inside = self.inside, False
                return fakenode.result() if was else failure(errors.ERROR, "no transaction is active")
            case _:
                return rows(7)


def test_where_a_batch_cannot_begin_in_one_request_it_begins_apart_from_then_on():
    async def play(node: FakeNode, connection: Connection) -> None:
        for _ in range(2):
            assert await connection.group(WRITE, ASK, "[]") == (Result(0, 1), Rows(("n",), ((7,),)))
        said = [asked.text for asked in node.asked if asked.text.startswith(("BEGIN", "INSERT"))]
        assert said == [TOGETHER, "BEGIN IMMEDIATE", WRITE, "BEGIN IMMEDIATE", WRITE]

    hold(play, OfEarlier())


def test_where_begin_fails_nothing_of_the_batch_is_sent():
    async def play(node: FakeNode, connection: Connection) -> None:
        with pytest.raises(errors.NotReady):
            await connection.group(WRITE, ASK, "[]")
        assert not [asked for asked in node.asked if asked.text == WRITE]

    hold(play, OfEarlier(begun=failure(errors.BUSY, "database is locked")))


def test_a_batch_whose_parameters_are_wrong_is_refused_once_it_was_tried_both_ways():
    async def play(node: FakeNode, connection: Connection) -> None:
        for _ in range(2):
            with pytest.raises(errors.Refused, match="bind parameters"):
                await connection.group(WRITE, ASK, "[]")
        assert [asked.text for asked in node.asked].count(TOGETHER) == 2
        assert connection.usable

    hold(play, OfEarlier(written=failure(errors.RANGE, "bind parameters")))


def test_a_batch_that_was_written_outside_a_transaction_is_in_doubt():
    """Whatever ended the transaction between BEGIN and the write: the write has lasted, or is gone with it."""

    async def play(node: FakeNode, connection: Connection) -> None:
        with pytest.raises(errors.Indefinite, match="no transaction is active"):
            await connection.group(WRITE, ASK, "[]")
        assert not connection.usable

    def ended_between(asked: Asked) -> object:
        return failure(errors.ERROR, "no transaction is active") if asked.text == "COMMIT" else earlier(asked)

    earlier = OfEarlier()
    hold(play, ended_between)


BEGIN_FAILED = failure(errors.BUSY, "database is locked")
NOT_OPEN = failure(errors.NOT_FOUND, "no database opened")


@pytest.mark.parametrize("code", [errors.NOT_FOUND, errors.INTERRUPT, errors.NOT_LEADER, errors.LEADERSHIP_LOST])
def test_a_batch_of_which_nothing_is_answered_but_a_failure_is_in_doubt_only_where_that_leaves_doubt(code: int):
    """A node that led, does not, and leads again has closed the database: all three requests say so."""

    async def play(node: FakeNode, connection: Connection) -> None:
        doubt = code == errors.LEADERSHIP_LOST
        with pytest.raises(errors.Indefinite if doubt else (errors.NotReady, errors.NotLeader)):
            await connection.group(WRITE, ASK, "[]")

    hold(play, always(failure(code)))


@pytest.mark.parametrize(
    "asked_then",
    [failure(errors.LEADERSHIP_LOST, "leadership lost"), NOT_OPEN, fakenode.EMPTY, rows(7, done=False), END, SILENCE],
    ids=["leadership lost", "not open", "nonsense", "a part", "end", "silence"],
)
@pytest.mark.parametrize("written", [BEGIN_FAILED, NOT_OPEN], ids=["begin failed", "not open"])
def test_a_batch_that_was_not_written_is_not_in_doubt_whatever_becomes_of_the_rest(written: bytes, asked_then: object):
    async def play(node: FakeNode, connection: Connection) -> None:
        with pytest.raises(errors.NotReady):
            await connection.group(WRITE, ASK, "[]", deadline_seconds=0.05)
        assert not connection.usable

    def script(asked: Asked) -> object:
        return {TOGETHER: written, ASK: asked_then, "COMMIT": SILENCE}[asked.text]

    hold(play, script)


@pytest.mark.parametrize(
    "ended",
    [failure(errors.BUSY, "checkpoint in progress"), fakenode.EMPTY, END, SILENCE],
    ids=["busy", "nonsense", "end", "silence"],
)
def test_a_batch_that_was_refused_is_refused_whatever_comes_of_its_end(ended: object):
    async def play(node: FakeNode, connection: Connection) -> None:
        with pytest.raises(errors.Refused):
            await connection.group(WRITE, ASK, "[]", deadline_seconds=0.05)
        # A transaction may be open still.
        assert not connection.usable

    def script(asked: Asked) -> object:
        return {TOGETHER: failure(19, "UNIQUE constraint failed"), ASK: rows(7), "COMMIT": ended}[asked.text]

    hold(play, script)


@pytest.mark.parametrize(
    "asked_then", [failure(errors.LEADERSHIP_LOST), NOT_OPEN, END], ids=["leadership lost", "not open", "end"]
)
def test_a_batch_that_was_written_is_in_doubt_where_its_end_is_not_seen(asked_then: object):
    async def play(node: FakeNode, connection: Connection) -> None:
        with pytest.raises(errors.Indefinite):
            await connection.group(WRITE, ASK, "[]")

    hold(play, lambda asked: asked_then if asked.text == ASK else fakenode.result(0, 1))


def test_where_begin_fails_there_is_no_transaction_to_end_and_the_connection_stays():
    async def play(node: FakeNode, connection: Connection) -> None:
        with pytest.raises(errors.NotReady):
            await connection.group(WRITE, ASK, "[]")
        assert connection.usable

    no_transaction = failure(errors.ERROR, "cannot commit - no transaction is active")
    hold(play, lambda asked: {TOGETHER: BEGIN_FAILED, ASK: rows(7), "COMMIT": no_transaction}[asked.text])


BROKEN = failure(787, "FOREIGN KEY constraint failed")


def breaking_a_deferred_constraint(rolled_back: object) -> fakenode.Script:
    """Of which only COMMIT tells. `rolled_back` is what is answered then."""
    return lambda asked: {
        TOGETHER: fakenode.result(0, 1),
        ASK: rows(7),
        "COMMIT": BROKEN,
        "ROLLBACK": rolled_back,
    }[asked.text]


def test_a_batch_that_only_commit_refuses_is_rolled_back_and_the_connection_stays():
    async def play(node: FakeNode, connection: Connection) -> None:
        for _ in range(2):
            with pytest.raises(errors.Refused, match="FOREIGN KEY"):
                await connection.group(WRITE, ASK, "[]")
            assert connection.usable
        assert node.statements == [TOGETHER, ASK, "COMMIT", "ROLLBACK"] * 2

    hold(play, breaking_a_deferred_constraint(fakenode.result()))


@pytest.mark.parametrize(
    "rolled_back",
    [failure(errors.LEADERSHIP_LOST), rows(7), END, SILENCE],
    ids=["failure", "nonsense", "end", "silence"],
)
def test_a_batch_that_only_commit_refuses_is_refused_also_where_rolling_back_fails(rolled_back: object):
    async def play(node: FakeNode, connection: Connection) -> None:
        with pytest.raises(errors.Refused, match="FOREIGN KEY"):
            await connection.group(WRITE, ASK, "[]", deadline_seconds=0.05)
        assert not connection.usable

    hold(play, breaking_a_deferred_constraint(rolled_back))


def test_where_a_checkpoint_is_in_progress_the_batch_is_not_ready_and_the_connection_ends():
    async def play(node: FakeNode, connection: Connection) -> None:
        with pytest.raises(errors.NotReady):
            await connection.group(WRITE, ASK, "[]")
        assert not connection.usable
        assert "ROLLBACK" not in node.statements

    busy = failure(errors.BUSY, "checkpoint in progress")
    hold(play, lambda asked: {TOGETHER: fakenode.result(0, 1), ASK: rows(7), "COMMIT": busy}[asked.text])

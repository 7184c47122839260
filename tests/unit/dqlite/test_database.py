"""What is tried again, what is not, and what is kept for the next caller."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest

import fakenode
from dbaccessor import errors, pool
from dbaccessor.database import Database, Transaction
from dbaccessor.dqlite import channel
from dbaccessor.dqlite.connection import Connection
from dbaccessor.dqlite.results import Rows
from fakenode import END, SILENCE, Asked, FakeNode, failure, members, rows

Play = Callable[[FakeNode, Database], Awaitable[None]]
INSERT = "INSERT INTO t VALUES(1)"
# How a node is asked whether it has led without a break.
STILL = ""


def hold(play: Play) -> None:
    async def run() -> None:
        async with FakeNode() as node:
            database = Database(node, "data")
            await play(node, database)
            database.close()

    asyncio.run(run())


def answering(**answers: object) -> fakenode.Script:
    """Oblige, but answer statements by their first word as told, the first time or (a list) as often as listed."""
    left = {word: list(told) if isinstance(told, list) else [told] for word, told in answers.items()}

    def script(asked: Asked) -> object:
        word = asked.text.split(" ")[0]
        if asked.type in (8, 9) and left.get(word):
            return left[word].pop(0)
        return fakenode.obliging(asked)

    return script


async def insert(transaction: Transaction) -> None:
    await transaction.execute(INSERT)


def test_a_transaction_is_begun_for_writing_and_committed_on_one_connection_that_is_kept():
    async def play(node: FakeNode, database: Database) -> None:
        for _ in range(2):
            async with database.transaction() as transaction:
                await transaction.execute(INSERT)
        assert node.statements == ["BEGIN IMMEDIATE", INSERT, "COMMIT"] * 2
        assert len(node.connections) == 1
        assert [asked.text for asked in node.asked if asked.type == 3] == ["data"]

    hold(play)


def test_a_block_that_raises_is_rolled_back_and_the_connection_is_kept():
    async def fail(transaction: Transaction) -> None:
        await transaction.execute(INSERT)
        raise ZeroDivisionError

    async def play(node: FakeNode, database: Database) -> None:
        with pytest.raises(ZeroDivisionError):
            await database.run(fail)
        assert node.statements == ["BEGIN IMMEDIATE", INSERT, STILL, "ROLLBACK"]
        assert node.connections[0].usable

    hold(play)


def test_a_rollback_that_fails_costs_the_connection_and_hides_nothing():
    async def fail(transaction: Transaction) -> None:
        raise ZeroDivisionError

    async def play(node: FakeNode, database: Database) -> None:
        node.script = answering(ROLLBACK=failure(1, "cannot rollback"))
        with pytest.raises(ZeroDivisionError):
            await database.run(fail)
        assert not node.connections[0].usable

    hold(play)


@pytest.mark.parametrize("trouble", [failure(5), failure(517), failure(10250), failure(12), failure(10506), END])
def test_beginning_is_tried_again_whatever_went_wrong(trouble: object):
    async def play(node: FakeNode, database: Database) -> None:
        node.script = answering(BEGIN=[trouble, trouble])
        await database.run(insert)
        assert node.statements == ["BEGIN IMMEDIATE"] * 3 + [INSERT, "COMMIT"]
        assert [connection.usable for connection in node.connections] == [False, False, True]

    hold(play)


@pytest.mark.parametrize("trouble", [failure(5), failure(10250), failure(12), failure(10506), failure(10), END])
def test_what_broke_before_the_commit_is_run_again_as_a_whole(trouble: object):
    async def play(node: FakeNode, database: Database) -> None:
        node.script = answering(INSERT=trouble)
        await database.run(insert)
        wanted = ["BEGIN IMMEDIATE", INSERT, "BEGIN IMMEDIATE", INSERT, "COMMIT"]
        assert [s for s in node.statements if s != "ROLLBACK"] == wanted

    hold(play)


@pytest.mark.parametrize("trouble", [failure(10506), failure(8458), failure(10), failure(999999), END, SILENCE])
def test_a_commit_in_doubt_is_indefinite_and_is_not_tried_again(trouble: object):
    async def play(node: FakeNode, database: Database) -> None:
        node.script = answering(COMMIT=trouble)
        with pytest.raises(errors.Indefinite):
            await database.run(insert, deadline_seconds=0.5)
        assert node.statements == ["BEGIN IMMEDIATE", INSERT, "COMMIT"]
        assert not node.connections[0].usable

    hold(play)


@pytest.mark.parametrize("trouble", [failure(5, "checkpoint in progress"), failure(10250), failure(12)])
def test_a_commit_that_was_provably_not_done_is_run_again_on_another_connection(trouble: object):
    async def play(node: FakeNode, database: Database) -> None:
        node.script = answering(COMMIT=trouble)
        await database.run(insert)
        assert [s for s in node.statements if s != "ROLLBACK"] == ["BEGIN IMMEDIATE", INSERT, "COMMIT"] * 2

    hold(play)


def test_a_refused_statement_is_raised_at_once():
    async def play(node: FakeNode, database: Database) -> None:
        node.script = answering(INSERT=failure(19, "constraint failed"))
        with pytest.raises(errors.Refused, match="constraint"):
            await database.run(insert)
        assert node.statements == ["BEGIN IMMEDIATE", INSERT, STILL, "ROLLBACK"]
        assert node.connections[0].usable

    hold(play)


def test_a_swallowed_failure_is_not_committed():
    async def swallow(transaction: Transaction) -> None:
        with pytest.raises(errors.Refused):
            await transaction.execute(INSERT)

    async def play(node: FakeNode, database: Database) -> None:
        node.script = answering(INSERT=failure(19, "constraint failed"))
        with pytest.raises(errors.Refused, match="nothing was committed: constraint failed"):
            await database.run(swallow)
        assert "COMMIT" not in node.statements

    hold(play)


def test_a_swallowed_doubt_inside_the_block_is_not_committed_but_run_again():
    attempts = 0

    async def swallow(transaction: Transaction) -> None:
        nonlocal attempts
        attempts += 1
        with contextlib.suppress(errors.NotReady):
            await transaction.execute(INSERT)

    async def play(node: FakeNode, database: Database) -> None:
        node.script = answering(INSERT=failure(10506))
        await database.run(swallow)
        assert attempts == 2
        assert node.statements == ["BEGIN IMMEDIATE", INSERT, "BEGIN IMMEDIATE", INSERT, "COMMIT"]

    hold(play)


def test_a_deadline_that_passed_inside_the_block_commits_nothing():
    async def dawdle(transaction: Transaction) -> None:
        await transaction.execute(INSERT)
        deadline = asyncio.get_running_loop().time() + 0.06
        while asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.01)

    async def play(node: FakeNode, database: Database) -> None:
        with pytest.raises(errors.NotReady, match="deadline"):
            await database.run(dawdle, deadline_seconds=0.05)
        assert "COMMIT" not in node.statements

    hold(play)


def test_retries_end_at_the_deadline_with_the_last_reason():
    async def play(node: FakeNode, database: Database) -> None:
        node.script = answering(BEGIN=[failure(5, "database is locked")] * 1000)
        started = asyncio.get_running_loop().time()
        with pytest.raises(errors.NotReady, match="database is locked|too late|no answer"):
            await database.run(insert, deadline_seconds=0.2)
        assert asyncio.get_running_loop().time() - started < 1
        # With pauses of 5 to 50 ms, and no fewer attempts than the longest pause allows.
        assert 3 <= node.statements.count("BEGIN IMMEDIATE") <= 40

    hold(play)


def test_transactions_of_one_database_queue_and_the_queue_has_an_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pool, "MAX_WAITING", 2)

    async def play(node: FakeNode, database: Database) -> None:
        release = asyncio.Event()

        async def hold_on(transaction: Transaction) -> None:
            await release.wait()

        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(database.run(hold_on))
            while not node.statements:
                await asyncio.sleep(0)
            with pytest.raises(errors.Refused, match="2 transactions wait"):
                await database.run(insert)
            release.set()
        assert node.statements == ["BEGIN IMMEDIATE", "COMMIT"] * 3

    hold(play)


def test_connections_that_nobody_needs_any_more_are_closed_and_those_in_use_are_not(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pool, "IDLE_SECONDS", 0.1)

    async def play(node: FakeNode, database: Database) -> None:
        async with database.transaction(read_only=True), database.transaction(read_only=True):
            pass
        async with asyncio.timeout(10), database.transaction(read_only=True) as transaction:
            assert len(node.connections) == 2
            while node.ended < 1:
                await asyncio.sleep(0.01)
            assert (await transaction.query("SELECT n FROM t")).rows == ((1,),)
        async with asyncio.timeout(10):
            while node.ended < 2:
                await asyncio.sleep(0.01)

    hold(play)


def test_who_waits_too_long_for_its_turn_is_told_so():
    async def play(node: FakeNode, database: Database) -> None:
        async with database.transaction():
            with pytest.raises(errors.NotReady, match="did not end in time"):
                await database.run(insert, deadline_seconds=0.05)
        await database.run(insert)

    hold(play)


def test_a_cancelled_block_closes_its_connection_and_frees_the_turn():
    async def play(node: FakeNode, database: Database) -> None:
        begun = asyncio.Event()

        async def stay(transaction: Transaction) -> None:
            begun.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(database.run(stay))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not node.connections[0].usable
        await database.run(insert)
        assert node.statements == ["BEGIN IMMEDIATE", "BEGIN IMMEDIATE", INSERT, "COMMIT"]

    hold(play)


def test_a_read_is_confirmed_on_its_connection_which_is_kept_and_is_tried_again_on_another():
    async def play(node: FakeNode, database: Database) -> None:
        await database.run(insert)
        node.script = answering(SELECT=[failure(10250), END, failure(5)])
        assert await database.read("SELECT n FROM t") == Rows(("n",), ((1,),))
        # The writer's connection is not the readers'.
        assert [connection.usable for connection in node.connections] == [True, False, False, False, True]

    hold(play)


def test_a_read_that_is_wrong_is_refused_at_once_and_before_anything_is_sent():
    async def play(node: FakeNode, database: Database) -> None:
        with pytest.raises(errors.Refused):
            await database.read("SELECT ?")
        assert node.connections == []
        node.script = answering(SELECT=failure(1, "no such table"))
        with pytest.raises(errors.Refused, match="no such table"):
            await database.read("SELECT n FROM t")
        assert node.connections[0].usable
        with pytest.raises(errors.Refused):
            await database.read(INSERT)

    hold(play)


def test_reads_beside_a_transaction_have_a_connection_of_their_own():
    async def play(node: FakeNode, database: Database) -> None:
        async with database.transaction():
            await database.read("SELECT n FROM t")
            await database.read("SELECT n FROM t")
        assert len(node.connections) == 2
        assert all(connection.usable for connection in node.connections)

    hold(play)


def test_a_connection_that_nobody_needed_for_long_is_closed_and_another_one_used(monkeypatch: pytest.MonkeyPatch):
    async def play(node: FakeNode, database: Database) -> None:
        await database.read("SELECT n FROM t")
        await database.run(insert)
        await database.read("SELECT n FROM t")
        await database.run(insert)
        assert [connection.usable for connection in node.connections] == [True, True]
        monkeypatch.setattr(pool, "IDLE_SECONDS", -1.0)  # All of them are older than that.
        await database.read("SELECT n FROM t")
        await database.run(insert)
        assert [connection.usable for connection in node.connections] == [False, False, True, True]

    hold(play)


def test_a_closed_database_is_not_ready():
    async def play(node: FakeNode, database: Database) -> None:
        await database.run(insert)
        database.close()
        assert not node.connections[0].usable
        with pytest.raises(errors.NotReady, match="closed"):
            await database.read("SELECT 1")
        with pytest.raises(errors.NotReady, match="closed"):
            await database.run(insert)

    hold(play)


def test_a_connector_that_finds_nobody_gives_its_reason():
    class Nobody:
        async def leader_name(self, *, deadline: float) -> str:
            return ""

        async def to_leader(self, *, deadline: float) -> Connection:
            raise errors.NotReady("controller 2 is the only one that answers, and it follows nobody")

    async def run() -> None:
        database = Database(Nobody(), "data")
        with pytest.raises(errors.NotReady, match="follows nobody"):
            await database.read("SELECT 1", deadline_seconds=0.05)

    asyncio.run(run())


def test_the_row_values_are_those_of_the_node():
    async def play(node: FakeNode, database: Database) -> None:
        node.script = answering(SELECT=rows(1, 2, done=False) + rows(3))
        async with database.transaction() as transaction:
            assert (await transaction.query("SELECT n FROM t")).rows == ((1,), (2,), (3,))

    hold(play)


class Deposed(FakeNode):
    """Finds this node as the leader at first, and the successor from then on."""

    def __init__(self, successor: FakeNode) -> None:
        super().__init__()
        self.successor: FakeNode | None = None
        self._next = successor

    async def to_leader(self, *, deadline: float) -> Connection:
        if self.successor is not None:
            return await self.successor.connect()
        self.successor = self._next
        return await super().to_leader(deadline=deadline)

    async def leader_name(self, *, deadline: float) -> str:
        return self._next.name


def play_with_a_frozen_leader(silent_at: str, play: Callable[[FakeNode, Database], Awaitable[None]]) -> None:
    async def run() -> None:
        async with FakeNode() as successor:
            successor.name = "controller-1-8"
            told = members((8, successor.name, 0))
            successor.script = lambda asked: told if asked.type == 16 else fakenode.obliging(asked)
            async with Deposed(successor) as frozen:
                frozen.script = lambda asked: SILENCE if asked.text == silent_at else fakenode.obliging(asked)
                database = Database(frozen, "data")
                await play(successor, database)
                database.close()

    asyncio.run(run())


@pytest.mark.parametrize("silent_at", ["BEGIN IMMEDIATE", INSERT])
def test_a_leader_that_falls_silent_is_left_for_its_successor_long_before_the_deadline(
    silent_at: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(channel, "SLOW_SECONDS", 0.05)

    async def play(successor: FakeNode, database: Database) -> None:
        async with asyncio.timeout(20):
            await database.run(insert, deadline_seconds=60)
        assert successor.statements == ["BEGIN IMMEDIATE", INSERT, "COMMIT"]

    play_with_a_frozen_leader(silent_at, play)


def test_a_commit_that_a_frozen_leader_does_not_answer_is_indefinite_once_another_leads(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(channel, "SLOW_SECONDS", 0.05)

    async def play(successor: FakeNode, database: Database) -> None:
        async with asyncio.timeout(20):
            with pytest.raises(errors.Indefinite):
                await database.run(insert, deadline_seconds=60)
        assert successor.statements == []

    play_with_a_frozen_leader("COMMIT", play)


def test_of_connections_to_a_leader_that_fell_silent_one_user_waits_on_one_only(monkeypatch: pytest.MonkeyPatch):
    """Not each in its turn, until the deadline has passed."""
    monkeypatch.setattr(channel, "SLOW_SECONDS", 0.05)

    async def run() -> None:
        async with FakeNode() as successor:
            successor.name = "controller-1-8"
            async with Deposed(successor) as frozen:
                database = Database(frozen, "data")
                frozen._next = frozen
                async with database.transaction(read_only=True), database.transaction(read_only=True):
                    assert len(frozen.connections) == 2
                frozen._next = frozen.successor = successor
                frozen.script = lambda _: SILENCE
                frozen.asked.clear()
                async with asyncio.timeout(20):
                    rows = await database.read("SELECT n FROM t", consistency="leader", deadline_seconds=60)
                assert rows == Rows(("n",), ((1,),))
                assert frozen.statements == ["SELECT n FROM t"]
                assert [connection.usable for connection in frozen.connections] == [False, False]
                database.close()

    asyncio.run(run())


def test_a_connection_that_is_slow_again_and_again_is_suspected_once(monkeypatch: pytest.MonkeyPatch):
    """A committer asks the next question at once: nobody else ever sees its connection without one."""
    monkeypatch.setattr(pool, "_ASK_PAUSE_SECONDS", 0.01)

    async def play(node: FakeNode, database: Database) -> None:
        await database.read("SELECT n FROM t")
        connections = database._readers
        connection = await connections.take(asyncio.get_running_loop().time() + 5)
        node.script = lambda _: SILENCE
        asking = asyncio.create_task(connection.query("SELECT n FROM t", deadline_seconds=60))
        for _ in range(5):
            await asyncio.sleep(0)
            connections._suspect(connection)
        assert len(connections._suspicions) == 1
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        async with asyncio.timeout(10):
            while connections._suspicions:
                await asyncio.sleep(0.005)

    hold(play)


def test_a_leader_that_is_only_slow_is_waited_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(channel, "SLOW_SECONDS", 0.02)
    monkeypatch.setattr(pool, "_ASK_PAUSE_SECONDS", 0.02)

    async def play(node: FakeNode, database: Database) -> None:
        node.script = answering(INSERT=SILENCE)
        with pytest.raises(errors.NotReady):
            await database.run(insert, deadline_seconds=0.5)
        # It was asked for again and again, found to lead, and left in peace.
        assert node.asked_who_leads > 3
        assert node.statements == ["BEGIN IMMEDIATE", INSERT]

    hold(play)

"""Who may vouch for a leader, when, and for how many at once."""

from __future__ import annotations

import asyncio

import pytest

from dbaccessor import errors, witness
from dbaccessor.confirm import Confirmer
from dbaccessor.database import Database, Transaction
from fakenode import END, SILENCE, FakeNode, failure, leader, result, rows
from fakevoters import SPARE, STANDBY, asked_of, cluster_of, hold, naming, noting, unconfirmed

INSERT = "INSERT INTO t VALUES(1)"


@pytest.mark.parametrize(("voters", "needed"), [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)])
def test_half_of_the_voters_must_name_the_leader_besides_itself(voters: int, needed: int):
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        for silent in rest[needed:]:
            silent.script = naming(0, "")
        assert (await database.read("SELECT n FROM t", deadline_seconds=2)).rows == ((1,),)
        if needed:
            rest[0].script = naming(1, "controller-1-1")
            with unconfirmed():
                await database.read("SELECT n FROM t", deadline_seconds=0.1)

    hold(play, voters)


def test_a_stand_by_and_a_spare_vouch_for_nobody():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        rest[0].script = naming(0, "")
        with unconfirmed():
            await database.read("SELECT n FROM t", deadline_seconds=0.1)

    hold(play, 2, ((8, "controller-8-8", STANDBY), (9, "controller-9-9", SPARE)))


def test_whoever_does_not_know_the_voters_asks_them_after_the_read_and_the_leader_after_them():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        order = noting(node, rest)
        await database.read("SELECT n FROM t")
        assert order == ["open", "members", "SELECT n FROM t", "voter", "still?"]

    hold(play, 2)


def test_a_leader_that_stepped_down_meanwhile_is_not_believed():
    """It answers a statement once more as long as nothing looks whether its database is open still."""

    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        for said in (failure(12), failure(10250, "not leader")):
            told = cluster_of(node, rest)
            left = [said]
            node.script = lambda asked, told=told, left=left: (
                left.pop() if asked.type == 8 and not asked.text and left else told(asked)
            )
            del node.asked[:]
            await database.read("SELECT n FROM t")
            assert [s for s in node.statements if s] == ["SELECT n FROM t"] * 2

    hold(play)


def test_a_frozen_voter_costs_nothing_while_another_answers():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        rest[0].script = lambda asked: SILENCE
        started = asyncio.get_running_loop().time()
        for _ in range(20):
            await database.read("SELECT n FROM t")
        assert asyncio.get_running_loop().time() - started < 0.5

    hold(play)


@pytest.mark.parametrize("own", [0, 1])
def test_no_more_voters_are_asked_than_must_answer_and_the_own_node_first(own: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(witness, "_PATIENCE_SECONDS", 1.0)  # However slow this machine is.

    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        node.own_name = rest[own].name
        for _ in range(20):
            await database.read("SELECT n FROM t")
        assert [len(rest[own].asked), len(rest[1 - own].asked)] == [20, 0]

    hold(play)


@pytest.mark.parametrize("answer", [leader(0, ""), leader(1, "controller-1-1"), END, SILENCE])
def test_the_others_are_asked_when_the_first_does_not_help(answer: object):
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        rest[0].script = lambda asked: answer
        assert (await database.read("SELECT n FROM t", deadline_seconds=1)).rows == ((1,),)
        assert rest[0].asked
        assert rest[1].asked
        # All that do not answer, or name another, keep it from being confirmed.
        rest[1].script = rest[0].script
        with unconfirmed():
            await database.read("SELECT n FROM t", deadline_seconds=0.1)

    hold(play)


def test_a_voter_that_was_late_is_asked_last_for_a_while():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        rest[0].script = lambda asked: SILENCE
        await database.read("SELECT n FROM t")
        asked = len(rest[0].asked)
        for _ in range(5):
            await database.read("SELECT n FROM t")
        # On a slow machine the other one may be late as well.
        assert len(rest[0].asked) - asked < 5
        assert len(rest[1].asked) == 6

    hold(play)


def test_a_connection_to_a_voter_that_broke_is_replaced_at_once():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        await database.read("SELECT n FROM t")
        for connection in rest[0].connections:
            connection.close()
        await database.read("SELECT n FROM t", deadline_seconds=0.05)
        assert len(rest[0].connections) == 2

    hold(play, 2)


def test_a_voter_that_cannot_be_reached_is_not_dialled_by_every_read():
    dialled = 0

    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        real = node.to_member

        async def count(name: str, *, deadline: float) -> object:
            nonlocal dialled
            dialled += 1
            if name == rest[0].name:
                raise errors.NotReady("gone")
            return await real(name, deadline=deadline)

        node.to_member = count  # type: ignore[method-assign,assignment]
        for _ in range(10):
            await database.read("SELECT n FROM t")
        assert dialled <= 3

    hold(play)


def test_reads_at_the_same_time_share_questions_but_only_ones_sent_after_their_answers():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(100):
                group.create_task(database.read("SELECT n FROM t"))
        assert node.statements.count("SELECT n FROM t") == 100
        assert asked_of(rest) < 100

    hold(play, 2)


def test_a_question_that_was_under_way_does_not_count_for_a_later_read():
    """The voter is asked, then names another leader: an answer to the first question must not serve the second."""

    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        confirmer = Confirmer(node)
        first, second = await node.connect(), await node.connect()
        told = await first.cluster()
        deadline = asyncio.get_running_loop().time() + 2
        early = asyncio.create_task(confirmer.confirm(first, told, deadline=deadline))
        while not asked_of(rest):
            await asyncio.sleep(0)
        # The first question has arrived and is answered; whoever comes now needs another.
        rest[0].script = naming(0, "")
        late = asyncio.create_task(confirmer.confirm(second, told, deadline=deadline))
        await early
        with unconfirmed():
            await late
        confirmer.close()

    hold(play, 2)


def test_a_connection_of_another_epoch_is_never_confirmed():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        confirmer = Confirmer(node)
        connection = await node.connect()
        told = await connection.cluster()
        node.identity = "epoch 2"
        with pytest.raises(errors.NotReady, match="epoch"):
            await confirmer.confirm(connection, told, deadline=asyncio.get_running_loop().time() + 1)
        assert not connection.usable

    hold(play)


def test_an_epoch_that_changes_drops_the_connections_to_the_voters_and_the_idle_ones():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        await database.read("SELECT n FROM t")
        before = [*node.connections, *rest[0].connections]
        node.identity = rest[0].identity = "epoch 2"
        await database.read("SELECT n FROM t")
        assert not any(connection.usable for connection in before)

    hold(play, 2)


def test_the_cheaper_mode_asks_no_voter():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        await database.read("SELECT n FROM t", consistency="leader")
        assert asked_of(rest) == 0
        assert node.statements == ["SELECT n FROM t"]

    hold(play)


def deposed(rest: list[FakeNode]) -> None:
    for other in rest:
        other.script = naming(1, "controller-1-1")


@pytest.mark.parametrize(
    ("sql", "answer", "proof"),
    [
        (INSERT, result(1, 1), False),
        ("DELETE FROM t", result(0, 2), False),
        (INSERT, result(1, 0), True),
        ("INSERT OR IGNORE INTO t VALUES(1)", result(1, 0), True),
        ("UPDATE t SET a = 1", result(0, 1), True),
        ("INSERT INTO t VALUES(1) ON CONFLICT DO UPDATE SET a = 1", result(0, 1), True),
        ("CREATE TABLE IF NOT EXISTS t(a)", result(0, 0), True),
    ],
)
def test_only_a_write_that_surely_changed_a_page_needs_no_confirmation(sql: str, answer: bytes, proof: bool):
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        told = node.script
        node.script = lambda asked: answer if asked.text == sql else told(asked)
        deposed(rest)

        async def write(transaction: Transaction) -> str:
            await transaction.execute(sql)
            return "done"

        if proof:
            with unconfirmed():
                await database.run(write, deadline_seconds=0.1)
            assert "COMMIT" not in node.statements
        else:
            assert await database.run(write, deadline_seconds=0.1) == "done"
            assert asked_of(rest) == 0

    hold(play)


@pytest.mark.parametrize("read_only", [True, False])
def test_a_transaction_that_read_ends_as_not_ready_when_nobody_confirms_it(read_only: bool):
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        deposed(rest)
        with unconfirmed():
            async with database.transaction(read_only=read_only, deadline_seconds=1) as transaction:
                assert (await transaction.query("SELECT n FROM t")).rows == ((1,),)
        with unconfirmed():
            await database.run(
                lambda transaction: transaction.query("SELECT n FROM t"), read_only=read_only, deadline_seconds=0.1
            )
        assert "COMMIT" not in node.statements

    hold(play)


def test_a_read_only_transaction_reads_in_one_snapshot_and_refuses_to_write():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        async def look(transaction: Transaction) -> int:
            with pytest.raises(errors.Refused, match="read-only"):
                await transaction.execute(INSERT)
            return len((await transaction.query("SELECT n FROM t")).rows)

        assert await database.run(look, read_only=True) == 1
        assert node.statements == ["BEGIN", "SELECT n FROM t", "COMMIT"]

    hold(play)


def test_a_read_only_transaction_whose_end_is_not_answered_is_just_run_again():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        told = node.script
        left = [END]
        node.script = lambda asked: left.pop() if asked.text == "COMMIT" and left else told(asked)
        await database.run(lambda transaction: transaction.query("SELECT n FROM t"), read_only=True)
        assert node.statements == ["BEGIN", "SELECT n FROM t", "COMMIT"] * 2

    hold(play)


def test_a_verdict_that_rests_on_an_unconfirmed_read_does_not_leave_the_block():
    """KeyError here means "there is no such row", said by a leader that was deposed."""

    async def look(transaction: Transaction) -> None:
        await transaction.query("SELECT n FROM t")
        raise KeyError("no such row")

    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        with pytest.raises(KeyError):
            await database.run(look, deadline_seconds=1)
        deposed(rest)
        with unconfirmed():
            await database.run(look, deadline_seconds=0.1)

    hold(play)


def test_a_constraint_that_a_deposed_leader_saw_violated_is_no_verdict_either():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        told = node.script
        node.script = lambda asked: failure(19, "UNIQUE failed") if asked.text == INSERT else told(asked)
        deposed(rest)
        with unconfirmed():
            await database.run(lambda transaction: transaction.execute(INSERT), deadline_seconds=0.1)

    hold(play)


def test_a_read_that_a_deposed_leader_refuses_is_no_verdict_either():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        told = node.script
        node.script = lambda asked: failure(1, "no such table") if asked.text == "SELECT n FROM t" else told(asked)
        with pytest.raises(errors.Refused, match="no such table"):
            await database.read("SELECT n FROM t")
        deposed(rest)
        with unconfirmed():
            await database.read("SELECT n FROM t", deadline_seconds=0.1)

    hold(play)


def test_an_empty_block_asks_nobody():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        deposed(rest)
        async with database.transaction():
            pass
        assert asked_of(rest) == 0

    hold(play)


def test_rows_of_several_parts_and_the_members_behind_them_come_in_one_round_trip():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        told = node.script
        many = rows(1, 2, done=False) + rows(3)
        node.script = lambda asked: many if asked.text == "SELECT n FROM t" else told(asked)
        assert (await database.read("SELECT n FROM t")).rows == ((1,), (2,), (3,))

    hold(play)

"""A read whose voters are asked ahead of it: two round trips, and each condition of its proof."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from dbaccessor import confirm, errors
from dbaccessor.confirm import Confirmer
from dbaccessor.database import Database
from dbaccessor.dqlite.results import Rows
from fakenode import SILENCE, FakeNode, failure, leader, members, rows
from fakevoters import SPARE, VOTER, cluster_of, hold, naming, noting, unconfirmed

SQL = "SELECT n FROM t"
STILL = ""
IN_TWO_TRIPS = ["voter", SQL, "members", "still?"]
Play = Callable[[FakeNode, list[FakeNode], Database], Awaitable[None]]


def answering(node: FakeNode, rest: list[FakeNode], **answers: object) -> None:
    """Let the leader answer the query, the members and the question whether it leads still as told, each once."""
    told = cluster_of(node, rest)
    of = {(9, SQL): "query", (16, ""): "members", (8, STILL): "still"}
    left = dict(answers)
    node.script = lambda asked: left.pop(of.get((asked.type, asked.text), ""), None) or told(asked)


def naming_these(node: FakeNode, voters: list[FakeNode], others: list[FakeNode] = []) -> bytes:  # noqa: B006
    """What a leader tells that has these other voters, and these spares."""
    return members(
        (7, node.name, VOTER),
        *((int(n.name[-1]), n.name, VOTER) for n in voters),
        *((int(n.name[-1]), n.name, SPARE) for n in others),
    )


async def met(database: Database) -> None:
    """Let the database know its leader and voters, as it does after its first read."""
    await database.read(SQL)


@contextlib.asynccontextmanager
async def asked_ahead(node: FakeNode, database: Database) -> AsyncIterator[Confirmer]:
    """Another confirmer that knows the voters, for what happens between its question and the read."""
    confirmer = Confirmer(node)
    connection = await node.connect()
    deadline = asyncio.get_running_loop().time() + 5
    await confirmer.confirm(connection, await connection.cluster(), deadline=deadline)
    yield confirmer
    confirmer.close()


def test_whoever_knows_the_voters_reads_in_two_round_trips():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        await met(database)
        order = noting(node, rest)
        for _ in range(3):
            await database.read(SQL)
        assert order == IN_TWO_TRIPS * 3

    hold(play, 2)


def test_the_only_voter_is_asked_everything_at_once():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        order = noting(node, rest)
        await database.read(SQL)
        assert order == ["open", SQL, "members", "still?"]

    hold(play, 1)


def test_what_a_voter_said_for_an_earlier_read_never_counts():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        for _ in range(3):
            await database.read(SQL)
        for other in rest:
            other.script = naming(1, "controller-1-1")
        with unconfirmed():
            await database.read(SQL, deadline_seconds=0.1)

    hold(play)


def test_a_voter_that_names_nobody_any_more_is_asked_again_after_the_read():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        await met(database)
        unsure = [leader(0, "")]
        rest[0].script = lambda asked: unsure.pop() if unsure else leader()
        order = noting(node, rest)
        await database.read(SQL)
        assert order == [*IN_TWO_TRIPS, "voter", "still?"]
        del order[:]
        await database.read(SQL)
        assert order == IN_TWO_TRIPS

    hold(play, 2)


def test_voters_that_say_nothing_ahead_do_not_keep_the_read_from_being_tried():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        await met(database)
        silent = [SILENCE] * 2
        for other in rest:
            other.script = lambda asked: silent.pop() if silent else leader()
        with contextlib.suppress(errors.NotReady):
            # The connections on which nothing came are in use until their own deadline.
            await database.read(SQL, deadline_seconds=0.2)
        assert node.statements.count(SQL) >= 2

    hold(play)


def test_where_voters_are_too_far_to_be_asked_ahead_no_read_waits_for_them_again(monkeypatch: pytest.MonkeyPatch):
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        await met(database)
        order = noting(node, rest)
        with monkeypatch.context() as patch:
            patch.setattr(confirm, "_AHEAD_SECONDS", 0.0)
            await database.read(SQL)
        order.clear()
        await database.read(SQL)
        assert order == [SQL, "members", "still?", "voter", "still?"]
        monkeypatch.setattr(database._confirmer, "_ahead_from", 0.0)  # Some time later.
        order.clear()
        await database.read(SQL)
        assert order == IN_TWO_TRIPS

    hold(play, 2)


def test_a_connection_to_another_leader_than_the_last_has_its_voters_asked_after_the_read():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        await met(database)
        for connection in node.connections:
            connection.close()
        node.name = "controller-9-9"
        node.script = cluster_of(node, rest)
        for other in rest:
            other.script = naming(9, "controller-9-9")
        order = noting(node, rest)
        await database.read(SQL)
        assert order == ["open", SQL, "members", "still?", "voter", "still?"]

    hold(play, 2)


def test_voters_that_came_after_the_question_need_more_to_name_the_leader():
    """Of three voters one other is enough, of five it takes two: the word of one is no majority of those."""

    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        three, five = naming_these(node, rest[:2], rest[2:]), naming_these(node, rest)
        told = node.script
        node.script = lambda asked: three if asked.type == 16 else told(asked)
        await met(database)
        node.script = lambda asked: five if asked.type == 16 else told(asked)
        for other in rest[1:]:
            other.script = naming(2, "controller-2-2")
        with unconfirmed():
            await database.read(SQL, deadline_seconds=0.1)
        rest[4 - 1].script = naming(7, node.name)
        assert (await database.read(SQL, deadline_seconds=2)).rows == ((1,),)

    hold(play, 5)


def test_the_word_of_one_that_is_no_voter_any_more_does_not_count():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        before, after = naming_these(node, rest[:1], rest[1:]), naming_these(node, rest[1:], rest[:1])
        told = node.script
        node.script = lambda asked: before if asked.type == 16 else told(asked)
        await met(database)
        node.script = lambda asked: after if asked.type == 16 else told(asked)
        rest[1].script = naming(1, "controller-1-1")
        with unconfirmed():
            await database.read(SQL, deadline_seconds=0.1)
        rest[1].script = naming(7, node.name)
        await met(database)
        order = noting(node, rest)
        await database.read(SQL)
        assert order == IN_TWO_TRIPS
        assert rest[0].ended == 1, "the connection to who is no voter any more is not kept"

    hold(play, 3)


def test_a_leader_that_leaves_the_voters_needs_a_majority_without_itself():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        await met(database)
        gone = members((7, node.name, SPARE), (1, rest[0].name, VOTER), (2, rest[1].name, VOTER))
        told = node.script
        node.script = lambda asked: gone if asked.type == 16 else told(asked)
        rest[0].script = rest[1].script = naming(1, "controller-1-1")
        rest[1].script = naming(7, node.name)
        with unconfirmed():
            await database.read(SQL, deadline_seconds=0.1)

    hold(play)


@pytest.mark.parametrize("stepped_down", [failure(12, "no database opened"), failure(10250, "not leader")])
@pytest.mark.parametrize("query", [rows(5), failure(1, "no such table"), failure(9, "interrupted")])
def test_what_was_read_or_refused_by_one_that_stepped_down_before_its_last_answer_is_read_anew(
    query: bytes, stepped_down: bytes
):
    """Its members may be those of a newer leader's log then, of which the voters that named it are a majority."""

    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        await met(database)
        del node.asked[:]
        answering(node, rest, query=query, members=naming_these(node, rest[:1]), still=stepped_down)
        assert (await database.read(SQL)).rows == ((1,),)
        assert node.statements.count(SQL) == 2
        assert not node.connections[0].usable

    hold(play, 4)


def test_a_refusal_is_an_answer_that_the_voters_vouch_for():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        await met(database)
        answering(node, rest, query=failure(1, "no such table"))
        order = noting(node, rest)
        with pytest.raises(errors.Refused, match="no such table"):
            await database.read(SQL)
        assert order == IN_TWO_TRIPS
        assert node.connections[0].usable

    hold(play, 2)


@pytest.mark.parametrize("busy", ["query", "still"])
def test_a_leader_that_is_busy_with_a_checkpoint_is_asked_again(busy: str):
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        await met(database)
        answering(node, rest, **{busy: failure(5, "checkpoint in progress")})
        assert (await database.read(SQL)).rows == ((1,),)

    hold(play)


def test_rows_of_several_parts_are_read_in_the_same_two_round_trips():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        await met(database)
        answering(node, rest, query=rows(1, 2, done=False) + rows(3))
        order = noting(node, rest)
        assert (await database.read(SQL)).rows == ((1,), (2,), (3,))
        assert order == IN_TWO_TRIPS

    hold(play, 2)


def test_an_epoch_that_changes_between_the_question_and_the_answer_leaves_nothing_confirmed():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        async with asked_ahead(node, database) as confirmer:
            connection = await node.connect()
            deadline = asyncio.get_running_loop().time() + 5
            named = await confirmer.ask_ahead(connection, deadline=deadline)
            assert named == {rest[0].name}
            said, told = await connection.query_as_leader(SQL)
            assert isinstance(said, Rows)
            assert confirmer.vouched(connection, told, named)
            node.identity = "epoch 2"
            assert not confirmer.vouched(connection, told, named)
            # Nor does anybody ask for a connection that was made under the earlier one.
            assert await confirmer.ask_ahead(connection, deadline=deadline) == frozenset()

    hold(play, 2)


def test_a_question_that_was_under_way_when_the_read_began_does_not_count():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        async with asked_ahead(node, database) as confirmer:
            first, second = await node.connect(), await node.connect()
            deadline = asyncio.get_running_loop().time() + 5
            asked = len(rest[0].asked)
            early = asyncio.create_task(confirmer.ask_ahead(first, deadline=deadline))
            while len(rest[0].asked) == asked:
                await asyncio.sleep(0)
            # The first question has arrived and is answered; whoever comes now needs another.
            rest[0].script = naming(0, "")
            late = asyncio.create_task(confirmer.ask_ahead(second, deadline=deadline))
            assert await early == {rest[0].name}
            assert await late == frozenset()

    hold(play, 2)


def test_a_metric_hears_of_each_read_once():
    async def play(node: FakeNode, rest: list[FakeNode], database: Database) -> None:
        heard: list[bool] = []
        confirmer = Confirmer(node)
        confirmer.on_round = heard.append
        shared = Database(node, "data", confirmer)
        for _ in range(3):
            await shared.read(SQL)
        assert heard == [True] * 3
        rest[0].script = naming(1, "controller-1-1")
        with unconfirmed():
            await shared.read(SQL, deadline_seconds=0.001)
        assert not any(heard[3:])
        shared.close()
        confirmer.close()

    hold(play, 2)

"""What the own node says, also while it is being stopped."""

from __future__ import annotations

import asyncio

import pytest

from dbaccessor.dqlite.connection import Connection
from dbaccessor.localnode import LocalNode, Probe
from dbaccessor.preamble import MemberFact
from fakenode import END, SILENCE, Asked, FakeNode, failure, leader, obliging

# The types of the two requests on the wire.
LEADER, MEMBERS = 0, 16


class Faked(LocalNode):
    """Asks a fake node in place of one on an abstract socket."""

    def __init__(self, node: FakeNode) -> None:
        super().__init__(7)
        self._node = node

    async def _open(self, deadline_seconds: float) -> Connection:
        return await self._node.connect(deadline_seconds)


def test_a_question_during_which_the_node_is_stopped_has_no_answer():
    async def run() -> None:
        async with FakeNode() as node:
            local = Faked(node)

            def stopped_after_the_first_question(asked: Asked) -> object:
                local.close()
                return obliging(asked)

            node.script = stopped_after_the_first_question
            assert await local.probe(2) is None

    asyncio.run(run())


def test_a_stop_between_the_two_answers_is_no_error():
    async def run() -> None:
        async with FakeNode() as node:
            local = Faked(node)

            def stopped_at_the_second_question(asked: Asked) -> object:
                if asked.type == MEMBERS:
                    local.close()
                return obliging(asked)

            node.script = stopped_at_the_second_question
            assert await local.probe(2) is None

    asyncio.run(run())


def test_both_questions_go_over_one_connection_again_and_again():
    async def run() -> None:
        async with FakeNode() as node:
            local = Faked(node)
            said = [await local.probe(2) for _ in range(2)]

            assert said == [Probe("controller-0-7", (MemberFact(7, "controller-0-7", "voter"),))] * 2
            assert [asked.type for asked in node.asked] == [LEADER, MEMBERS] * 2
            assert len(node.connections) == 1

    asyncio.run(run())


@pytest.mark.parametrize("second", [failure(1), leader(), SILENCE, END])
def test_a_node_that_answers_only_one_question_gives_no_answer_and_is_asked_anew_on_another_connection(second: object):
    async def run() -> None:
        async with FakeNode() as node:
            local = Faked(node)
            node.script = lambda asked: second if asked.type == MEMBERS else obliging(asked)
            assert await local.probe(0.2) is None

            node.script = obliging
            assert await local.probe(2) is not None
            assert len(node.connections) == 2

    asyncio.run(run())


def test_a_node_that_knows_no_leader_tells_its_members():
    async def run() -> None:
        async with FakeNode() as node:
            node.script = lambda asked: leader(0, "") if asked.type == LEADER else obliging(asked)

            said = await Faked(node).probe(2)

            assert said == Probe("", (MemberFact(7, "controller-0-7", "voter"),))

    asyncio.run(run())


def test_a_caller_whose_time_is_over_before_its_turn_takes_no_answer_from_the_one_before():
    async def run() -> None:
        async with FakeNode(lambda asked: SILENCE) as node:
            local = Faked(node)
            first = asyncio.create_task(local.probe(5))
            while not node.asked:
                await asyncio.sleep(0.001)
            assert await local.probe(0.01) is None
            assert len(node.connections) == 1 and node.connections[0].usable
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)

    asyncio.run(run())


def test_the_next_caller_asks_anew_where_one_went_away_before_its_answer():
    async def run() -> None:
        async with FakeNode(lambda asked: SILENCE) as node:
            local = Faked(node)
            gone, waiting = asyncio.create_task(local.probe(5)), asyncio.create_task(local.probe(5))
            while not node.asked:
                await asyncio.sleep(0.001)
            node.script = obliging
            gone.cancel()
            assert await waiting == Probe("controller-0-7", (MemberFact(7, "controller-0-7", "voter"),))
            assert gone.cancelled()

    asyncio.run(run())


def test_one_question_serves_everybody_who_asks_meanwhile():
    async def run() -> None:
        async with FakeNode() as node:
            local = Faked(node)
            said = await asyncio.gather(*(local.probe(5) for _ in range(20)))
            assert {s and s.leader for s in said} == {"controller-0-7"}
            assert [asked.type for asked in node.asked] == [LEADER, MEMBERS]

    asyncio.run(run())


def test_a_question_without_an_answer_serves_nobody():
    async def run() -> None:
        async with FakeNode(lambda asked: SILENCE) as node:
            local = Faked(node)
            first = asyncio.create_task(local.probe(0.5))
            while not node.asked:
                await asyncio.sleep(0.001)
            node.script = obliging
            said = await asyncio.gather(*(local.probe(5) for _ in range(20)))
            assert {s and s.leader for s in said} == {"controller-0-7"}
            assert await first is None
            assert [asked.type for asked in node.asked].count(LEADER) == 2

    asyncio.run(run())


def test_whoever_asks_later_gets_an_answer_of_then():
    async def run() -> None:
        async with FakeNode() as node:
            local = Faked(node)
            for n in range(3):
                name = f"controller-{n}-7"
                node.script = lambda asked, name=name: leader(7, name) if asked.type == LEADER else obliging(asked)
                said = await asyncio.gather(local.probe(5), local.probe(5))
                assert [s and s.leader for s in said] == [name] * 2

    asyncio.run(run())

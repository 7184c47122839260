"""What the own node says, also while it is being stopped."""

from __future__ import annotations

import asyncio

from dbaccessor.dqlite.connection import Connection
from dbaccessor.localnode import LocalNode
from fakenode import Asked, FakeNode, obliging


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


def test_a_stop_between_the_two_questions_is_no_error():
    async def run() -> None:
        async with FakeNode() as node:
            local = Faked(node)
            connection = await node.connect()
            local._connection = connection
            answered = connection.leader

            async def leader() -> tuple[int, str] | None:
                answer = await answered()
                local.close()
                return answer

            connection.leader = leader  # type: ignore[method-assign]
            assert await local.probe(2) is None

    asyncio.run(run())

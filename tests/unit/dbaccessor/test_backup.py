"""The archive as a stream: whoever reads it hears of its end, whatever ended it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dbaccessor import archive, backup, errors
from dbaccessor.backup import Facts
from dbaccessor.dqlite.wire import RequestType
from dbaccessor.identity import Epoch, Identity
from fakenode import END, Asked, FakeNode, failure, message, obliging, text, words

FACTS = Facts(Identity(cluster_uuid="u", controller_id="0", dqlite_id=1, epoch=Epoch(1, "a")), 1, "1", "1.18")

FILES = message(9, words(1) + text("data") + words(8) + b"contents")


@pytest.mark.parametrize(
    "error", [errors.NotReady("no leader"), OSError("gone"), ValueError("what is this"), KeyError()]
)
def test_whatever_ends_the_stream_early_is_heard_by_its_reader(error: Exception):
    async def to_leader(**_: object) -> None:
        raise error

    async def confirm(*_: object) -> None:
        raise AssertionError("nothing was read")

    async def read() -> None:
        connector = SimpleNamespace(to_leader=to_leader)
        async with asyncio.timeout(5):
            async for _ in backup.stream(cast(Any, connector), confirm, ["controller"], ["controller"], FACTS):
                raise AssertionError("there is nothing to send")

    with pytest.raises(type(error)) as heard:
        asyncio.run(read())
    assert heard.value is error


@pytest.mark.parametrize("busy", [0, 2])
def test_a_database_that_is_listed_is_dumped_once_its_node_has_answered_a_question_about_it(busy: int):
    """Only then is it there, though nothing was ever written to it, and has the node applied what was committed."""
    turns = [failure(5, "checkpoint in progress")] * busy

    async def confirm(*_: object) -> None:
        pass

    async def play() -> None:
        async with FakeNode() as node:

            def answer(asked: Asked) -> object:
                if asked.type == RequestType.DUMP:
                    opened = any(a.type == RequestType.OPEN and a.text == "data" for a in node.asked)
                    known = opened and node.statements == ["SELECT 1"] * (1 + busy)
                    return FILES if known else failure(1002, "database does not exists")
                return turns.pop() if asked.type == 9 and turns else obliging(asked)

            node.script = answer
            parts = [part async for part in backup.stream(node, confirm, ["data"], ["data"], FACTS)]
        assert b"".join(parts[:2]) == archive.header("data", 8) + b"contents"

    asyncio.run(play())


@pytest.mark.parametrize("refused", [False, True])
def test_a_checkpoint_that_is_under_way_when_all_is_read_costs_a_moment_and_not_the_backup(refused: bool):
    busy = [failure(5, "checkpoint in progress")] * 2

    def answer(asked: Asked) -> object:
        if asked.type == 9 and busy:
            return busy.pop()
        return failure(1, "no such table") if refused and "schema_patch" in asked.text else obliging(asked)

    async def play() -> None:
        async with FakeNode(answer) as node:
            connection = await node.connect()
            assert await backup._patches(connection) == (None if refused else 1)

    asyncio.run(play())


def test_a_node_that_leads_no_longer_when_all_is_read_ends_the_backup():
    async def play() -> None:
        async with FakeNode(lambda asked: END if asked.type == 9 else obliging(asked)) as node:
            with pytest.raises(errors.NotReady):
                await backup._patches(await node.connect())

    asyncio.run(play())

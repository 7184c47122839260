"""A conversation may end anywhere: at every byte of every answer, and after any sequence of questions."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fakenode
from dbaccessor import errors
from dbaccessor.dqlite.connection import Connection
from fakenode import DATABASE, EMPTY, END, FakeNode, failure, message, result, rows, text, words


@dataclass(frozen=True)
class Question:
    """How something is asked, what answers it in full, and whether it may have changed anything."""

    ask: Callable[[Connection], Awaitable[object]]
    answer: bytes
    changes: bool


QUESTIONS = {
    "leader": Question(lambda c: c.leader(), message(1, words(7) + text("controller-0-7")), False),
    "cluster": Question(lambda c: c.cluster(), message(3, words(1, 7) + text("controller-0-7") + words(0)), False),
    "open": Question(lambda c: c.open_database("data"), DATABASE, False),
    "query": Question(
        lambda c: c.query("SELECT n FROM t"), rows(1, 2, done=False) + rows(3, done=False) + rows(), False
    ),
    "execute": Question(lambda c: c.execute("DELETE FROM t"), result(1, 1), True),
    "add": Question(lambda c: c.add(7, "controller-0-7"), EMPTY, True),
    "remove": Question(lambda c: c.remove(7), EMPTY, True),
    "transfer": Question(lambda c: c.transfer(7), EMPTY, True),
}


async def assert_over(connection: Connection, node: FakeNode) -> None:
    """The connection is closed for good, and nothing more is sent on it."""
    assert not connection.usable
    asked = len(node.asked)
    for question in QUESTIONS.values():
        with pytest.raises(errors.NotReady, match="closed"):
            await question.ask(connection)
    assert len(node.asked) == asked


@pytest.mark.parametrize("name", QUESTIONS)
def test_an_answer_that_ends_at_any_byte_is_not_ready_or_indefinite_and_the_connection_is_over(name: str):
    question = QUESTIONS[name]
    kind = errors.Indefinite if question.changes else errors.NotReady

    async def play() -> None:
        for end in range(len(question.answer)):
            async with FakeNode(lambda asked, end=end: fakenode.Cut(question.answer[:end])) as node:
                connection = await node.connect()
                with pytest.raises(errors.DbAccessorError) as caught:
                    await question.ask(connection)
                assert type(caught.value) is kind, end
                await assert_over(connection, node)
        async with FakeNode(lambda asked: fakenode.Cut(question.answer)) as node:
            await question.ask(await node.connect())

    asyncio.run(play())


@pytest.mark.parametrize("front", [b"", words(1) + text("n") + words(1, 5)], ids=["alone", "behind rows"])
@pytest.mark.parametrize("name", QUESTIONS)
def test_a_failure_that_ends_at_any_byte_is_no_failure_yet(name: str, front: bytes):
    """Told in full it is Refused; one byte less, and a change may have been made."""
    question = QUESTIONS[name]
    kind = errors.Indefinite if question.changes else errors.NotReady
    answer = message(0, front + words(1) + text("syntax error"))

    async def play() -> None:
        for end in range(len(answer)):
            async with FakeNode(lambda asked, end=end: fakenode.Cut(answer[:end])) as node:
                connection = await node.connect()
                with pytest.raises(errors.DbAccessorError) as caught:
                    await question.ask(connection)
                assert type(caught.value) is kind, end
                assert not connection.usable
        async with FakeNode(lambda asked: answer) as node:
            connection = await node.connect()
            with pytest.raises(errors.Refused, match="syntax error"):
                await question.ask(connection)
            assert connection.usable

    asyncio.run(play())


# What a node may do with one question: answer it, fail it so or so, or end the conversation in some way.
PLAIN, SPOILING = (1, 5, 10250, 19), (10506, 12, 10, 100)
deeds = st.one_of(
    st.just("answer"),
    st.sampled_from(PLAIN + SPOILING),
    st.integers(0, 200).map(lambda n: ("cut", n)),
    st.sampled_from(["end", "garbage", "other"]),
)


@settings(max_examples=int(os.environ.get("HA_CONTROLLER_FUZZ", "60")), deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(QUESTIONS)), deeds), min_size=1, max_size=8))
def test_any_conversation_goes_on_exactly_as_long_as_its_answers_leave_no_doubt(story: list[tuple[str, object]]):
    async def play() -> None:
        async with FakeNode() as node:
            connection = await node.connect()
            for name, deed in story:
                question = QUESTIONS[name]
                node.script = lambda asked, question=question, deed=deed: _carry_out(question, deed)
                expected = _expected(question, deed)
                if expected is None:
                    await question.ask(connection)
                    assert connection.usable
                    continue
                with pytest.raises(errors.DbAccessorError) as caught:
                    await question.ask(connection)
                assert type(caught.value) is expected
                if deed in PLAIN:
                    assert connection.usable
                    continue
                await assert_over(connection, node)
                return

    asyncio.run(play())


def _carry_out(question: Question, deed: object) -> object:
    match deed:
        case "answer":
            return question.answer
        case int():
            return failure(deed)
        case ("cut", int(size)):
            return fakenode.Cut(question.answer[: min(size, len(question.answer) - 1)])
        case "end":
            return END
        case "garbage":
            return b"\xff" * 64
        case _:
            # An answer of the right form to another question.
            return EMPTY if question.answer != EMPTY else DATABASE


def _expected(question: Question, deed: object) -> type[errors.DbAccessorError] | None:
    doubt = errors.Indefinite if question.changes else errors.NotReady
    match deed:
        case "answer":
            return None
        case 10250:
            return errors.NotLeader
        case 5 | 12:
            return errors.NotReady
        case 1 | 19:
            return errors.Refused
        case _:
            return doubt

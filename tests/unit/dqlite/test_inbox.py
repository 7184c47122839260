"""What has come and nobody has read: it is bounded, and its end is known before the next question is sent."""

from __future__ import annotations

import asyncio
import socket

import pytest

from dbaccessor import errors
from dbaccessor.dqlite.connection import Connection
from dbaccessor.dqlite.inbox import Inbox
from fakenode import END, SILENCE, FakeNode, leader, message, rows, words


async def _streams() -> tuple[asyncio.StreamReader, asyncio.StreamWriter, socket.socket]:
    near, far = socket.socketpair()
    far.setblocking(False)
    reader, writer = await asyncio.open_unix_connection(sock=near)
    return reader, writer, far


async def _until_told(inbox: Inbox) -> None:
    """Wait until the inbox has news, as whoever asked does."""
    news = asyncio.get_running_loop().create_future()
    inbox.on_news = lambda: None if news.done() else news.set_result(None)
    async with asyncio.timeout(5):
        await news
    inbox.on_news = None


async def _until_stuck(far: socket.socket) -> int:
    """Send until the other side has taken nothing for a while; return how much it, and the kernel, took."""
    sent, idle = 0, 0
    while idle < 50:
        try:
            sent += far.send(bytes(64 * 1024))
            idle = 0
        except BlockingIOError:
            idle += 1
        await asyncio.sleep(0.001)
    return sent


def test_what_nobody_waits_for_is_bounded_and_wanting_more_lets_it_come():
    async def play() -> None:
        reader, writer, far = await _streams()
        with far:
            inbox = Inbox(reader, writer.transport)  # type: ignore[arg-type]
            await _until_stuck(far)
            held = inbox.decoder.pending
            assert 256 * 1024 <= held < 512 * 1024
            inbox.want_more()
            await _until_told(inbox)
            assert inbox.decoder.pending > held
            writer.transport.abort()

    asyncio.run(play())


@pytest.mark.parametrize("early", [True, False])
def test_an_end_is_known_whether_it_came_before_or_after_the_takeover(early: bool):
    async def play() -> None:
        reader, writer, far = await _streams()
        if early:
            far.close()
            async with asyncio.timeout(5):
                await reader.read()
        inbox = Inbox(reader, writer.transport)  # type: ignore[arg-type]
        if not early:
            far.close()
            await _until_told(inbox)
        assert isinstance(inbox.ended, EOFError)
        writer.transport.abort()

    asyncio.run(play())


def test_nothing_is_sent_on_a_connection_that_ended_while_nobody_asked():
    """So a change provably did not happen, instead of perhaps."""

    async def play() -> None:
        async with FakeNode() as node:
            idle = await node.connect()
            async with asyncio.timeout(5):
                while not node._writers:
                    await asyncio.sleep(0)
                node._writers[0].close()
                while idle._channel._inbox.ended is None:
                    await asyncio.sleep(0)
            with pytest.raises(errors.NotReady, match="closed"):
                await idle.execute("DELETE FROM t")
            assert not idle.usable

    asyncio.run(play())


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (leader(7, "controller-0-7"), "controller-0-7"),
        (leader(0, ""), ""),
        (SILENCE, None),
        (END, None),
        (message(1, words(7) + b"x" * 8), None),
        (rows(1), None),
    ],
)
def test_a_leader_is_told_without_waiting_and_a_doubtful_answer_closes_the_connection(answer: object, told: str | None):
    async def play() -> None:
        async with FakeNode(lambda asked: answer) as node:
            connection = await node.connect()
            heard: list[str | None] = []
            assert connection.ask_leader(heard.append, deadline_seconds=0.05)
            assert not connection.ask_leader(heard.append, deadline_seconds=0.05)
            async with asyncio.timeout(5):
                while not heard:
                    await asyncio.sleep(0.001)
            assert heard == [told]
            assert connection.usable == (told is not None)
            assert not connection.waiting

    asyncio.run(play())


def test_whoever_waits_for_a_turn_gets_it_after_an_answer_that_was_told():
    async def play() -> None:
        async with FakeNode(lambda asked: leader(7, "controller-0-7")) as node:
            connection: Connection = await node.connect()
            heard: list[str | None] = []
            assert connection.ask_leader(heard.append, deadline_seconds=1)
            assert await connection.leader() == (7, "controller-0-7")
            assert heard == ["controller-0-7"]
            assert len(node.asked) == 2

    asyncio.run(play())

"""The pump between a connection and a node: what waited too long for the node is not delivered."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest

from dbaccessor.tlsstream import Pump, Stream

# More than a pair of sockets holds.
MUCH = b"x" * (8 << 20)


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    """The far end, the pump's two, and the node's."""
    with contextlib.ExitStack() as stack:
        ends = [stack.enter_context(end) for _ in range(2) for end in socket.socketpair()]
        for end in ends:
            end.setblocking(False)
        yield ends


async def read_to_end(reader: socket.socket) -> int:
    loop, count = asyncio.get_running_loop(), 0
    while chunk := await loop.sock_recv(reader, 1 << 20):
        count += len(chunk)
    return count


async def delivered(ends: list[socket.socket], paused_seconds: float) -> int:
    """Send all of MUCH while the node reads nothing for so long by the loop's clock; return how much it then gets."""
    far, outer, inner, node = ends
    loop = asyncio.get_running_loop()
    pump = Pump(Stream(outer), inner, node=True, stale_seconds=0.5)
    running = asyncio.create_task(pump.run())

    async def send() -> None:
        with contextlib.suppress(OSError):
            await loop.sock_sendall(far, MUCH)
            far.shutdown(socket.SHUT_WR)

    sending = asyncio.create_task(send())
    while pump._ways[0].blocked_since is None:
        await asyncio.sleep(0.001)
    clock = loop.time
    loop.time = lambda: clock() + paused_seconds  # type: ignore[method-assign]
    async with asyncio.timeout(20):
        count = await read_to_end(node)
        await asyncio.gather(sending, running)
    return count


def test_what_a_node_takes_after_a_moment_is_all_that_was_sent(sockets):
    assert asyncio.run(delivered(sockets, 0)) == len(MUCH)


def test_what_has_waited_too_long_is_not_delivered_and_the_connection_ends(sockets):
    """No more than what the sockets held."""
    assert 0 < asyncio.run(delivered(sockets, 1)) < len(MUCH) / 2

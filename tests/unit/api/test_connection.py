"""One connection to a controller: what becomes of those who ask when it ends."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
import websockets
from websockets.frames import Close

from controller.api import connection
from controller.api.connection import Connection, Over
from controller.api.dial import Kind, PeerError
from controller.api.scopes import HostPort
from testauthority import TestAuthority


class Ending:
    """A websocket whose peer goes away while something is being sent."""

    def __init__(self) -> None:
        self.sending = asyncio.Event()
        self.ends = asyncio.Event()
        self._end = websockets.ConnectionClosedError(None, Close(1011, "keepalive ping timeout"))

    async def send(self, _: Any, *, text: bool) -> None:
        self.sending.set()
        await self.ends.wait()
        await asyncio.sleep(0.01)  # The reader hears of it first.
        raise self._end

    async def recv(self, *, decode: bool) -> bytes:
        await self.ends.wait()
        raise self._end

    async def close(self, code: int = 1000) -> None:
        pass


def test_an_end_while_a_question_is_being_sent_is_told_once_and_leaves_nothing_to_complain_about():
    complaints: list[dict[str, Any]] = []

    async def play() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))
        socket = Ending()
        connection = Connection(HostPort("10.0.0.1", 17070), "0", socket)  # type: ignore[arg-type]
        asking = asyncio.create_task(connection.call("Pinger", 1, "Ping"))
        await socket.sending.wait()
        socket.ends.set()
        with pytest.raises(Over, match="did not answer any more .keepalive ping timeout"):
            await asking
        del asking
        await connection.close()
        gc.collect()

    asyncio.run(play())
    gc.collect()

    assert complaints == []


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "a..b", "ä" * 64, "x\0y"])
def test_what_is_no_name_of_a_host_is_an_address_that_fails_like_any_other(host: str):
    context = connection.client_context(TestAuthority().current.certificate)

    async def play() -> None:
        await connection.connect(HostPort(host, 17070), context)

    with pytest.raises(PeerError, match="no name of a host") as raised:
        asyncio.run(play())
    assert raised.value.kind is Kind.NETWORK

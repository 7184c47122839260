"""One websocket of the server, over asyncio's streams: what a peer may cost is decided here.

The protocol itself is websockets' (sans-I/O). Here is who waits for whom, and how long: what is sent must be taken
within seconds, or the connection is cut; a peer that says nothing is asked, and cut when it does not answer; what is
read before the login has a budget; messages are never compressed, so none is larger in memory than on the wire.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import logging
from collections.abc import Iterable

from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from controller.api.messages import MOST_BYTES

_READ_BYTES = 64 * 1024
_WRITE_BUFFER_BYTES = 64 * 1024
_FAREWELL_SECONDS = 2.0

# The protocol logs each connection; what is worth a line of the log says the session.
_QUIET = logging.getLogger("controller.api.websocket")
_QUIET.setLevel(logging.WARNING)


class Closed(Exception):
    """The connection is over. The message says why, as far as is known."""


class Stream:
    """One connection. Many tasks may send; one receives. `place` is the address of whoever is at the other end.

    `budget_bytes` is what may be read in all until `trust` is called. `silence_seconds`: how long nothing may come
    before it is asked whether anybody is there, and again before the connection is cut.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        budget_bytes: int,
        write_seconds: float,
        silence_seconds: float,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._protocol = ServerProtocol(max_size=MOST_BYTES, logger=_QUIET)
        self._budget: int | None = budget_bytes
        self._write_seconds = write_seconds
        self._silence_seconds = silence_seconds
        self._asked = False
        self._turn = asyncio.Lock()
        self._frames: list[Frame] = []
        self._message = bytearray()
        self._over: str | None = None
        writer.transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        peer = writer.get_extra_info("peername")
        # The whole address: where a machine is. Limits are counted for limits.place_of this.
        self.place = str(peer[0]) if peer else "?"

    def trust(self) -> None:
        """From now on the only limit is the size of each message."""
        self._budget = None

    async def request(self) -> Request:
        """Return the HTTP request that opens the connection. Raises Closed."""
        while True:
            await self._read()
            for event in self._protocol.events_received():
                assert isinstance(event, Request)
                return event

    async def accept(self, request: Request) -> bool:
        """Finish the handshake of a websocket. Return whether it is one; a refusal has been sent if not."""
        response = self._protocol.accept(request)
        self._protocol.send_response(response)
        await self._flush()
        return response.status_code == http.HTTPStatus.SWITCHING_PROTOCOLS

    async def respond(
        self, status: int, content_type: str, body: bytes, headers: Iterable[tuple[str, str]] = ()
    ) -> None:
        """Answer a plain HTTP request; it is the last on this connection. Raises Closed."""
        response = self._protocol.reject(status, "")
        del response.headers["Content-Type"], response.headers["Content-Length"]
        response.headers["Content-Type"] = content_type
        response.headers["Content-Length"] = str(len(body))
        for name, value in headers:
            response.headers[name] = value
        self._protocol.send_response(Response(response.status_code, response.reason_phrase, response.headers, body))
        await self._flush()

    async def receive(self) -> bytes:
        """Return the next message. Raises Closed."""
        while True:
            while self._frames:
                frame = self._frames.pop(0)
                if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                    self._message += frame.data
                    if frame.fin:
                        message, self._message = bytes(self._message), bytearray()
                        return message
            await self._read()
            self._frames = [event for event in self._protocol.events_received() if isinstance(event, Frame)]

    async def send(self, message: bytes) -> None:
        """Send one message, as text. Raises Closed, also when it is not taken in time: the connection is cut then."""
        async with self._turn:
            if self._over is not None or self._protocol.state is not State.OPEN:
                raise Closed(self._over or "the other side has closed the connection")
            self._protocol.send_text(message)
            await self._flush()

    async def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """End the connection, saying why if it still listens; after two seconds at most it is cut."""
        with contextlib.suppress(Closed, TimeoutError, OSError):
            async with asyncio.timeout(_FAREWELL_SECONDS):
                if self._protocol.state is State.OPEN and self._over is None:
                    # A reason has 123 bytes of room.
                    self._protocol.send_close(code, reason.encode()[:120].decode(errors="ignore"))
                await self._flush()
                # Until it has said goodbye as well, what it still sends is read and forgotten: closing with bytes
                # unread would reset the connection, and it would never see the reason.
                while self._over is None and self._protocol.state is State.CLOSING and not self._protocol.close_rcvd:
                    data = await self._reader.read(_READ_BYTES)
                    if not data:
                        break
                    self._protocol.receive_data(data)
                    self._protocol.events_received()
        self._over = self._over or "it was closed"
        self._writer.close()
        try:
            async with asyncio.timeout(_FAREWELL_SECONDS):
                await self._writer.wait_closed()
        except (TimeoutError, OSError):
            self._writer.transport.abort()

    def cut(self, reason: str) -> None:
        """End the connection at once. Whoever waits for it gets Closed with this reason."""
        self._over = self._over or reason
        self._writer.transport.abort()

    async def _read(self) -> None:
        """Feed the protocol with what comes, and send what it answers by itself (pongs, refusals)."""
        if self._over is not None:
            raise Closed(self._over)
        if self._protocol.close_expected():
            await self._flush()
            raise Closed(self._why())
        data = await self._some()
        if self._budget is not None:
            self._budget -= len(data)
            if self._budget < 0:
                self._protocol.fail(CloseCode.MESSAGE_TOO_BIG, "too much was sent before the login")
                await self._flush()
                raise Closed("it sent too much before the login")
        if data:
            self._asked = False
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        await self._flush()
        if not data or self._protocol.state is State.CLOSED:
            raise Closed(self._why())

    async def _some(self) -> bytes:
        while True:
            try:
                async with asyncio.timeout(self._silence_seconds):
                    return await self._reader.read(_READ_BYTES)
            except TimeoutError:
                if self._asked or self._protocol.state is not State.OPEN:
                    self.cut(f"it has been silent for {self._silence_seconds:g} s, and did not answer a ping")
                    raise Closed(str(self._over)) from None
                self._asked = True
                self._protocol.send_ping(b"")
                await self._flush()
            except OSError as error:
                self.cut(f"the connection broke: {error}")
                raise Closed(str(self._over)) from error

    async def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:  # Nothing means the end of the stream, which TLS cannot half-close.
                self._writer.write(data)
        try:
            async with asyncio.timeout(self._write_seconds):
                await self._writer.drain()
        except TimeoutError:
            self.cut(f"it did not take what it was sent for {self._write_seconds:g} s")
            raise Closed(str(self._over)) from None
        except OSError as error:
            self.cut(f"the connection broke: {error}")
            raise Closed(str(self._over)) from error

    def _why(self) -> str:
        if self._over is not None:
            return self._over
        sent, received = self._protocol.close_sent, self._protocol.close_rcvd
        if self._protocol.close_rcvd_then_sent or sent is None:
            return f"it closed the connection ({received})" if received is not None else "it closed the connection"
        return f"closed because of what it sent ({sent})"

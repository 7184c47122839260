"""What a node has said on one connection and nobody has read yet.

Every request of every user waits here for its answer, so the way is short: what the socket gives goes into the decoder
at once, and whoever waits is told from the same callback of the event loop. asyncio's StreamReader costs a second turn
of the loop and two copies for each answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dbaccessor.dqlite import wire

# Most answers are far smaller. A larger one takes several reads.
_BUFFER_BYTES = 16 * 1024
# What may lie here while nobody waits for it; the other side is made to wait with the rest.
_UNREAD_BYTES = 256 * 1024


class Inbox(asyncio.BufferedProtocol):
    """Takes over a transport from asyncio's streams: they must not be used for reading any more.

    `on_news` is called when bytes have come or the end has, `received` counts the bytes since it was last set to 0.
    """

    def __init__(self, reader: asyncio.StreamReader, transport: asyncio.Transport) -> None:
        self.decoder = wire.Decoder()
        self.ended: Exception | None = None
        self.received = 0
        self.on_news: Callable[[], None] | None = None
        self._transport = transport
        self._paused = False
        self._bytes = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._bytes)
        transport.set_protocol(self)
        if reader.at_eof() or transport.is_closing():
            self.ended = reader.exception() or EOFError("the node ended the connection")

    def want_more(self) -> None:
        """Let more come, however much is unread: it is the rest of an answer."""
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    # What asyncio calls.

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        self.received += nbytes
        self.decoder.feed(self._view[:nbytes])
        if self.on_news is not None:
            self.on_news()
        elif self.decoder.pending > _UNREAD_BYTES and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        self._end(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc)

    def _end(self, error: Exception | None) -> None:
        if self.ended is None:
            self.ended = error or EOFError("the node ended the connection")
            if self.on_news is not None:
                self.on_news()

"""How to end a connection to a node without harming the node.

A node whose client goes away in the middle of an answer of several parts never gives up what that query holds: its
read lock stays, so the database's log grows without end, and an orderly stop of the node aborts its process
(libdqlite 1.18.7: `db__close: Assertion db->leaders == 0`). It looks at the connection again only between requests. So
whoever holds the near end of a connection, and may not read on, leaves it here: the node is told that nothing more
will be asked, and the rest of its answer is thrown away until it closes by itself.
"""

from __future__ import annotations

import asyncio
import socket

# A query that is still at it after this is beyond help, and holding its connection would not end.
_LONGEST_SECONDS = 300.0
_MOST_BYTES = 1 << 30


def leave(writer: asyncio.StreamWriter) -> None:
    """Take the connection over from its streams: they must not be used any more. Returns at once."""
    transport = writer.transport
    if transport.is_closing():
        return
    if _other_side_ended(transport):
        transport.abort()
        return
    # The transport holds the one who throws away, the event loop holds the transport: no task is needed.
    transport.set_protocol(_Discard(writer))
    if transport.can_write_eof():
        transport.write_eof()
    if isinstance(transport, asyncio.ReadTransport):
        transport.resume_reading()


def _other_side_ended(transport: asyncio.WriteTransport) -> bool:
    """True when there is nothing left to read. The streams may have seen that already; then nobody is told again."""
    shared = transport.get_extra_info("socket")
    try:
        with shared.dup() as copy:
            return not copy.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


class _Discard(asyncio.Protocol):
    def __init__(self, writer: asyncio.StreamWriter) -> None:
        # Kept, because a StreamWriter that nobody holds closes its transport.
        self._writer = writer
        self._bytes_left = _MOST_BYTES
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_LONGEST_SECONDS, writer.transport.abort)

    def data_received(self, data: bytes) -> None:
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            self._writer.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()

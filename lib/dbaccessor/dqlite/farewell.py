"""How to end a connection to a node without harming the node.

A node whose client goes away in the middle of an answer of several parts never gives up what that query holds: its
read lock stays, so the database's log grows without end, and an orderly stop of the node aborts its process
(libdqlite 1.18.7: `db__close: Assertion db->leaders == 0`). It looks at the connection again only between requests. So
whoever holds the near end of a connection, and may not read on, leaves it here: the node is told that nothing more
will be asked, and the rest of its answer is thrown away until it closes by itself.
"""

from __future__ import annotations

import asyncio
import os
import socket

_CHUNK = 64 * 1024
# A query that is still at it after this is beyond help, and holding its connection would not end.
_LONGEST_SECONDS = 300.0
_MOST_BYTES = 1 << 30


def leave(writer: asyncio.StreamWriter) -> None:
    """Take the connection over from its streams: they are closed, and must not be used any more. Returns at once."""
    transport = writer.transport
    if transport.is_closing():
        return
    # A second descriptor keeps the connection open without the transport, which nobody would own any more. The
    # event loop holds the one who reads from it: no task is needed, and a loop that ends first leaves no trace.
    fd = os.dup(transport.get_extra_info("socket").fileno())
    transport.abort()
    leave_socket(socket.socket(fileno=fd))


def leave_socket(stream: socket.socket) -> None:
    """Take a non-blocking socket over, as `leave` does a connection of asyncio's."""
    with stream:
        try:
            stream.shutdown(socket.SHUT_WR)
        except OSError:
            return  # The other side is gone already.
        _Discard(stream.detach())


class _Discard:
    """Reads a descriptor to its end, within limits, and closes it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._bytes_left = _MOST_BYTES
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(_LONGEST_SECONDS, self._close)
        self._loop.add_reader(fd, self._read)

    def _read(self) -> None:
        try:
            size = len(os.read(self._fd, _CHUNK))
        except BlockingIOError:
            return
        except OSError:
            size = 0
        self._bytes_left -= size
        if size == 0 or self._bytes_left < 0:
            self._close()

    def _close(self) -> None:
        self._timer.cancel()
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

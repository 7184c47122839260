"""A connection on the proxy's loop, under TLS or in clear, and the pump that joins two of them.

asyncio's own streams cost two turns of the loop and a task for every piece of data, and each message of raft passes
four of them. Here the loop's callback itself moves what has come from one socket to the other. Memory is bounded: what
the far side does not take stops the reading on the near one.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import ssl
from collections.abc import Callable
from typing import TypeVar

from dbaccessor.dqlite import farewell

_CHUNK = 64 * 1024
# One read under TLS returns no more than one record.
_RECORD = 16 * 1024
# Pieces moved before others get their turn on the loop.
_BURST = 8
# How long the other side may take to read the last words.
_LINGER_SECONDS = 1.0
_LINGER_BYTES = 1 << 20

_Socket = socket.socket | ssl.SSLSocket
# What a socket says that has nothing to give, or takes nothing, just now.
NOT_NOW = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_T = TypeVar("_T")

_UNTOUCHED = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


def forget_failure() -> None:
    """Let nothing of a failed operation be left in this thread's queue of OpenSSL's errors.

    To be called after every operation on a TLS socket that failed as OSError. Python 3.13.5 on OpenSSL 3.5 leaves the
    failed system call of one connection there, and then reports it for every other connection of the thread that has
    nothing to read, instead of saying so: one reset of a peer ended all of them. A handshake empties the queue when it
    begins, and says then that it has nothing to read.
    """
    with contextlib.suppress(ssl.SSLWantReadError):
        _UNTOUCHED.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True).do_handshake()


class Stream:
    """One non-blocking socket and its loop. Whoever opens it closes it, or gives it to a Pump."""

    def __init__(self, stream: socket.socket) -> None:
        stream.setblocking(False)
        self.socket: _Socket = stream
        self._loop = asyncio.get_running_loop()

    async def secure(self, context: ssl.SSLContext, *, server_side: bool) -> None:
        """Put TLS over the connection. Raises OSError (also ssl.SSLError) when the other side cannot or must not."""
        wrapped = context.wrap_socket(self.socket, server_side=server_side, do_handshake_on_connect=False)
        self.socket = wrapped
        await self._do(wrapped.do_handshake)

    async def read_exactly(self, count: int) -> bytes:
        """Return so many bytes. Raises EOFError with what came, OSError."""
        parts = bytearray()
        while len(parts) < count:
            part = await self._do(self.socket.recv, count - len(parts))
            if not part:
                raise asyncio.IncompleteReadError(bytes(parts), count)
            parts += part
        return bytes(parts)

    async def first_byte(self) -> bytes:
        """Return the first byte that comes, and leave it to be read; b"" when the other side closes instead."""
        return await self._do(self.socket.recv, 1, socket.MSG_PEEK)

    async def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            # The same bytes again after a refusal, as OpenSSL demands.
            sent = await self._do(self.socket.send, view, writes=True)
            view = view[sent:]

    async def bid_farewell(self) -> None:
        """Close so that the last words arrive: what is still unread here would otherwise destroy them on their way."""
        if self.socket.fileno() < 0:
            return  # A TLS that never began has closed it: the other side was gone before.
        try:
            async with asyncio.timeout(_LINGER_SECONDS):
                if isinstance(self.socket, ssl.SSLSocket):
                    try:
                        self.socket = self.socket.unwrap()
                    except (OSError, ValueError):
                        forget_failure()
                raw = socket.socket(fileno=self.socket.detach())
                self.socket = raw
                raw.setblocking(False)
                raw.shutdown(socket.SHUT_WR)
                left = _LINGER_BYTES
                while left > 0 and (part := await self._do(raw.recv, _CHUNK)):
                    left -= len(part)
        except (OSError, TimeoutError):
            pass
        finally:
            self.close()

    def close(self) -> None:
        """Close at once; what was not sent is lost."""
        self.socket.close()

    async def _do(self, operation: Callable[..., _T], *arguments: object, writes: bool = False) -> _T:
        while True:
            try:
                return operation(*arguments)
            except ssl.SSLWantReadError:
                await self._until(self._loop.add_reader, self._loop.remove_reader)
            except ssl.SSLWantWriteError:
                await self._until(self._loop.add_writer, self._loop.remove_writer)
            except (BlockingIOError, InterruptedError):
                if writes:
                    await self._until(self._loop.add_writer, self._loop.remove_writer)
                else:
                    await self._until(self._loop.add_reader, self._loop.remove_reader)
            except OSError:
                forget_failure()
                raise

    async def _until(self, add: Callable[..., object], remove: Callable[[int], object]) -> None:
        ready: asyncio.Future[None] = self._loop.create_future()
        fd = self.socket.fileno()
        add(fd, _resolve, ready)
        try:
            await ready
        finally:
            remove(fd)


def _resolve(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


class Pump:
    """Moves bytes both ways between the connection to another controller and a local socket, until either ends.

    `node` says that the local socket leads into a node, which must be left as farewell.py has it. `listener` is given
    what the other controller sends, before anybody inside gets it. Where the inside has taken nothing for
    `stale_seconds` and then goes on, all ends: what waits by then is better sent anew than delivered.
    """

    def __init__(
        self,
        outer: Stream,
        inner: socket.socket,
        *,
        node: bool,
        listener: Callable[[memoryview], None] | None = None,
        stale_seconds: float = math.inf,
    ) -> None:
        inner.setblocking(False)
        self._outer = outer
        self._inner = inner
        self._node = node
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[bool] = self._loop.create_future()
        buffer = memoryview(bytearray(_CHUNK))
        self._ways = (
            _Way(self._loop, outer.socket, inner, buffer, lambda: self._end(inside=False), listener, stale_seconds),
            _Way(self._loop, inner, outer.socket, buffer, lambda: self._end(inside=True)),
        )

    @property
    def stuck_seconds(self) -> float:
        """For how long the other controller has not taken one byte of what is there for it."""
        since = self._ways[1].blocked_since
        return 0.0 if since is None else self._loop.time() - since

    async def run(self) -> None:
        """Pump until one side has ended. Cancelled, both ends are closed at once."""
        said_all = False
        try:
            for way in self._ways:
                way.start()
            said_all = await self._over
        finally:
            for way in self._ways:
                way.stop()
            if self._node:
                # Not closed: a node whose client goes away in the middle of an answer keeps what the query holds.
                farewell.leave_socket(self._inner)
            else:
                self._inner.close()
            if not said_all:
                self._outer.close()
        if said_all:
            # The near end closed by itself: what it said last is on its way.
            await self._outer.bid_farewell()

    def close(self) -> None:
        """Close what is still open, where `run` never came to it."""
        self._inner.close()
        self._outer.close()

    def _end(self, *, inside: bool) -> None:
        if not self._over.done():
            self._over.set_result(inside)


class _Way:
    """One direction: what `source` gives goes into `sink`; while that takes nothing, nothing more is read.

    Every message of raft passes here, so it costs one read and one write, and nothing is allocated for it: `buffer` may
    be shared by all ways of a loop.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        source: _Socket,
        sink: _Socket,
        buffer: memoryview,
        ended: Callable[[], None],
        listener: Callable[[memoryview], None] | None = None,
        stale_seconds: float = math.inf,
    ) -> None:
        self._loop = loop
        self._source = source
        self._sink = sink
        self._ended = ended
        self._listener = listener
        self._stale_seconds = stale_seconds
        self._buffer = buffer
        # A read that returned less has most likely taken all that there was; if not, the loop calls again.
        self._whole = _RECORD if isinstance(source, ssl.SSLSocket) else len(buffer)
        self._pending = memoryview(b"")
        self._stopped = False
        # Since when the sink has taken nothing, None while it takes all.
        self.blocked_since: float | None = None

    def start(self) -> None:
        self._loop.add_reader(self._source.fileno(), self._move)
        # TLS may hold decrypted bytes already, of which the kernel knows nothing.
        self._loop.call_soon(self._move)

    def stop(self) -> None:
        self._stopped = True
        if self._source.fileno() >= 0:
            self._loop.remove_reader(self._source.fileno())
        if self._sink.fileno() >= 0:
            self._loop.remove_writer(self._sink.fileno())

    def _move(self) -> None:
        try:
            for _ in range(_BURST):
                if self._stopped or self._pending:
                    return
                count = self._source.recv_into(self._buffer)
                if not count:
                    self._end()
                    return
                if self._listener is not None:
                    self._listener(self._buffer[:count])
                self._push(self._buffer[:count])
                if count < self._whole:
                    break
        except NOT_NOW:
            return
        except OSError:
            self._fail()
            return
        if isinstance(self._source, ssl.SSLSocket) and self._source.pending():
            self._loop.call_soon(self._move)

    def _push(self, data: memoryview) -> None:
        """Send this. What the sink does not take waits until it does, and reading waits with it."""
        try:
            while data:
                data = data[self._sink.send(data) :]
        except NOT_NOW:
            self._pending = memoryview(bytes(data))
            self.blocked_since = self._loop.time()
            self._loop.remove_reader(self._source.fileno())
            self._loop.add_writer(self._sink.fileno(), self._flush)

    def _flush(self) -> None:
        if self.blocked_since is not None and self._loop.time() - self.blocked_since > self._stale_seconds:
            self._end()
            return
        try:
            while self._pending:
                self._pending = self._pending[self._sink.send(self._pending) :]
                self.blocked_since = self._loop.time()
        except NOT_NOW:
            return
        except OSError:
            self._fail()
            return
        self.blocked_since = None
        self._loop.remove_writer(self._sink.fileno())
        self.start()

    def _fail(self) -> None:
        forget_failure()
        self._end()

    def _end(self) -> None:
        self.stop()
        self._ended()

"""The TCP side of a node: accepts other controllers, agrees the preamble, and copies bytes to the abstract socket.

Dqlite itself listens on an abstract socket only, so nothing reaches it that did not pass the preamble, and a changed
IP address is a new listener here, not a new node. The proxy runs on a thread and an event loop of its own: raft's
traffic must not wait for the controller's other work. There is no TLS yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

import msgspec

from dbaccessor import localnode, preamble
from dbaccessor.dial import prepare
from dbaccessor.dqlite import farewell
from dbaccessor.preamble import Answer, MembershipRequest, Outcome

log = logging.getLogger(__name__)

_PREAMBLE_SECONDS = 2.0
_PROBE_SECONDS = 0.2
_CHUNK = 64 * 1024
# Every member holds a few connections to every other; a flood beyond this is refused, not queued.
_MAX_CONNECTIONS = 512

_T = TypeVar("_T")


class CannotListen(OSError):
    """The address cannot be bound; the message says which and why."""


class Proxy:
    """Listens on one address at a time and serves what the preamble allows.

    `facts` is what this node says of itself; the worker replaces it as a whole. `on_request` carries out a membership
    request (called on the proxy's loop); `on_hello` hears the identity of every caller.
    """

    def __init__(
        self,
        on_request: Callable[[MembershipRequest], Awaitable[Outcome]],
        on_hello: Callable[[preamble.Hello], None],
    ) -> None:
        self.facts = Answer(accepted=True)
        self._on_request = on_request
        self._on_hello = on_hello
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="dqlite-proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._local: localnode.LocalNode | None = None
        self._local_id = 0
        self._probing: asyncio.Task[localnode.Probe | None] | None = None
        self.listening: tuple[str, int] | None = None

    def start(self) -> None:
        self._thread.start()

    async def listen(self, ip: str, port: int) -> None:
        """Listen on this address instead of the one before. Raises CannotListen, keeping the one before."""
        if self.listening != (ip, port):
            await self._call(self._listen(ip, port))

    async def stop_listening(self) -> None:
        """Give the address up. What is connected stays connected."""
        await self._call(self._close_server())

    async def drop_connections(self) -> None:
        """Close every connection that carries Dqlite's bytes."""
        await self._call(self._drop())

    async def stop(self) -> None:
        if not self._thread.is_alive():
            return
        await self._call(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join, 5)
        self._loop.close()

    async def _call(self, work: Coroutine[Any, Any, _T]) -> _T:
        future: Future[_T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return await asyncio.wrap_future(future)

    # On the proxy's own loop from here on.

    async def _listen(self, ip: str, port: int) -> None:
        try:
            server = await asyncio.start_server(self._accept, ip, port, backlog=128)
        except OSError as error:
            raise CannotListen(f"cannot listen on {ip} port {port}: {error.strerror or error}") from error
        if self._server is not None:
            self._server.close()
        self._server = server
        self.listening = (ip, port)

    async def _drop(self) -> None:
        tasks = list(self._serving)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _close_server(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            self.listening = None

    async def _shut(self) -> None:
        await self._close_server()
        await self._drop()
        if self._probing is not None:
            await asyncio.gather(self._probing, return_exceptions=True)
        if self._local is not None:
            self._local.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._serving) >= _MAX_CONNECTIONS:
            writer.close()
            log.warning("more than %d connections; one more was refused", _MAX_CONNECTIONS)
            return
        self._serving.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, EOFError, TimeoutError) as error:
            log.debug("a connection ended during its preamble: %r", error)
        except asyncio.CancelledError:
            pass  # Dropped on purpose; this task is the connection's only owner.
        finally:
            self._serving.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        prepare(writer.get_extra_info("socket"))
        async with asyncio.timeout(_PREAMBLE_SECONDS):
            header = await reader.readexactly(preamble.HEADER.size)
            hello = preamble.decode_hello(await reader.readexactly(preamble.body_length(header)))
        self._on_hello(hello)
        own = await self._current_facts()
        reason = preamble.refusal(hello, own)
        answer = msgspec.structs.replace(own, accepted=reason is None, reason=reason or "")
        writer.write(preamble.encode(answer))
        await writer.drain()
        if reason is not None or hello.purpose == "identity":
            if reason is not None:
                log.info("refused controller %s (%s): %s", hello.controller_id or "?", hello.purpose, reason)
            return
        if hello.purpose == "membership":
            await self._membership(hello, writer)
        else:
            await self._carry(own.dqlite_id, reader, writer)

    async def _current_facts(self) -> Answer:
        """The facts, with what the own node says at this moment about its leader and members."""
        facts = self.facts
        if not facts.running:
            return facts
        probe = await self._fresh_probe(facts.dqlite_id)
        if probe is None:
            return facts
        return msgspec.structs.replace(
            facts,
            leader=probe.leader or facts.leader,
            leading=bool(probe.leader) and probe.leader == facts.name,
            members=probe.members,
        )

    async def _fresh_probe(self, dqlite_id: int) -> localnode.Probe | None:
        """One question to the own node serves everybody who asks meanwhile; a slow node makes nobody wait long."""
        if self._local is None or self._local_id != dqlite_id:
            if self._local is not None:
                self._local.close()
            self._local, self._local_id, self._probing = localnode.LocalNode(dqlite_id), dqlite_id, None
        if self._probing is None or self._probing.done():
            self._probing = self._loop.create_task(self._local.probe(_PROBE_SECONDS))
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                return await asyncio.shield(self._probing)
        except TimeoutError:
            return None

    async def _membership(self, hello: preamble.Hello, writer: asyncio.StreamWriter) -> None:
        if hello.request is None:
            outcome = Outcome(False, "the membership request is missing")
        else:
            outcome = await self._on_request(hello.request)
        writer.write(preamble.encode(outcome))
        await writer.drain()

    async def _carry(self, dqlite_id: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = "\0" + localnode.bind_address(dqlite_id)[1:]
        inner_reader, inner_writer = await asyncio.open_unix_connection(path)
        try:
            inward = asyncio.create_task(_copy(reader, inner_writer))
            outward = asyncio.create_task(_copy(inner_reader, writer))
            try:
                # Dqlite never half-closes: the end of one direction is the end of the connection.
                await asyncio.wait({inward, outward}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                inward.cancel()
                outward.cancel()
                await asyncio.gather(inward, outward, return_exceptions=True)
        finally:
            # Not closed: a node whose client goes away in the middle of an answer keeps what the query holds.
            farewell.leave(inner_writer)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while part := await reader.read(_CHUNK):
            writer.write(part)
            await writer.drain()

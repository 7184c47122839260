"""The TCP side of a node: accepts other controllers, agrees the preamble, and copies bytes to the abstract socket.

Dqlite itself listens on an abstract socket only, so nothing reaches it that did not show a certificate and pass the
preamble, and a changed IP address is a new listener here, not a new node. Outward it does the same for raft, which can
speak no TLS: the library gets one end of a pair of sockets, and the other end is pumped from here.

The proxy runs on a thread and an event loop of its own: raft's traffic must not wait for the controller's other work.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import math
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

import msgspec

from dbaccessor import localnode, preamble, tls
from dbaccessor.admitted import Admitted, Guest
from dbaccessor.dial import prepare
from dbaccessor.preamble import Answer, Hello, MembershipRequest, Outcome
from dbaccessor.terms import Informant, Terms
from dbaccessor.tlsfiles import BadCredentials
from dbaccessor.tlsstream import Pump, Stream

log = logging.getLogger(__name__)

# From the first byte to the end of the preamble, TLS included.
_PREAMBLE_SECONDS = 2.0
# A connection that only asks who this is may ask again; so long between two questions.
_QUESTION_SECONDS = 15.0
_PROBE_SECONDS = 0.2
# Every member holds a few connections to every other; a flood beyond this is refused, not queued.
_MAX_CONNECTIONS = 512
# Of those, clients and whoever asks for terms: however many of them come, raft, identity and membership have the rest.
_MAX_CLIENTS = 384
# Those that have not said yet who they are. One more, and the one that takes longest has to go: it is no controller.
_MAX_STRANGERS = 64
# Raft's messages that waited so long for the node to go on are not given to it any more: the connection ends, and the
# leader sends on the next one what counts by now. A node that comes back applies what it has missed in one piece, for
# seconds; until it says so the leader sends it all again at each heartbeat, and the node would then be for seconds at
# copies of what it has. It may have been made a voter meanwhile, and gives no vote before it has heard of that.
_STALE_SECONDS = 0.5
# One sentence about one caller is logged once in this time.
_LOG_SECONDS = 60.0

_T = TypeVar("_T")


class CannotListen(OSError):
    """The address cannot be bound; the message says which and why."""


class Proxy:
    """Listens on one address at a time and serves what the preamble allows.

    `facts` is what this node says of itself, `departed` the ids that never come back, `keyring` the certificates (None:
    TLS is off), `terms` returns those of the node that runs; the worker replaces each as a whole. `on_request` carries
    out a membership request (called on the proxy's loop); `on_hello` hears the identity of every caller.
    """

    def __init__(
        self,
        on_request: Callable[[MembershipRequest], Awaitable[Outcome]],
        on_hello: Callable[[Hello], None],
    ) -> None:
        self.facts = Answer(accepted=True)
        self.departed: frozenset[str] = frozenset()
        self.keyring: tls.Keyring | None = None
        self.terms: Callable[[], Terms | None] = lambda: None
        self.listening: tuple[str, int] | None = None
        self._on_request = on_request
        self._on_hello = on_hello
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="dqlite-proxy", daemon=True)
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        # Every connection has a task, and this is their owner. The strangers among them, longest waiting first.
        self._serving: set[asyncio.Task[None]] = set()
        self._strangers: dict[asyncio.Task[None], None] = {}
        # Those that were let in as clients or for terms.
        self._clients: set[asyncio.Task[None]] = set()
        self._admitted = Admitted(lambda: self._current_facts(), lambda: self.departed, self._tell)
        self._watching: asyncio.Task[None] | None = None
        self._local: localnode.LocalNode | None = None
        self._local_id = 0
        self._told: dict[tuple[str, str], float] = {}
        # Hears of everybody who is turned away why, in one word, on the proxy's own thread.
        self.on_refused: Callable[[str], None] = lambda word: None

    def start(self) -> None:
        self._thread.start()
        self._loop.call_soon_threadsafe(self._begin)

    async def listen(self, ip: str, port: int) -> None:
        """Listen on this address instead of the one before. Raises CannotListen, keeping the one before."""
        if self.listening != (ip, port):
            await self._call(self._listen(ip, port))

    async def stop_listening(self) -> None:
        """Give the address up. What is connected stays connected."""
        await self._call(self._stop_listening())

    async def drop_connections(self) -> None:
        """Close every connection that carries Dqlite's bytes, in whichever direction it was opened."""
        await self._call(self._drop())

    async def stop(self) -> None:
        if not self._thread.is_alive():
            return
        await self._call(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join, 5)
        self._loop.close()

    def carry(
        self, ip: str, port: int, controller_id: str, hello: Hello, deadline_seconds: float
    ) -> tuple[Answer, tls.Peer, socket.socket | None]:
        """Open a connection under TLS for a caller that can speak none. Blocks; called on any thread but the own.

        Returns what the other side answered and who it is; where it accepted, also a blocking socket with Dqlite on the
        other end. Raises OSError or EOFError, and BadCredentials where this side has none.
        """
        work = self._carry_out(ip, port, controller_id, hello, deadline_seconds)
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError as error:
            work.close()
            raise ConnectionAbortedError("this controller is stopping") from error
        try:
            return future.result(2 * deadline_seconds)
        except CancelledError as error:
            raise ConnectionAbortedError("this controller is stopping") from error
        except TimeoutError:
            future.cancel()
            raise

    async def _call(self, work: Coroutine[Any, Any, _T]) -> _T:
        future: Future[_T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return await asyncio.wrap_future(future)

    # On the proxy's own loop from here on.

    def _begin(self) -> None:
        self._watching = self._loop.create_task(self._admitted.watch())

    async def _listen(self, ip: str, port: int) -> None:
        try:
            listener = _listener(ip, port)
        except OSError as error:
            raise CannotListen(f"cannot listen on {ip} port {port}: {error.strerror or error}") from error
        await self._stop_listening()
        self._listener = listener
        self._accepting = self._loop.create_task(self._accept(listener))
        self.listening = (ip, port)

    async def _stop_listening(self) -> None:
        self.listening = None
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
            self._accepting = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _drop(self) -> None:
        tasks = list(self._serving)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _shut(self) -> None:
        await self._stop_listening()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self._drop()
        if self._local is not None:
            self._local.close()

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            # As long as somebody waits, sock_accept returns without a pause: a flood would be taken in one turn of the
            # loop, and nobody be served meanwhile.
            await asyncio.sleep(0)
            try:
                connection, (ip, *_) = await self._loop.sock_accept(listener)
            except OSError as error:
                # The caller gave up meanwhile, or this process has no descriptor left: either may pass.
                self._tell("somebody", "not-accepted", f"a connection could not be accepted: {error}")
                await asyncio.sleep(0.05)
                continue
            if len(self._serving) >= _MAX_CONNECTIONS:
                connection.close()
                self._tell(ip, "full", f"more than {_MAX_CONNECTIONS} connections; one more was refused")
                continue
            if len(self._strangers) >= _MAX_STRANGERS:
                longest = next(iter(self._strangers))
                # It ends a few turns from now, and by then it is the turn of the next ones.
                del self._strangers[longest]
                longest.cancel()
            stream = Stream(connection)
            task = self._own(self._serve_guarded(stream, ip), stream.close)
            self._strangers[task] = None
            task.add_done_callback(lambda done: self._strangers.pop(done, None))

    def _own(self, work: Coroutine[Any, Any, None], close: Callable[[], None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        # A task that is cancelled before its first step never comes to its own closing.
        task.add_done_callback(lambda _: close())
        return task

    async def _serve_guarded(self, stream: Stream, ip: str) -> None:
        """The whole life of a connection that came in. It never raises, and it closes what it was given."""
        try:
            await self._serve(stream, ip)
        except BadCredentials as error:
            self._tell(ip, "no-certificate", f"refused, as this controller has no certificate to show: {error}")
        except TimeoutError:
            self._tell(ip, "silent", f"did not say within {_PREAMBLE_SECONDS:g} s who it is")
        except (OSError, EOFError) as error:
            log.debug("a connection from %s ended: %r", ip, error)
        except asyncio.CancelledError:
            pass  # Dropped on purpose; this task is the connection's only owner.
        except Exception:
            log.exception("a connection from %s failed in an unexpected way", ip)

    async def _serve(self, stream: Stream, ip: str) -> None:
        prepare(stream.socket)
        async with asyncio.timeout(_PREAMBLE_SECONDS):
            peer = await self._greet(stream, ip)
            hello = await self._next_hello(stream, ip)
        self._strangers.pop(_this_task(), None)
        while True:
            accepted, dqlite_id = await self._answer(stream, ip, peer, hello)
            if not accepted:
                # A farewell may take a second. Where many are refused, they must not take everybody's places with it.
                self._strangers[_this_task()] = None
                await stream.bid_farewell()
                return
            if hello.purpose != "identity":
                break
            async with asyncio.timeout(_QUESTION_SECONDS):
                hello = await self._next_hello(stream, ip)
        if hello.purpose == "membership":
            await self._membership(hello, stream)
            return
        if hello.purpose == "terms":
            if (terms := self._terms_of(dqlite_id)) is not None:
                self._admitted.add(_this_task(), Guest(ip, hello, peer))
                await Informant(stream, terms, self.terms).run()
            return
        inner = await _connect_inside(dqlite_id)
        listener, stale_seconds = None, math.inf
        if hello.purpose == "raft":
            stale_seconds = _STALE_SECONDS
            # Those of the run that was reached, or of one after it: never of one before.
            if (terms := self._terms_of(dqlite_id)) is None:
                inner.close()
                return
            listener = terms.listen(hello.dqlite_id)
        pump = Pump(stream, inner, node=True, listener=listener, stale_seconds=stale_seconds)
        self._admitted.add(_this_task(), Guest(ip, hello, peer, pump))
        await pump.run()

    def _terms_of(self, dqlite_id: int) -> Terms | None:
        """Return the terms of this node, unless it is stopping, or another one runs by now."""
        terms = self.terms()
        return terms if terms is not None and terms.dqlite_id == dqlite_id else None

    async def _greet(self, stream: Stream, ip: str) -> tls.Peer | None:
        """Agree on TLS where it is required, and return who calls. What prevents it is told to both sides."""
        if self.keyring is None:
            return None
        contexts = self.keyring.current()
        try:
            if await stream.first_byte() not in (preamble.HANDSHAKE, b""):
                await stream.write(preamble.encode(Answer(accepted=False, reason="this controller requires TLS")))
                raise ConnectionRefusedError("it does not speak TLS")
            await stream.secure(contexts.server, server_side=True)
        except OSError as error:
            self._tell(ip, "tls", f"refused: {tls.explain(error)}")
            await stream.bid_farewell()
            raise
        return contexts.identify(stream.socket)

    async def _next_hello(self, stream: Stream, ip: str) -> Hello:
        try:
            header = await stream.read_exactly(preamble.HEADER.size)
            return preamble.decode_hello(await stream.read_exactly(preamble.body_length(header)))
        except preamble.BadFrame as error:
            self._tell(ip, "preamble", f"refused: {error}")
            await stream.bid_farewell()
            raise

    async def _answer(self, stream: Stream, ip: str, peer: tls.Peer | None, hello: Hello) -> tuple[bool, int]:
        """Answer this hello. Return whether it was accepted, and which node is meant."""
        own = await self._current_facts()
        reason = preamble.refusal(hello, own, peer, self.departed)
        crowded = reason is None and hello.purpose in ("client", "terms") and not self._let_in_as_client()
        if crowded:
            reason = f"this node has {_MAX_CLIENTS} clients, and takes no more of them"
        if peer is None or preamble.believable(hello, own, peer):
            self._on_hello(hello)
        await stream.write(preamble.encode(msgspec.structs.replace(own, accepted=reason is None, reason=reason or "")))
        if reason is not None:
            word = "crowded" if crowded else preamble.refusal_word(hello, own, peer)
            self._tell(ip, word, f"refused controller {hello.controller_id or '?'} ({hello.purpose}): {reason}")
        return reason is None, own.dqlite_id

    def _let_in_as_client(self) -> bool:
        """Take one of the clients' places for this task; return whether there was one."""
        if len(self._clients) >= _MAX_CLIENTS:
            return False
        task = _this_task()
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)
        return True

    def _tell(self, ip: str, word: str, sentence: str) -> None:
        """Count this, and log it once a minute; a caller that tries again and again must not fill the disk."""
        self.on_refused(word)
        now = time.monotonic()
        if now - self._told.get((ip, sentence), float("-inf")) < _LOG_SECONDS:
            return
        if len(self._told) >= _MAX_CONNECTIONS:
            self._told.clear()
        self._told[ip, sentence] = now
        log.info("%s: %s", ip, sentence)

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
        """What the own node says now, None where it does not say; a slow node makes nobody wait long."""
        if self._local is None or self._local_id != dqlite_id:
            if self._local is not None:
                self._local.close()
            self._local, self._local_id = localnode.LocalNode(dqlite_id), dqlite_id
        return await self._local.probe(_PROBE_SECONDS)

    async def _membership(self, hello: Hello, stream: Stream) -> None:
        if hello.request is None:
            outcome = Outcome(False, "the membership request is missing")
        else:
            outcome = await self._on_request(hello.request)
        await stream.write(preamble.encode(outcome))
        await stream.bid_farewell()

    async def _carry_out(
        self, ip: str, port: int, controller_id: str, hello: Hello, deadline_seconds: float
    ) -> tuple[Answer, tls.Peer, socket.socket | None]:
        keyring = self.keyring
        if keyring is None:
            raise ConnectionAbortedError("TLS was switched off meanwhile")
        contexts = keyring.current()
        stream = Stream(socket.socket(_family(ip), socket.SOCK_STREAM))
        try:
            async with asyncio.timeout(deadline_seconds):
                await self._loop.sock_connect(stream.socket, (ip, port))
                prepare(stream.socket)
                await stream.secure(contexts.client, server_side=False)
                peer = contexts.identify(stream.socket)
                preamble.check_peer(peer, controller_id)
                await stream.write(preamble.encode(hello))
                header = await stream.read_exactly(preamble.HEADER.size)
                answer = preamble.decode_answer(await stream.read_exactly(preamble.body_length(header)))
        except BaseException:
            stream.close()
            raise
        if not answer.accepted:
            stream.close()
            return answer, peer, None
        ours, theirs = socket.socketpair()
        pump = Pump(stream, ours, node=False)
        self._own(self._pump_out(pump), pump.close)
        return answer, peer, theirs

    async def _pump_out(self, pump: Pump) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await pump.run()


def _listener(ip: str, port: int) -> socket.socket:
    listener = socket.socket(_family(ip), socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if listener.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((ip, port))
        listener.listen(128)
    except BaseException:
        listener.close()
        raise
    return listener


def _family(ip: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ipaddress.ip_address(ip).version == 6 else socket.AF_INET


async def _connect_inside(dqlite_id: int) -> socket.socket:
    """Return a connection to the own node. Raises OSError."""
    inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        inner.setblocking(False)
        await asyncio.get_running_loop().sock_connect(inner, "\0" + localnode.bind_address(dqlite_id)[1:])
    except BaseException:
        inner.close()
        raise
    return inner


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task

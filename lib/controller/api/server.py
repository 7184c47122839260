"""The API server of one controller: listeners, and one owned task for each connection.

Every connection begins with TLS, made with the certificate as the files hold it then. Whoever is over a limit
(limits.py) is let go at once, before anything is spent on it. Nothing that a peer does ends the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import re
import socket
import ssl
from asyncio import sslproto
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from controller.api import facades
from controller.api.domain import Domain
from controller.api.limits import Limits, place_of
from controller.api.login import Logins
from controller.api.pages import Pages, Sources
from controller.api.session import Session
from controller.api.stream import Closed, Stream
from dbaccessor.tlsfiles import BadCredentials

log = logging.getLogger(__name__)

_MODEL_PATH = re.compile(r"/model/([0-9a-f-]{1,64})/api")
_BACKLOG = 512
_FULL_SECONDS = 0.1
_TLS_BUFFER_BYTES = 16 * 1024
_USER_TIMEOUT_MS = 30_000
# What accept() says when it is this process, and not this connection, that has too much.
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Server:
    """Serves until it is cancelled. `contexts` returns what the next handshake is made with, or raises BadCredentials.

    `hosts`: the addresses to bind; none for all of this machine's. Port 0 is any free one, see `port`.
    """

    def __init__(
        self,
        domain: Domain,
        sources: Sources,
        contexts: Callable[[], ssl.SSLContext],
        hosts: Sequence[str],
        port: int,
        limits: Limits | None = None,
    ) -> None:
        self._limits = limits or Limits()
        self._contexts = contexts
        self._hosts = tuple(hosts)
        self._wanted_port = port
        self._listeners: list[socket.socket] = []
        self._connections: set[asyncio.Task[None]] = set()
        self._strangers: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._unusable = ""

        async def hash_password(password: str) -> str:
            return await self.logins.hashed(password)

        self._facades = facades.build(domain, hash_password, sources.cluster)
        self.logins = Logins(domain, self._facades)
        self._pages = Pages(sources, self.logins)

    def bind(self) -> None:
        """Take the port; connections wait until `run`. Raises OSError."""
        if self._listeners:
            return
        _keep_buffers_small()
        hosts = self._hosts or (("::",) if socket.has_dualstack_ipv6() else ("0.0.0.0",))
        port = self._wanted_port
        try:
            for host in hosts:
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                listener = socket.create_server(
                    (host, port), family=family, backlog=_BACKLOG, dualstack_ipv6=host == "::"
                )
                listener.setblocking(False)
                self._listeners.append(listener)
                port = listener.getsockname()[1]
        except BaseException:
            self.unbind()
            raise

    def unbind(self) -> None:
        """Let go of the port."""
        while self._listeners:
            self._listeners.pop().close()

    @property
    def port(self) -> int:
        """The port that is bound."""
        return int(self._listeners[0].getsockname()[1])

    async def run(self) -> None:
        """Serve until cancelled; then each connection is told so, and ends within seconds. Raises OSError."""
        self.bind()
        try:
            async with asyncio.TaskGroup() as group:
                for listener in self._listeners:
                    group.create_task(self._accept(listener, group))
        finally:
            self.unbind()

    def report(self) -> dict[str, Any]:
        """Return what the engine's report says of this worker."""
        strangers = self._strangers.total()
        self._context()  # Whether there is a certificate is worth knowing before anybody comes.
        return {
            "listening": [_text(listener.getsockname()) for listener in self._listeners],
            "certificate": self._unusable or "ok",
            "connections": len(self._connections) - strangers,
            "not-logged-in": strangers,
            "refused": dict(sorted(self._counts.items())),
            "failed-logins": self.logins.attempts.failures,
            "failed-logins-held-back": self.logins.attempts.refused,
        }

    async def _accept(self, listener: socket.socket, group: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            # As long as somebody waits, sock_accept returns without a pause: a flood would be taken in one turn of the
            # loop, and nobody be served meanwhile.
            await asyncio.sleep(0)
            try:
                accepted, peer = await loop.sock_accept(listener)
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    continue  # Whoever it was went away before we looked.
                log.warning("cannot accept a connection: %s", error)
                await asyncio.sleep(_FULL_SECONDS)
                continue
            address = str(peer[0])
            place = place_of(address)
            if not self._has_room(place):
                accepted.close()
                continue
            context = self._context()
            if context is None:
                self._counts["no-certificate"] += 1
                accepted.close()
                continue
            self._strangers[place] += 1
            task = group.create_task(self._serve(accepted, address, context))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

    def _has_room(self, place: str) -> bool:
        limits = self._limits
        if len(self._connections) >= limits.connections:
            self._counts["too-many"] += 1
        elif self._strangers.total() >= limits.strangers or self._strangers[place] >= limits.strangers_from_one_place:
            self._counts["too-many-not-logged-in"] += 1
        else:
            return True
        return False

    def _context(self) -> ssl.SSLContext | None:
        try:
            context = self._contexts()
        except BadCredentials as error:
            if str(error) != self._unusable:
                log.warning("the API cannot be served: %s; %s", error, error.remedy)
            self._unusable = str(error)
            return None
        self._unusable = ""
        return context

    async def _serve(self, accepted: socket.socket, address: str, context: ssl.SSLContext) -> None:
        """Serve one connection. Raises nothing but cancellation."""
        known = contextlib.ExitStack()
        known.callback(self._is_known, place_of(address))
        with known:
            try:
                await self._converse(accepted, address, context, known.close)
            except Closed as closed:
                log.debug("%s: %s", address, closed)
            except Exception:
                log.exception("a connection from %s", address)

    def _is_known(self, place: str) -> None:
        self._strangers[place] -= 1
        if not self._strangers[place]:
            del self._strangers[place]

    async def _converse(
        self, accepted: socket.socket, address: str, context: ssl.SSLContext, known: Callable[[], None]
    ) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._limits.login_seconds
        stream = await self._handshake(accepted, context)
        try:
            async with asyncio.timeout_at(deadline):
                model_uuid = await self._open(stream)
        except TimeoutError:
            stream.cut("it did not say what it wants in time")
            self._counts["no-request"] += 1
            return
        except BaseException:
            stream.cut("it did not get as far as a request")
            raise
        if model_uuid is None:
            await stream.close()
            return
        session = Session(stream, model_uuid, self.logins, self._facades, self._limits, known)
        log.debug("%s: %s", address, await session.run(deadline - loop.time()) or "over")

    async def _handshake(self, accepted: socket.socket, context: ssl.SSLContext) -> Stream:
        """Return the connection, once it is TLS. Raises Closed."""
        loop = asyncio.get_running_loop()
        _tune(accepted)
        reader = asyncio.StreamReader(limit=16 * 1024)
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol,
                accepted,
                ssl=context,
                ssl_handshake_timeout=self._limits.handshake_seconds,
                ssl_shutdown_timeout=2,
            )
        except (OSError, EOFError) as error:
            self._counts["no-tls"] += 1
            raise Closed(f"no TLS: {error}") from error
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        return Stream(
            reader,
            writer,
            budget_bytes=self._limits.bytes_before_login,
            write_seconds=self._limits.write_seconds,
            silence_seconds=self._limits.silence_seconds,
        )

    async def _open(self, stream: Stream) -> str | None:
        """Return the model that a websocket is for, "" for the controllers; None when all has been answered."""
        request = await stream.request()
        path = request.path.partition("?")[0]
        model = _MODEL_PATH.fullmatch(path)
        if path == "/api" or model is not None:
            if not await stream.accept(request):
                return None
            return model[1] if model is not None else ""
        page = await self._pages.answer(path, request.headers.get("Authorization", ""), stream.place)
        if page is None:
            await stream.respond(404, "text/plain; charset=utf-8", b"there is nothing here; the API is at /api\n")
        else:
            await stream.respond(page.status, page.content_type, page.body, page.headers)
        return None


def _keep_buffers_small() -> None:
    """Let asyncio read less at once from each TLS connection of this process.

    It makes a buffer of 256 KiB for each and fills it with zeros: two thousand agents would take half a gigabyte. What
    they send is short, and what is longer is read in several steps.
    """
    if getattr(sslproto.SSLProtocol, "max_size", 0) > _TLS_BUFFER_BYTES:
        sslproto.SSLProtocol.max_size = _TLS_BUFFER_BYTES


def _tune(accepted: socket.socket) -> None:
    accepted.setblocking(False)
    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)


def _text(name: tuple[Any, ...]) -> str:
    return f"[{name[0]}]:{name[1]}" if ":" in str(name[0]) else f"{name[0]}:{name[1]}"

"""Dialling other controllers: from a raft name to a connection on which the preamble was agreed.

Three callers: Dqlite's connect function (a foreign thread, blocking), the questions of the peer watch, and client
connections to the leader (both asyncio). All go under TLS unless the configuration says otherwise; for the first, which
can speak none, the proxy carries the bytes.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dbaccessor import localnode, preamble, tls
from dbaccessor.identity import Epoch, controller_of, node_name
from dbaccessor.preamble import Answer, Hello, MembershipRequest, Outcome, Purpose, newer_epoch
from dbaccessor.timing import Timing
from dbaccessor.tlsfiles import BadCredentials

# Established connections notice a silent peer by these; the kernel's own limits are minutes.
_KEEPALIVE_IDLE_SECONDS = 1
_KEEPALIVE_PROBES = 4
_USER_TIMEOUT_MS = 5000

# How long the end of a TLS connection may take that was closed in order.
_CLOSE_SECONDS = 1.0

# Between two attempts to reach a peer that was seen a moment ago.
_PERSIST_PAUSE_SECONDS = 0.05


class DialError(ConnectionError):
    """The other controller cannot be reached; the message says which, where and why."""


class Distrusted(DialError):
    """The other side is there, and one of the two does not accept the other's certificate."""


class RefusedByPeer(DialError):
    """The other controller answered and refused; `answer` holds its identity."""

    def __init__(self, message: str, answer: Answer) -> None:
        super().__init__(message)
        self.answer = answer


@dataclass(frozen=True)
class Caller:
    """Who dials. An outsider (a client without a node) has neither controller id nor Dqlite id."""

    cluster_uuid: str = ""
    epoch: Epoch | None = None
    controller_id: str = ""
    dqlite_id: int = 0

    @property
    def name(self) -> str:
        return node_name(self.controller_id, self.dqlite_id) if self.dqlite_id else ""

    def awaits(self, name: str, answer: Answer) -> bool:
        """Whether this answer is of the node that was meant, which only does not run yet: just after its restart."""
        same = answer.cluster_uuid == self.cluster_uuid and answer.epoch == self.epoch and answer.superseded is None
        return same and answer.name == name and not answer.running

    def hello(self, purpose: Purpose, target: str = "", request: MembershipRequest | None = None) -> Hello:
        return Hello(
            purpose=purpose,
            cluster_uuid=self.cluster_uuid,
            epoch=self.epoch,
            controller_id=self.controller_id,
            dqlite_id=self.dqlite_id,
            target=target,
            request=request,
        )


@dataclass
class AddressBook:
    """Controller id -> IP, newest configuration first, with the addresses of earlier times behind it.

    Replaced as a whole, so that readers on other threads need no lock.
    """

    port: int = 17666
    current: Mapping[str, str] = field(default_factory=dict)
    earlier: Mapping[str, str] = field(default_factory=dict)

    def find(self, controller_id: str) -> str | None:
        return self.current.get(controller_id) or self.earlier.get(controller_id) or None

    def everybody(self) -> dict[str, str]:
        return {i: a for i, a in {**self.earlier, **self.current}.items() if a}


# Proxy.carry: opens a connection under TLS for Dqlite, from any thread.
Carrier = Callable[
    [str, int, str, Hello, float],
    tuple[Answer, tls.Peer, socket.socket | None],
]


class Dialer:
    """Opens connections for one controller. `caller` and `book` are replaced by the worker as they change.

    `keyring` holds the certificates; without it (None) TLS is off. `carry` is who speaks TLS for Dqlite.
    """

    def __init__(
        self, caller: Caller, book: AddressBook, timing: Timing, on_answer: Callable[[Answer], None] | None = None
    ) -> None:
        self.caller = caller
        self.book = book
        self.timing = timing
        self.keyring: tls.Keyring | None = None
        self.carry: Carrier | None = None
        self._on_answer = on_answer
        self._seen: dict[str, float] = {}
        self._closing = threading.Event()

    def stop(self) -> None:
        """Make attempts that are under way on foreign threads end soon."""
        self._closing.set()

    def saw(self, controller_id: str) -> None:
        """Note that this controller was reached just now."""
        self._seen[controller_id] = time.monotonic()

    # Blocking, for Dqlite's connect function.

    def raft_connect(self, name: str) -> int:
        """Return a connected, blocking file descriptor to the node `name`. Raises DialError.

        A peer that was seen a moment ago gets several attempts: one failed connect is enough for Dqlite's role
        management to demote a voter. The own node is reached without the network and therefore never fails for it.
        """
        if name == self.caller.name:
            return self._connect_own()
        controller_id = controller_of(name)
        started = time.monotonic()
        while True:
            try:
                return self._raft_connect_once(name, controller_id)
            except DialError as error:
                if isinstance(error, RefusedByPeer) and not self.caller.awaits(name, error.answer):
                    raise
                now = time.monotonic()
                recent = now - self._seen.get(controller_id, float("-inf")) < self.timing.seen_seconds
                if not recent or now - started > self.timing.persist_seconds:
                    raise
                if self._closing.wait(_PERSIST_PAUSE_SECONDS):
                    raise

    def _connect_own(self) -> int:
        own = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            own.connect("\0" + localnode.bind_address(self.caller.dqlite_id)[1:])
        except OSError as error:
            own.close()
            raise DialError(f"own node {self.caller.name} does not listen: {error}") from error
        return own.detach()

    def _raft_connect_once(self, name: str, controller_id: str) -> int:
        ip = self.book.find(controller_id)
        if ip is None:
            raise DialError(f"no address is known for controller {controller_id}")
        where = f"{name} at {ip} port {self.book.port}"
        if self.keyring is not None:
            return self._raft_under_tls(name, controller_id, ip, where)
        try:
            stream = socket.create_connection((ip, self.book.port), timeout=self.timing.connect_seconds)
        except OSError as error:
            raise DialError(f"{where} does not answer: {error}") from error
        try:
            prepare(stream)
            stream.sendall(preamble.encode(self.caller.hello("raft", target=name)))
            answer = preamble.decode_answer(_read_exactly(stream, self.timing.connect_seconds))
            self._note(answer)
            if not answer.accepted:
                raise RefusedByPeer(f"{where} refuses: {answer.reason}", answer)
            stream.settimeout(None)
            self.saw(controller_id)
            return stream.detach()
        except (OSError, preamble.BadFrame) as error:
            stream.close()
            if isinstance(error, DialError):
                raise
            raise DialError(f"{where} does not answer: {error}") from error

    def _raft_under_tls(self, name: str, controller_id: str, ip: str, where: str) -> int:
        assert self.carry is not None, "a dialer for raft under TLS has somebody to carry it"
        hello = self.caller.hello("raft", target=name)
        try:
            answer, peer, stream = self.carry(ip, self.book.port, controller_id, hello, self.timing.connect_seconds)
        except BadCredentials as error:
            raise DialError(f"{where} cannot be dialled: {error}") from error
        except (OSError, EOFError) as error:
            raise DialError(f"{where}: {_words(error)}") from error
        self._note(answer, peer)
        if stream is None:
            raise RefusedByPeer(f"{where} refuses: {answer.reason}", answer)
        self.saw(controller_id)
        return stream.detach()

    # asyncio

    async def ask(self, ip: str) -> Answer:
        """Return what the controller at `ip` says of itself. Raises DialError within `ask_seconds`."""
        conversation = Conversation(self, ip)
        try:
            return await conversation.ask()
        finally:
            conversation.close()

    async def open_client(self, name: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a stream to the Dqlite node `name` on which the preamble was agreed. Raises DialError."""
        if name == self.caller.name:
            return await asyncio.open_unix_connection("\0" + localnode.bind_address(self.caller.dqlite_id)[1:])
        return await self._open_agreed(name, "client")

    async def open_terms(self, name: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a stream on which another node's terms are told (terms.py). Raises DialError."""
        return await self._open_agreed(name, "terms")

    async def _open_agreed(self, name: str, purpose: Purpose) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        ip = self.book.find(controller_of(name))
        if ip is None:
            raise DialError(f"no address is known for {name}")
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(self.timing.connect_seconds):
                reader, writer, peer = await self._open(ip, controller_of(name))
                answer = await self._greet(reader, writer, peer, self.caller.hello(purpose, target=name))
                if not answer.accepted:
                    raise RefusedByPeer(f"{name} refuses: {answer.reason}", answer)
        except BaseException as error:
            if writer is not None:
                writer.transport.abort()
            if isinstance(error, (OSError, EOFError, BadCredentials)) and not isinstance(error, DialError):
                raise DialError(f"{name} at {ip}: {_words(error)}") from error
            raise
        return reader, writer

    async def membership(self, name: str, request: MembershipRequest, deadline_seconds: float) -> Outcome:
        """Ask the leader `name` for a membership change and wait for its outcome. Raises DialError."""
        ip = self.book.find(controller_of(name))
        if ip is None:
            raise DialError(f"no address is known for {name}")
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(deadline_seconds):
                reader, writer, peer = await self._open(ip, controller_of(name))
                hello = self.caller.hello("membership", target=name, request=request)
                answer = await self._greet(reader, writer, peer, hello)
                if not answer.accepted:
                    raise RefusedByPeer(f"{name} refuses: {answer.reason}", answer)
                return preamble.decode_outcome(await _read_frame(reader))
        except TimeoutError as error:
            raise DialError(f"{name} did not finish within {deadline_seconds:g} s; the outcome is not known") from error
        except (OSError, EOFError, BadCredentials) as error:
            if isinstance(error, DialError):
                raise
            raise DialError(f"{name} at {ip}: {_words(error)}; the outcome is not known") from error
        finally:
            if writer is not None:
                writer.transport.abort()

    async def _open(
        self, ip: str, controller_id: str | None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, tls.Peer | None]:
        """Connect, and make sure of who is there (None: anybody). Raises OSError, BadCredentials."""
        contexts = self.keyring.current() if self.keyring is not None else None
        if contexts is None:
            reader, writer = await asyncio.open_connection(ip, self.book.port)
        else:
            reader, writer = await asyncio.open_connection(
                ip, self.book.port, ssl=contexts.client, server_hostname="", ssl_shutdown_timeout=_CLOSE_SECONDS
            )
        try:
            prepare(writer.get_extra_info("socket"))
            if contexts is None:
                return reader, writer, None
            peer = contexts.identify(writer.get_extra_info("ssl_object"))
            if controller_id is not None:
                preamble.check_peer(peer, controller_id)
        except BaseException:
            writer.transport.abort()
            raise
        return reader, writer, peer

    async def _greet(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: tls.Peer | None, hello: Hello
    ) -> Answer:
        writer.write(preamble.encode(hello))
        await writer.drain()
        answer = preamble.decode_answer(await _read_frame(reader))
        if peer is not None and answer.controller_id not in ("", peer.controller_id):
            raise preamble.WrongPeer(f"it says that it is controller {answer.controller_id}, and shows that of {peer}")
        self._note(answer, peer)
        return answer

    def _note(self, answer: Answer, peer: tls.Peer | None = None) -> None:
        # Whoever was left behind is told of a newer epoch, and must not announce one.
        ahead = newer_epoch(self.caller.epoch, answer.superseded or answer.epoch)
        if self._on_answer is not None and not (peer is not None and peer.retired and ahead):
            self._on_answer(answer)


class Conversation:
    """Asks one address who is there, again and again over one connection, and over a new one when that has ended."""

    def __init__(self, dialer: Dialer, ip: str) -> None:
        self.ip = ip
        self._dialer = dialer
        self._open: tuple[asyncio.StreamReader, asyncio.StreamWriter, tls.Peer | None] | None = None

    async def ask(self) -> Answer:
        """Return what the controller there says of itself. Raises DialError within `ask_seconds`."""
        dialer = self._dialer
        try:
            async with asyncio.timeout(dialer.timing.ask_seconds):
                answer = await self._ask()
        except BaseException as error:
            self.close()
            if isinstance(error, ssl.SSLError | preamble.WrongPeer):
                raise Distrusted(f"{self.ip} port {dialer.book.port}: {_words(error)}") from error
            if isinstance(error, (OSError, EOFError, TimeoutError, BadCredentials)):
                raise DialError(f"{self.ip} port {dialer.book.port} does not answer: {_words(error)}") from error
            raise
        if not answer.accepted:
            self.close()
            raise RefusedByPeer(f"{self.ip} port {dialer.book.port} refuses: {answer.reason}", answer)
        if answer.controller_id:
            dialer.saw(answer.controller_id)
        return answer

    async def _ask(self) -> Answer:
        dialer = self._dialer
        if self._open is not None:
            try:
                return await dialer._greet(*self._open, dialer.caller.hello("identity"))
            except (OSError, EOFError):
                self.close()  # It had ended since the last question, which says nothing about now.
        self._open = await dialer._open(self.ip, None)
        return await dialer._greet(*self._open, dialer.caller.hello("identity"))

    def close(self) -> None:
        """End the connection; the next question opens another."""
        if self._open is not None:
            self._open[1].transport.abort()
            self._open = None


def prepare(stream: socket.socket) -> None:
    """Set what every connection between controllers needs: no Nagle, and a silent peer noticed in seconds."""
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE_SECONDS)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_IDLE_SECONDS)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)


def _words(error: BaseException) -> str:
    """What went wrong, for the end of a sentence that names the other side."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, asyncio.IncompleteReadError):
        return "it closed the connection during the preamble"
    if isinstance(error, OSError | EOFError):
        return tls.explain(error)
    return str(error)


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    header = await reader.readexactly(preamble.HEADER.size)
    return await reader.readexactly(preamble.body_length(header))


def _read_exactly(stream: socket.socket, deadline_seconds: float) -> bytes:
    """Read one frame's body from a blocking socket, under one deadline for the whole of it."""
    deadline = time.monotonic() + deadline_seconds

    def take(count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("no answer to the preamble in time")
            stream.settimeout(left)
            part = stream.recv(count - len(parts))
            if not part:
                raise ConnectionResetError("it closed the connection during the preamble")
            parts += part
        return bytes(parts)

    return take(preamble.body_length(take(preamble.HEADER.size)))

"""Flow 3, hop 6: one connection to one controller, for agents and for clients: dial, log in, ask, watch.

Which controller to dial, and what to do when this one goes, is decided elsewhere (dial.py). Here is the rest: TLS with
the cluster's authority, where the certificate has to be a controller's; requests side by side, each with a deadline;
and pings, so that a controller that has vanished without a word is noticed.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Any, TypeVar

import websockets
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as connect_websocket

from controller.api import messages
from controller.api.dial import Kind, PeerError
from controller.api.messages import BadMessage, LoginParams, LoginResult, Nothing, NotifyWatchResult, Response, RPCError
from controller.api.scopes import HostPort
from dbaccessor import tlsfiles

_MOST_BYTES = 16 << 20
_CLOSE_SECONDS = 2.0

# A controller that does not answer any more, as one that is frozen, is noticed after twice this time at most.
PING_SECONDS = 10.0
# One whose address is gone, or that is cut off, the kernel notices: its own host does not answer for it. It asks once a
# second and costs no process anything.
_PROBE_SECONDS = 1
_PROBES = 3

_T = TypeVar("_T")


class _Dialled(connect_websocket):
    """A redirect is an answer like any other: where to go is in the list, and nowhere else."""

    def process_redirect(self, exc: Exception) -> Exception:
        return exc


class Over(Exception):
    """The connection is over: what was asked may have happened, or not."""


class TooLate(Exception):
    """No answer within the deadline. It may still come to pass; the connection lives on."""


def client_context(ca_cert: str) -> ssl.SSLContext:
    """Return the context that trusts these authorities and nobody else. Raises ValueError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # The name that counts is the controller's, which is no host name: `connect` looks at it.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    try:
        context.load_verify_locations(cadata=ca_cert)
    except (ssl.SSLError, ValueError, UnicodeEncodeError) as error:
        raise ValueError("the CA certificate cannot be read") from error
    return context


async def connect(
    address: HostPort, context: ssl.SSLContext, *, model_uuid: str = "", ping_seconds: float = PING_SECONDS
) -> Connection:
    """Return a connection to `address` that is not logged in yet: what a race (dial.py) is to be given.

    It sets no deadline, which is the race's. Raises OSError, EOFError, and PeerError for one who is no controller of
    the cluster. `ping_seconds`: how often the other side is asked whether it is there, and how long it may take to say.
    """
    if not _is_host(address.host):  # Python's resolver raises for it what is no OSError.
        raise PeerError(Kind.NETWORK, "it is no name of a host")
    path = f"/model/{model_uuid}/api" if model_uuid else "/api"
    try:
        websocket = await _Dialled(
            f"wss://{address}{path}",
            ssl=context,
            server_hostname=tlsfiles.API_SERVER,
            proxy=None,
            compression=None,
            max_size=_MOST_BYTES,
            open_timeout=None,
            ping_interval=ping_seconds,
            ping_timeout=ping_seconds,
            close_timeout=_CLOSE_SECONDS,
        )
    except websockets.InvalidStatus as error:
        raise PeerError(Kind.ANSWER, f"it answers as a web server does ({error.response.status_code})") from error
    except websockets.WebSocketException as error:
        raise PeerError(Kind.ANSWER, f"it does not speak this protocol ({error})") from error
    _watch_over(websocket)
    named = _controller(websocket)
    if named is None:
        await websocket.close()
        raise PeerError(Kind.CERTIFICATE, "its certificate is of this cluster, but not of a controller")
    return Connection(address, named, websocket)


class Connection:
    """One connection, to the controller that its certificate names. Any number of tasks may ask; close it when done."""

    def __init__(self, address: HostPort, controller_id: str, websocket: ClientConnection) -> None:
        self.address = address
        self.controller_id = controller_id
        self._websocket = websocket
        self._number = 0
        self._waiting: dict[int, asyncio.Future[Response]] = {}
        self._over: str | None = None
        self._reader = asyncio.create_task(self._read(), name=f"api-connection-{address}")

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def login(self, params: LoginParams, *, deadline_seconds: float = 30) -> LoginResult:
        """Log in. Raises RPCError with the code that says why not, Over, TooLate."""
        return await self.call("Admin", 3, "Login", params, LoginResult, deadline_seconds=deadline_seconds)

    async def call(
        self,
        type: str,
        version: int,
        request: str,
        params: Any = None,
        kind: type[_T] = Nothing,  # type: ignore[assignment]
        *,
        id: str = "",
        deadline_seconds: float | None = 30,
    ) -> _T:
        """Return the answer to one request. Raises RPCError, Over, TooLate, and BadMessage for a strange answer.

        Without a deadline it waits as long as the connection lives.
        """
        if self._over is not None:
            raise Over(self._over)
        self._number += 1
        number = self._number
        waiting: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._waiting[number] = waiting
        try:
            async with asyncio.timeout(deadline_seconds):
                await self._websocket.send(messages.ask(number, type, version, request, id, params), text=True)
                return messages.result(await waiting, kind)
        except TimeoutError:
            raise TooLate(f"{type}.{request}: no answer within {deadline_seconds:g} s") from None
        except websockets.ConnectionClosed as error:
            raise Over(_farewell(error)) from error
        finally:
            self._waiting.pop(number, None)
            if waiting.done() and not waiting.cancelled():
                # The connection ended while the question was being sent: nobody came to wait for the answer.
                waiting.exception()

    async def watch(self, type: str, version: int, request: str) -> Watch:
        """Make a notify watcher and return it. Its first event has happened: read what there is now."""
        made = await self.call(type, version, request, None, NotifyWatchResult)
        if made.error is not None:
            raise RPCError(made.error.message, made.error.code)
        return Watch(self, made.NotifyWatcherId)

    async def until_over(self) -> str:
        """Return why the connection ended, once it has."""
        await asyncio.wait([self._reader])
        return self._over or "it was closed"

    @property
    def over(self) -> str | None:
        """Why the connection ended; None while it lives."""
        return self._over

    async def close(self) -> None:
        """End the connection; whoever waits for an answer gets Over. Takes two seconds at most."""
        self._end("it was closed")
        self._reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reader
        await self._websocket.close()

    async def _read(self) -> None:
        try:
            while True:
                response = messages.response(await self._websocket.recv(decode=False))
                waiting = self._waiting.get(response.request_id)
                if waiting is not None and not waiting.done():
                    waiting.set_result(response)
        except websockets.ConnectionClosed as error:
            self._end(_farewell(error))
        except BadMessage as error:
            self._end(f"it sent something else than responses: {error}")
            await self._websocket.close(1002)

    def _end(self, reason: str) -> None:
        self._over = self._over or reason
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(Over(self._over))


class Watch:
    """A notify watcher at the other end of a connection."""

    def __init__(self, connection: Connection, id: str) -> None:
        self._connection = connection
        self._id = id

    async def next(self) -> None:
        """Return once something has changed. Raises Over, and RPCError (stopped) after `stop`."""
        await self._connection.call("NotifyWatcher", 1, "Next", id=self._id, deadline_seconds=None)

    async def stop(self) -> None:
        """End the watcher; a `next` that waits ends too."""
        await self._connection.call("NotifyWatcher", 1, "Stop", id=self._id)


def _watch_over(websocket: ClientConnection) -> None:
    """Let the kernel end the connection when the other side's host has been silent for some seconds."""
    stream = websocket.transport.get_extra_info("socket")
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _PROBE_SECONDS)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_SECONDS)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
    # The same where something was sent that nobody has acknowledged: then no probes are sent.
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * _PROBE_SECONDS * (_PROBES + 1))


def _is_host(text: str) -> bool:
    try:
        text.encode("idna")
    except UnicodeError:
        return False
    return text.isprintable()


def _controller(websocket: ClientConnection) -> str | None:
    """Return the controller that the other side's certificate names, None for a certificate of nobody such."""
    certificate = websocket.transport.get_extra_info("peercert") or {}
    names = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
    return tlsfiles.controller_named(names) or None


def _farewell(error: websockets.ConnectionClosed) -> str:
    if error.rcvd is None:
        return "the connection broke" if error.sent is None else f"it did not answer any more ({error.sent.reason})"
    return f"it ended the connection: {error.rcvd.reason or error.rcvd.code}"

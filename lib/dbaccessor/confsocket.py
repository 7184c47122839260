"""Flow 1, hop 3: HTTP over unix sockets, root only: the nudge from the charm, and the questions of hactl.

The file is the data and the socket is only the nudge, so a lost one costs seconds and never correctness. Both ends
are here: the synchronous client of charm and command line, and the server that controllerd opens. The standard
library's HTTP does the parsing on both.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import logging
import os
import select
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

log = logging.getLogger(__name__)

CONFIG_CHANGE = "configchange.socket"
CONTROL = "control.socket"

# A handler takes the request's body and returns (status, content type, body). A body that is an iterator is sent as it
# comes; when it raises, the connection ends early, so that whoever asked sees that something is missing.
Response = tuple[int, str, bytes | Iterator[bytes]]
Handler = Callable[[bytes], Response]

_MAX_BODY = 4 << 20
_CHUNK = 1 << 18
# How many callers may wait to be accepted. A hook, a scrape of metrics and a script's crowd of hactl come at once.
_QUEUE = 128
_QUEUE_LOOK_SECONDS = 0.02

# The connection whose request this thread answers.
_current = threading.local()


class NoSocket(ConnectionError):
    """Nobody listens on the socket: controllerd is not running (or not yet)."""

    sent = False


class Torn(NoSocket):
    """Somebody was there, and the connection ended before the answer came: what was asked for may have been done."""

    sent = True


class EndedEarly(Torn):
    """The answer had begun, and did not come to its end."""


class SocketTimeout(TimeoutError):
    """Somebody listens and did not answer before the deadline.

    `sent`: what was asked for may have been done. False: nobody was even free to take the request.
    """

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


def request(path: Path, method: str, target: str, body: bytes = b"", timeout_seconds: float = 5.0) -> tuple[int, bytes]:
    """Send one request to the unix socket at `path`; return (status, body).

    Raises NoSocket when nobody listens, Torn when the connection ends before the answer has come, SocketTimeout when
    the answer does not come in time.
    """
    connection = _UnixConnection(path, timeout_seconds)
    connected = False
    try:
        connection.connect()
        connected = True
        connection.request(method, target, body=body)
        response = connection.getresponse()
        return response.status, response.read()
    except TimeoutError as error:
        raise SocketTimeout(f"no answer from {path} within {timeout_seconds:g} s", sent=connected) from error
    except (OSError, http.client.HTTPException) as error:
        if connected:
            raise Torn(f"the connection to {path} ended before the answer came") from error
        raise NoSocket(f"nobody answers on {path}: {error}") from error
    finally:
        connection.close()


def download(
    path: Path, target: str, body: bytes, write: Callable[[bytes], object], timeout_seconds: float
) -> tuple[int, bytes]:
    """POST a request and hand its answer to `write` part by part; return (200, b""), or a refusal's status and body.

    `timeout_seconds` is for each part. Raises NoSocket and SocketTimeout as `request` does, EndedEarly for a torn one.
    """
    connection = _UnixConnection(path, timeout_seconds)
    began = False
    try:
        connection.request("POST", target, body=body)
        response = connection.getresponse()
        if response.status != 200:
            return response.status, response.read()
        began = True
        while part := response.read(_CHUNK):
            write(part)
        return 200, b""
    except TimeoutError as error:
        raise SocketTimeout(f"no answer from {path} within {timeout_seconds:g} s") from error
    except (ConnectionError, http.client.HTTPException, FileNotFoundError, PermissionError) as error:
        kind = EndedEarly if began else NoSocket
        raise kind(f"the answer on {path} did not come to its end: {type(error).__name__}") from error
    finally:
        connection.close()


def client_gone() -> bool:
    """For a handler that waits: True once whoever asked has closed the connection."""
    connection: socket.socket | None = getattr(_current, "connection", None)
    if connection is None:
        return False
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    try:
        # Asked first: on a socket that has a timeout, Python waits for bytes whatever the flags say.
        return bool(poll.poll(0)) and connection.recv(1, socket.MSG_PEEK) == b""
    except OSError:
        return True


def reload(state_dir: Path) -> bool:
    """Tell controllerd that controller.conf changed. False: nobody listens, which is not an error."""
    try:
        status, _ = request(state_dir / CONFIG_CHANGE, "POST", "/reload")
    except (NoSocket, SocketTimeout):
        return False
    return status == 204


class Server:
    """One unix socket and its routes, served from threads of its own. A context manager."""

    def __init__(self, path: Path, routes: Mapping[tuple[str, str], Handler]) -> None:
        self._path = path
        self._routes = routes
        self._server: _ThreadingUnixServer | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Server:
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()  # Left by a controllerd that was killed.
        previous = os.umask(0o177)
        try:
            self._server = _ThreadingUnixServer(str(self._path), _handler_class(self._routes))
        finally:
            os.umask(previous)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name=self._path.name, daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=2)
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_seconds: float) -> None:
        super().__init__("localhost", timeout=timeout_seconds)
        self._path = path
        self._timeout_seconds = timeout_seconds

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        deadline = time.monotonic() + self._timeout_seconds
        while True:
            try:
                self.sock.connect(str(self._path))
                return
            except BlockingIOError as error:
                # As many callers as may wait do so already. With a timeout, the kernel says so instead of waiting.
                if time.monotonic() >= deadline:
                    raise TimeoutError(f"{self._path} takes nobody") from error
            time.sleep(_QUEUE_LOOK_SECONDS)


class _ThreadingUnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = _QUEUE
    # A request may wait for the cluster (a leave takes up to 30 s); ending must not wait for it.
    block_on_close = False


def _handler_class(routes: Mapping[tuple[str, str], Handler]) -> type[http.server.BaseHTTPRequestHandler]:
    class RequestHandler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60  # Of one silent client; each has a thread of its own.

        def do_GET(self) -> None:
            self._answer("GET")

        def do_POST(self) -> None:
            self._answer("POST")

        def _answer(self, method: str) -> None:
            _current.connection = self.connection
            status, kind, body = self._respond(method)
            self.close_connection = True
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # Who asked has gone, and needs no answer.
                self.send_response(status)
                self.send_header("Content-Type", kind)
                if isinstance(body, bytes):
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                    return
            if not isinstance(body, bytes):
                self._send_parts(body)

        def _send_parts(self, parts: Iterator[bytes]) -> None:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            try:
                for part in parts:
                    if part:
                        self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
                self.wfile.write(b"0\r\n\r\n")
            except OSError as error:
                log.info("%s ended early: %s", self.path, error)
            except Exception:  # Without the last chunk, whoever asked knows.
                log.exception("%s ended early", self.path)
            finally:
                getattr(parts, "close", lambda: None)()

        def _respond(self, method: str) -> Response:
            try:
                length = int(self.headers.get("Content-Length") or 0)
            except ValueError:
                return 400, "text/plain", b"Content-Length is not a number\n"
            if not 0 <= length <= _MAX_BODY:
                return 413, "text/plain", b"the body is too large\n"
            handler = routes.get((method, self.path))
            if handler is None:
                known = ", ".join(sorted(f"{m} {t}" for m, t in routes))
                return 404, "text/plain", f"no such request; known: {known}\n".encode()
            try:
                return handler(self.rfile.read(length))
            except Exception:  # One bad request must not end the server; the log has the traceback.
                log.exception("%s %s failed", method, self.path)
                return 500, "text/plain", b"internal error; see the log of controllerd\n"

        def address_string(self) -> str:
            return "unix"

        def log_message(self, format: str, *args: object) -> None:
            log.debug("socket request: %s", format % args)

    return RequestHandler

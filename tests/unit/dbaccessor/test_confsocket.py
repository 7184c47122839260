"""dbaccessor.confsocket: what whoever asks over a unix socket is told when it does not go as it should."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dbaccessor import confsocket
from rawsocket import rawsocket


@pytest.fixture
def path() -> Iterator[Path]:
    # Not tmp_path: a unix socket's path must fit in 108 bytes, and pytest's folders may not.
    with tempfile.TemporaryDirectory(prefix="socket-") as folder:
        yield Path(folder) / confsocket.CONTROL


@contextlib.contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """A socket that listens and accepts nobody by itself."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(1)
        yield listener


@contextlib.contextmanager
def crowd(path: Path) -> Iterator[None]:
    """Callers who have come before, as many as may wait."""
    with contextlib.ExitStack() as stack:
        while True:
            caller = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            caller.setblocking(False)
            try:
                caller.connect(str(path))
            except BlockingIOError:
                break
        yield


def test_nobody_listens(path: Path):
    with pytest.raises(confsocket.NoSocket) as told:
        confsocket.request(path, "GET", "/status")

    assert not isinstance(told.value, confsocket.Torn)
    assert not told.value.sent


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"])
def test_an_answer_that_is_torn_is_not_nobody(path: Path, said: bytes):
    with rawsocket(path, lambda _: said), pytest.raises(confsocket.Torn) as told:
        confsocket.request(path, "POST", "/machines/add", b"{}")

    assert told.value.sent


def test_where_nobody_is_accepted_the_deadline_ends_the_wait(path: Path):
    with listening(path), crowd(path):
        began = time.monotonic()
        with pytest.raises(confsocket.SocketTimeout) as told:
            confsocket.request(path, "GET", "/status", timeout_seconds=0.3)

    assert 0.3 <= time.monotonic() - began < 2
    assert not told.value.sent


def test_what_was_sent_and_not_answered_in_time_is_told_from_what_was_not_sent(path: Path):
    with listening(path), pytest.raises(confsocket.SocketTimeout) as told:
        confsocket.request(path, "GET", "/status", timeout_seconds=0.1)

    assert told.value.sent


def test_whoever_finds_the_queue_full_waits_for_a_turn(path: Path):
    def accept(listener: socket.socket) -> None:
        time.sleep(0.1)
        with contextlib.suppress(OSError):
            while True:
                caller, _ = listener.accept()
                with caller:
                    if caller.recv(1000):
                        caller.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with listening(path) as listener:
        with crowd(path):
            pass  # They hung up, and still stand in the queue.
        thread = threading.Thread(target=accept, args=(listener,))
        thread.start()
        answer = confsocket.request(path, "GET", "/status", timeout_seconds=5)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()

    assert answer == (200, b"ok")


def test_a_server_that_is_busy_lets_a_crowd_wait(path: Path):
    server = confsocket._ThreadingUnixServer(str(path), confsocket._handler_class({}))
    with server, contextlib.ExitStack() as stack:
        for _ in range(100):
            caller = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            caller.setblocking(False)
            caller.connect(str(path))

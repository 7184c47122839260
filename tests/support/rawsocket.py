"""A control.socket that answers as a test says, byte by byte; also not at all, as a controllerd that is killed."""

from __future__ import annotations

import contextlib
import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Asked:
    """One request: its path, and its body, parsed."""

    target: str
    body: Any


Answer = Callable[[Asked], bytes]

# The connection ends, and nothing was answered.
TORN = b""


def answer(document: object, status: int = 200) -> bytes:
    body = json.dumps(document).encode()
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


@contextlib.contextmanager
def rawsocket(path: Path, answers: Answer) -> Iterator[list[Asked]]:
    """Serve on `path`; yield what was asked, one after the other."""
    everything: list[Asked] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            head = self.rfile.readline().decode()
            length = 0
            while line := self.rfile.readline().strip():
                name, _, value = line.decode().partition(": ")
                length = int(value) if name.lower() == "content-length" else length
            asked = Asked(head.split()[1], json.loads(self.rfile.read(length) or b"null"))
            everything.append(asked)
            with contextlib.suppress(OSError):
                self.wfile.write(answers(asked))

    class Server(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True
        block_on_close = False

    with Server(str(path), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
        try:
            yield everything
        finally:
            server.shutdown()
    path.unlink()

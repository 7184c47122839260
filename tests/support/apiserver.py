"""A real API server on a loopback address, over fakes: real TLS with the charm's own certificates, real connections."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from controller.api import connection, dial
from controller.api.certificate import ServerCertificate
from controller.api.connection import Connection
from controller.api.limits import Limits
from controller.api.messages import LoginParams
from controller.api.pages import Sources
from controller.api.scopes import HostPort
from controller.api.server import Server
from dbaccessor.tls import Keyring
from fakedomain import Fakes
from testauthority import TestAuthority

Play = Callable[["Served"], Awaitable[None]]


class Served:
    """One running server, and ways to talk to it."""

    def __init__(
        self,
        root: Path,
        limits: Limits | None = None,
        controller_id: str = "0",
        like: Served | None = None,
        host: str = "127.0.0.1",
    ):
        self._host = host
        self.authority = like.authority if like is not None else TestAuthority()
        self.directory = self.authority.write(root / f"tls-{controller_id}", controller_id)
        self.ca_cert = self.authority.current.certificate
        self.fakes = Fakes(self.ca_cert)
        self.dialled = 0
        self.unwell = ""
        self.certificate = ServerCertificate(Keyring(self.directory, controller_id))
        sources = Sources(lambda: self.unwell, _metrics, _document, _document)
        self.server = Server(self.fakes.domain, sources, self._context, (host,), 0, limits or Limits())
        self._running: asyncio.Task[None] | None = None

    def _context(self) -> ssl.SSLContext:
        self.dialled += 1
        return self.certificate.context()

    async def start(self) -> None:
        self.server.bind()
        self._running = asyncio.create_task(self.server.run())

    async def stop(self) -> None:
        """End it as a controller ends; nothing listens at its address afterwards."""
        if self._running is not None:
            self._running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._running
            self._running = None
        self.server.unbind()

    @property
    def address(self) -> HostPort:
        return HostPort(self._host, self.server.port)

    @property
    def context(self) -> ssl.SSLContext:
        return connection.client_context(self.ca_cert)

    async def connect(self, **told: Any) -> Connection:
        async with asyncio.timeout(10):
            return await connection.connect(self.address, self.context, **told)

    async def enter(self, tag: str = "user-admin", secret: str = "pw", **told: Any) -> Connection:
        """Connect and log in."""
        made = await self.connect(**told)
        await made.login(LoginParams(auth_tag=tag, credentials=secret))
        return made

    async def raw(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A TLS connection on which anything may be sent."""
        return await asyncio.open_connection(self._host, self.server.port, ssl=self.context, server_hostname="x")

    async def get(self, path: str, *headers: str) -> tuple[int, str]:
        """Ask as a browser does. Return the status and the body."""
        reader, writer = await self.raw()
        head = "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *headers])
        writer.write(f"{head}\r\n\r\n".encode())
        async with asyncio.timeout(20):
            answer = await reader.read()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        top, _, body = answer.decode().partition("\r\n\r\n")
        return int(top.split()[1]), body


@contextlib.asynccontextmanager
async def serving(root: Path, limits: Limits | None = None) -> AsyncIterator[Served]:
    """Run a server for as long as the block takes."""
    served = Served(root, limits)
    await served.start()
    try:
        yield served
    finally:
        await served.stop()


def serve(root: Path, play: Play, limits: Limits | None = None) -> None:
    """Run `play` against a server of its own, and find nothing left behind."""

    async def run() -> None:
        async with serving(root, limits) as served:
            await play(served)
        left = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        assert left == [], "a task has no owner"

    asyncio.run(run())


async def until(fact: Callable[[], object], what: str, seconds: float = 10) -> None:
    """Poll a fact of this process until it is true."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not fact():
        assert asyncio.get_running_loop().time() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.01)


async def _metrics() -> tuple[str, bytes]:
    return "text/plain; version=0.0.4", b"up 1\n"


async def _document() -> Mapping[str, Any]:
    return {"state": "serving"}


def parsed(body: str) -> Any:
    return msgspec.json.decode(body)


__all__ = ["Play", "Served", "dial", "parsed", "serve", "serving", "until"]

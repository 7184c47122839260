"""localjuju's cloud without hosts: the real service and its real log, with launches that only take their time."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

from localjuju import cloudlog, cloudserver
from localjuju.cloud import Cloud


class NoHosts:
    """Launches nothing, and takes a moment for it. `troubles` are raised by the next launches."""

    def __init__(self, seconds: float = 0.05) -> None:
        self.seconds = seconds
        self.up: dict[str, asyncio.Event] = {}
        self.specs: list[Mapping[str, Any]] = []
        self.troubles: list[Exception] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def die(self, instance: str) -> None:
        """Its host goes down by itself. From any thread."""
        assert self._loop is not None, "nothing was launched yet"
        self._loop.call_soon_threadsafe(self.up[instance].set)

    async def launch(self, instance: str, spec: Mapping[str, Any]) -> str:
        self._loop = asyncio.get_running_loop()
        await asyncio.sleep(self.seconds)
        if self.troubles:
            raise self.troubles.pop(0)
        self.specs.append(spec)
        self.up[instance] = asyncio.Event()
        return f"10.0.0.{instance.removeprefix('i-')}"

    async def wait_down(self, instance: str) -> None:
        await self.up[instance].wait()

    async def destroy(self, instance: str) -> None:
        self.up.pop(instance, None)


@contextlib.asynccontextmanager
async def served(log: Path, hosts: NoHosts | None = None) -> AsyncIterator[str]:
    """The service in this loop; yields its address."""
    server = await cloudserver.serve(Cloud(hosts or NoHosts(), cloudlog.CloudLog(log)), "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        server.close()
        # Whoever was accepted in this very moment has its socket in a task that has not begun: cancelled now, it would
        # leave the socket open.
        for _ in range(2):
            await asyncio.sleep(0)


@contextlib.contextmanager
def beside(log: Path, hosts: NoHosts | None = None) -> Iterator[str]:
    """The service on a thread of its own; yields its address."""
    loop = asyncio.new_event_loop()
    ready, stop, url = threading.Event(), asyncio.Event(), ""

    async def serve() -> None:
        nonlocal url
        async with served(log, hosts) as url:
            ready.set()
            await stop.wait()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run, name="cloud")
    thread.start()
    assert ready.wait(10)
    try:
        yield url
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


def lives(log: Path) -> dict[str, list[str]]:
    """Return by uuid what became of its instances: the events, without who asked."""
    found: dict[str, list[str]] = {}
    for event in cloudlog.read(log):
        if not event["event"].startswith("asked"):
            found.setdefault(event["uuid"], []).append(event["event"])
    return found

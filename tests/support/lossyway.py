"""Ways to a set of loopback ports on which bytes can be made to vanish, in either direction, without a word to anybody.

What a firewall's DROP does to connections that are open, and to new ones: they hang. One way serves one client.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Mapping


class LossyWay:
    """Runs on a thread of its own. `ports`: where each target is reached through this. A context manager."""

    def __init__(self, targets: Mapping[int, int]) -> None:
        self.ports: dict[int, int] = {}
        # Set by the test; read before each piece is passed on.
        self.drops_requests = False
        self.drops_answers = False
        self._targets = targets
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> LossyWay:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def cut(self, *, requests: bool = True, answers: bool = True) -> None:
        """Let what the client sends, what it is answered, or both vanish from now on."""
        self.drops_requests, self.drops_answers = requests, answers

    def heal(self) -> None:
        self.cut(requests=False, answers=False)

    async def _listen(self) -> None:
        self._servers = []
        for index, port in self._targets.items():
            server = await asyncio.start_server(lambda r, w, port=port: self._accept(r, w, port), "127.0.0.1", 0)
            self._servers.append(server)
            self.ports[index] = server.sockets[0].getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError):
                there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(self._pump(reader, there_writer, "drops_requests"))
                        group.create_task(self._pump(there_reader, writer, "drops_answers"))
                finally:
                    there_writer.close()
        except (asyncio.CancelledError, ExceptionGroup):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, drops: str) -> None:
        """Pass on what comes. The end of one side ends the other, unless that vanishes as well."""
        while data := await source.read(65536):
            if not getattr(self, drops):
                sink.write(data)
                await sink.drain()
        if not getattr(self, drops):
            sink.close()

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

"""Real Dqlite nodes for tests: several in this process, or each in a process of its own that can be killed.

Run as a program (`python dqlitenodes.py JSON`) this is the process of one node: it obeys lines on stdin and dies with
its parent.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import freezing
from dbaccessor import errors
from dbaccessor.dqlite import node, shmorder
from dbaccessor.dqlite.connection import Connection, Member, Role
from dbaccessor.terms import Word
from dbaccessor.witness import Link

LATENCY_MS = 10
# Ten times what anything here needs on an idle machine; only a failing test waits that long.
DEADLINE_SECONDS = 30.0

_T = TypeVar("_T")
_NUMBERS = itertools.count(1)


async def until(ask: Callable[[], Awaitable[_T]], what: str, seconds: float = DEADLINE_SECONDS) -> _T:
    """Return the first true answer of `ask`; an error counts as no answer. Raises AssertionError at the deadline."""
    deadline = time.monotonic() + seconds
    last: object = None
    while time.monotonic() < deadline:
        try:
            answer = await ask()
        except (errors.DbAccessorError, OSError) as error:
            last = error
        else:
            if answer:
                return answer
            last = answer
        await asyncio.sleep(0.01)
    raise AssertionError(f"{what} did not come about within {seconds:g} s; last seen: {last!r}")


class Cluster:
    """What both kinds of clusters share: asking the nodes. `addresses` tells where a node's name is listened for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ids: dict[int, int] = {}
        self.running: set[int] = set()

    def name(self, index: int) -> str:
        return f"controller-{index}-{self.ids[index]}"

    def index_of(self, name: str) -> int:
        return int(name.split("-")[1])

    def directory(self, index: int) -> Path:
        return self.folder / f"node-{index}"

    async def streams(self, index: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        raise NotImplementedError

    @contextlib.asynccontextmanager
    async def connect(self, index: int, seconds: float = 5) -> AsyncIterator[Connection]:
        reader, writer = await self.streams(index)
        async with await Connection.open(reader, writer, deadline_seconds=seconds) as connection:
            yield connection

    async def leader(self) -> int | None:
        """Return the index of the node that says of itself that it leads."""
        for index in sorted(self.running):
            with contextlib.suppress(errors.DbAccessorError, OSError):
                async with self.connect(index, 1) as connection:
                    found = await connection.leader()
                    if found and found[0] == self.ids[index]:
                        return index
        return None

    async def wait_for_leader(self, other_than: int | None = None) -> int:
        async def ask() -> int | None:
            found = await self.leader()
            return None if found is None or found == other_than else found + 1

        return await until(ask, "a leader") - 1

    async def members(self) -> tuple[Member, ...]:
        async with self.connect(await self.wait_for_leader()) as connection:
            return await connection.cluster()

    async def roles(self) -> list[Role]:
        return sorted(member.role for member in await self.members())

    async def wait_for_roles(self, voters: int, standbys: int, spares: int = 0) -> None:
        want = [Role.VOTER] * voters + [Role.STANDBY] * standbys + [Role.SPARE] * spares

        async def ask() -> bool:
            return await self.roles() == want

        await until(ask, f"{voters} voters, {standbys} stand-bys and {spares} spares")

    async def join(self, index: int) -> None:
        """Add a node that runs already to the cluster, as a spare."""

        async def ask() -> bool:
            async with self.connect(await self.wait_for_leader()) as connection:
                try:
                    await connection.add(self.ids[index], self.name(index))
                except errors.Refused as error:
                    return "already in use" in str(error)
                return True

        await until(ask, f"{self.name(index)} being added")

    async def to_leader(self, *, deadline: float) -> Connection:
        """The connector that Database wants: a fresh connection to the leader."""
        while asyncio.get_running_loop().time() < deadline:
            index = await self.leader()
            if index is not None:
                with contextlib.suppress(OSError):
                    return await self.to_member(self.name(index), deadline=deadline)
            await asyncio.sleep(0.005)
        raise errors.NotReady("no node of the test's cluster leads")

    async def leader_name(self, *, deadline: float) -> str:
        index = await self.leader()
        return "" if index is None else self.name(index)

    @property
    def identity(self) -> object:
        return None

    @property
    def own_name(self) -> str:
        return ""

    async def to_member(self, name: str, *, deadline: float) -> Connection:
        streams = await self.streams(self.index_of(name))
        return await Connection.open(*streams, deadline_seconds=5, name=name)

    async def to_terms(self, name: str, *, deadline: float) -> Link[Word]:
        raise errors.NotReady("nobody listens in front of these nodes")


class InProcess(Cluster):
    """Nodes in this process, on abstract sockets. `cut` holds names that nobody can connect to."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._prefix = f"test-{os.getpid()}-{next(_NUMBERS)}"
        self.nodes: dict[int, node.Node] = {}
        self.cut: set[str] = set()
        self.dialled: list[str] = []

    def socket_name(self, index: int) -> str:
        return f"{self._prefix}-{self.ids[index]}"

    def dial(self, name: str) -> int:
        self.dialled.append(name)
        if name in self.cut:
            raise ConnectionRefusedError(f"{name} is cut off")
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            stream.connect("\0" + self.socket_name(self.index_of(name)))
        except OSError:
            stream.close()
            raise
        return stream.detach()

    def make(self, index: int, **options: Any) -> node.Node:
        """Describe a node, with a new id unless it has one; it is not started."""
        self.ids.setdefault(index, node.new_id())
        self.directory(index).mkdir(exist_ok=True)
        return node.Node(
            self.ids[index],
            self.name(index),
            self.directory(index),
            bind_address="@" + self.socket_name(index),
            **{"connect": self.dial, "latency_ms": LATENCY_MS, **options},
        )

    def start(self, index: int, **options: Any) -> node.Node:
        self.nodes[index] = self.make(index, **options)
        self.nodes[index].start()
        self.running.add(index)
        return self.nodes[index]

    def found(self, index: int = 0, **options: Any) -> node.Node:
        """Bootstrap a cluster of one and start it."""
        self.ids.setdefault(index, node.new_id())
        self.directory(index).mkdir(exist_ok=True)
        node.bootstrap(self.directory(index), self.ids[index], self.name(index))
        return self.start(index, **options)

    async def grow(self, count: int, **options: Any) -> None:
        """Found a cluster and let it grow to this many nodes."""
        await asyncio.to_thread(self.found, 0, **options)
        for index in range(1, count):
            await asyncio.to_thread(self.start, index, **options)
            await self.join(index)

    def stop(self, index: int) -> None:
        self.running.discard(index)
        self.nodes[index].stop()

    async def streams(self, index: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection("\0" + self.socket_name(index))

    def close(self) -> None:
        for index in sorted(self.nodes, reverse=True):
            self.stop(index)


class Processes(Cluster):
    """Each node in a process of its own on a loopback port: can be killed, frozen and thawed.

    `latency_ms` holds for the nodes that are started from then on.
    """

    def __init__(self, folder: Path, count: int, *, guarded: bool = True) -> None:
        super().__init__(folder)
        self.guarded = guarded
        self.ids = {index: node.new_id() for index in range(count)}
        self.ports = dict(enumerate(_free_ports(count)))
        self.children: dict[int, subprocess.Popen[str]] = {}
        self.latency_ms = LATENCY_MS

    def from_outside(self) -> Processes:
        """Return a way to the same nodes for somebody else, who starts and kills nothing."""
        return Processes.elsewhere(self.ids, self.ports)

    @classmethod
    def elsewhere(cls, ids: Mapping[int, int], ports: Mapping[int, int]) -> Processes:
        """Return a way to nodes that another process started."""
        nodes = cls(Path("/nonexistent"), 0)
        nodes.ids, nodes.ports, nodes.running = dict(ids), dict(ports), set(ids)
        return nodes

    def start(self, index: int) -> None:
        self.directory(index).mkdir(exist_ok=True)
        described = {
            "id": self.ids[index],
            "name": self.name(index),
            "directory": str(self.directory(index)),
            "ports": {self.name(i): self.ports[i] for i in self.ids},
            "latency_ms": self.latency_ms,
            "guarded": self.guarded,
        }
        self.children[index] = subprocess.Popen(
            [sys.executable, __file__, json.dumps(described)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        assert self._answer(index) == "ready"
        self.running.add(index)

    async def grow(self) -> None:
        """Found a cluster and let all nodes join it."""
        self.directory(0).mkdir(exist_ok=True)
        node.bootstrap(self.directory(0), self.ids[0], self.name(0))
        self.start(0)
        for index in range(1, len(self.ids)):
            self.start(index)
            await self.join(index)

    def command(self, index: int, word: str) -> str:
        """Send one word and return the answer: "handover" -> "True" or "False", "stop" -> "stopped"."""
        stdin = self.children[index].stdin
        assert stdin is not None
        stdin.write(word + "\n")
        stdin.flush()
        return self._answer(index)

    def _answer(self, index: int) -> str:
        stdout = self.children[index].stdout
        assert stdout is not None
        readable, _, _ = select.select([stdout], [], [], DEADLINE_SECONDS)
        assert readable, f"node {index} does not answer"
        return stdout.readline().strip()

    def signal(self, index: int, number: signal.Signals) -> None:
        self.children[index].send_signal(number)

    def freeze(self, index: int) -> None:
        """SIGSTOP, and wait until every thread has stopped: from then on it acknowledges nothing."""
        freezing.freeze(self.children[index])

    def thaw(self, index: int) -> None:
        self.signal(index, signal.SIGCONT)

    def kill(self, index: int) -> None:
        """SIGKILL, and wait until it is gone."""
        self.running.discard(index)
        child = self.children.pop(index)
        child.kill()
        child.wait(DEADLINE_SECONDS)
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    async def streams(self, index: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.ports[index])

    def close(self) -> None:
        for index in list(self.children):
            self.kill(index)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for stream in sockets:
            stream.bind(("127.0.0.1", 0))
        return [stream.getsockname()[1] for stream in sockets]


def _run_child(described: dict[str, Any]) -> None:
    ports = described["ports"]
    if not described["guarded"]:
        shmorder.install = lambda *_: False

    def dial(name: str) -> int:
        stream = socket.create_connection(("127.0.0.1", ports[name]), timeout=1)
        stream.settimeout(None)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return stream.detach()

    child = node.Node(
        described["id"],
        described["name"],
        Path(described["directory"]),
        bind_address=f"127.0.0.1:{ports[described['name']]}",
        connect=dial,
        latency_ms=described["latency_ms"],
    )
    child.start()
    print("ready", flush=True)
    for word in _words():
        if word == "handover":
            print(child.handover(), flush=True)
        elif word == "stop":
            child.stop()
            print("stopped", flush=True)
            return
    # The parent is gone. Nothing here is worth an orderly stop.
    os._exit(0)


def _words() -> Iterator[str]:
    for line in sys.stdin:
        yield line.strip()


if __name__ == "__main__":
    _run_child(json.loads(sys.argv[1]))

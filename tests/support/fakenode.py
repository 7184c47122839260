"""A fake Dqlite node for tests of the client: speaks the wire protocol on socket pairs, and does what it is told.

It keeps no database. Each test gives it a script: a function from a request to what is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from dbaccessor import errors
from dbaccessor.dqlite.connection import Connection
from dbaccessor.terms import Word


@dataclass(frozen=True)
class Asked:
    """One request as it arrived: its type, and its text where it has one (a statement, a name)."""

    type: int
    text: str


# What a script may answer besides bytes.
END = object()  # Close the connection.
SILENCE = object()  # Answer nothing, and keep the connection.


@dataclass(frozen=True)
class Cut:
    """Send these bytes, and close the connection."""

    data: bytes


Script = Callable[[Asked], object]


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("<IBBH", len(body) // 8, kind, 0, 0) + body


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


def text(value: str) -> bytes:
    data = value.encode()
    return data + bytes(8 - len(data) % 8)


def failure(code: int, said: str = "as told") -> bytes:
    return message(0, words(code) + text(said))


def result(last_insert_id: int = 0, rows_affected: int = 0) -> bytes:
    return message(6, words(last_insert_id, rows_affected))


def rows(*values: int, done: bool = True) -> bytes:
    """One column of integers."""
    body = words(1) + text("n") + b"".join(words(1, value) for value in values)
    return message(7, body + (b"\xff" if done else b"\xee") * 8)


DATABASE = message(4, words(0))
EMPTY = message(8, words(0))


def members(*named: tuple[int, str, int]) -> bytes:
    """Members as (id, name, role), role 0 being a voter."""
    return message(3, words(len(named)) + b"".join(words(i) + text(name) + words(role) for i, name, role in named))


def leader(dqlite_id: int = 7, name: str = "controller-0-7") -> bytes:
    return message(1, words(dqlite_id) + text(name))


def obliging(asked: Asked) -> object:
    """Answer everything as a healthy leader would that is the only voter and has nothing to tell."""
    return {3: DATABASE, 8: result(), 9: rows(1), 0: leader(), 16: members((7, "controller-0-7", 0))}.get(
        asked.type, EMPTY
    )


class FakeNode:
    """`asked` is all it was asked, on any connection. `script` may be replaced at any time.

    As the connector that Database wants, it is the leader; `others` are the fake nodes of other members by name. `word`
    is what it tells of its terms, or SILENCE or END; None: it knows no such question. `terms_asked`: how often it was
    asked; `asked_who_leads`: how often the connector was.
    """

    name = "controller-0-7"

    def __init__(self, script: Script = obliging) -> None:
        self.identity: object = "epoch 1"
        self.own_name = ""
        self.others: dict[str, FakeNode] = {}
        self.script = script
        self.word: Callable[[], object] | None = None
        self.terms_asked = self.asked_who_leads = 0
        self.asked: list[Asked] = []
        self.connections: list[Connection] = []
        self.ended = 0
        self._serving: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self._unserved: set[socket.socket] = set()

    @property
    def statements(self) -> list[str]:
        return [asked.text for asked in self.asked if asked.type in (8, 9)]

    async def connect(self, deadline_seconds: float = 5) -> Connection:
        near, far = socket.socketpair()
        self._unserved.add(far)
        task = asyncio.create_task(self._serve(far))
        self._serving.add(task)
        reader, writer = await asyncio.open_unix_connection(sock=near)
        self.connections.append(
            await Connection.open(
                reader, writer, deadline_seconds=deadline_seconds, name=self.name, dialled_as=self.identity
            )
        )
        return self.connections[-1]

    async def to_leader(self, *, deadline: float) -> Connection:
        """The connector that Database wants."""
        if asyncio.get_running_loop().time() >= deadline:
            raise errors.NotReady("too late for the fake node")
        return await self.connect()

    async def leader_name(self, *, deadline: float) -> str:
        self.asked_who_leads += 1
        return self.name

    async def to_member(self, name: str, *, deadline: float) -> Connection:
        if name not in self.others:
            raise errors.NotReady(f"no fake node is {name}")
        return await self.others[name].connect()

    async def to_terms(self, name: str, *, deadline: float) -> FakeTerms:
        if name not in self.others or self.others[name].word is None:
            raise errors.NotReady(f"{name} tells no terms")
        return FakeTerms(self.others[name])

    async def close(self) -> None:
        for connection in self.connections:
            connection.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        for far in self._unserved:
            far.close()
        for writer in self._writers:
            # Not close(): nobody may be left to take what is still to be sent. One that was closed with something to
            # send, and has sent it by now, has no loop any more; Python 3.11's abort does not expect that.
            with contextlib.suppress(AttributeError):
                writer.transport.abort()

    async def __aenter__(self) -> FakeNode:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _serve(self, far: socket.socket) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=far)
        self._unserved.discard(far)
        self._writers.append(writer)
        try:
            assert await reader.readexactly(8) == words(1)
            while True:
                count, kind, _schema, _extra = struct.unpack("<IBBH", await reader.readexactly(8))
                body = await reader.readexactly(8 * count)
                asked = Asked(kind, _text_of(kind, body))
                self.asked.append(asked)
                answer = self.script(asked)
                if answer is END:
                    return
                if isinstance(answer, Cut):
                    writer.write(answer.data)
                    return
                if answer is not SILENCE:
                    assert isinstance(answer, bytes)
                    writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.ended += 1
            writer.close()


class FakeTerms:
    """The link that asks a fake node for its terms."""

    def __init__(self, node: FakeNode) -> None:
        self.closed = False
        self._node = node

    def ask(self, told: Callable[[Word | None], None], *, deadline_seconds: float) -> bool:
        if self.closed:
            return False
        self._node.terms_asked += 1
        word = self._node.word() if self._node.word is not None else END
        if isinstance(word, Word):
            asyncio.get_running_loop().call_soon(told, word)
        else:
            asyncio.get_running_loop().call_later(deadline_seconds if word is SILENCE else 0, told, None)
            self.closed = True
        return True

    def close(self) -> None:
        self.closed = True


def _text_of(kind: int, body: bytes) -> str:
    start = {3: 0, 8: 8, 9: 8, 12: 8}.get(kind)
    return "" if start is None else body[start:].split(b"\0", 1)[0].decode()

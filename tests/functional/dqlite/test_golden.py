"""The stored bytes are still what a real node says."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from typing import Any

import pytest

import golden_conversation
from dbaccessor.dqlite import native, wire
from dqlitenodes import InProcess


def test_a_real_node_answers_the_golden_conversation_byte_for_byte(nodes: InProcess):
    nodes.ids[0] = golden_conversation.NODE_ID
    nodes.found()
    asyncio.run(nodes.wait_for_leader())

    steps: list[dict[str, Any]] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(10)
        stream.connect("\0" + nodes.socket_name(0))
        stream.sendall(wire.HELLO)
        for name, request in golden_conversation.STEPS:
            data = golden_conversation.encoded(request)
            stream.sendall(data)
            answer = _whole_answer(stream)
            steps.append({"name": name, "request": data.hex(), "answer": [part.hex() for part in answer]})

    library, sqlite = native.load().version, _sqlite_version(nodes.socket_name(0))
    file = golden_conversation.file(library)
    if os.environ.get("HA_CONTROLLER_WRITE_GOLDEN"):
        stored = {"hello": wire.HELLO.hex(), "library": library, "sqlite": sqlite, "steps": steps}
        file.write_text(json.dumps(stored, indent=1) + "\n")
    if not file.exists():
        pytest.skip(f"there are no golden bytes of {library}")
    golden = json.loads(file.read_text())
    if golden["sqlite"] != sqlite:
        # A database's first page names the version of SQLite that wrote it, and messages change their words.
        pytest.skip(f"the golden bytes are of SQLite {golden['sqlite']}, this is {sqlite}")
    assert _comparable(steps) == _comparable(golden["steps"])


def _comparable(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of a dump only the beginning: SQLite puts random numbers into its log, and some libraries dump that too."""
    return [{**s, "answer": [part[:64] for part in s["answer"]]} if s["name"] == "dump" else s for s in steps]


def _sqlite_version(socket_name: str) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(10)
        stream.connect("\0" + socket_name)
        stream.sendall(wire.HELLO + wire.encode(wire.Request(wire.RequestType.OPEN, ("golden", 0, ""))))
        _whole_answer(stream)
        stream.sendall(wire.encode(wire.Request(wire.RequestType.QUERY_SQL, (0, "SELECT sqlite_version()"))))
        decoder = wire.Decoder()
        decoder.feed(b"".join(_whole_answer(stream)))
        answer = decoder.next()
        assert isinstance(answer, wire.RowsPart)
        return str(answer.rows[0][0])


def _whole_answer(stream: socket.socket) -> list[bytes]:
    """Read messages by their headers alone, so that this test does not trust the decoder it checks."""
    messages: list[bytes] = []
    while True:
        header = _exactly(stream, 8)
        body = _exactly(stream, 8 * int.from_bytes(header[:4], "little"))
        messages.append(header + body)
        if header[4] != 7 or body[-8:] == b"\xff" * 8:
            return messages


def _exactly(stream: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = stream.recv(size - len(data))
        assert part, "the node closed the connection"
        data += part
    return data

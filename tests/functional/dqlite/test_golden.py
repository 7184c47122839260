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
            data = wire.encode(request)
            stream.sendall(data)
            answer = _whole_answer(stream)
            steps.append({"name": name, "request": data.hex(), "answer": [part.hex() for part in answer]})

    stored = {"hello": wire.HELLO.hex(), "library": native.load().version, "steps": steps}
    if os.environ.get("HA_CONTROLLER_WRITE_GOLDEN"):
        golden_conversation.FILE.write_text(json.dumps(stored, indent=1) + "\n")
    golden = json.loads(golden_conversation.FILE.read_text())
    if golden["library"] != stored["library"]:
        pytest.skip(f"the golden bytes are of {golden['library']}, this is {stored['library']}")
    assert steps == golden["steps"]


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

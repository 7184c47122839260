"""The other end of toolclient's messages, for the unit's agent and for its supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

_MOST_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Call:
    """One command as typed: its name, its arguments, and what it was given."""

    context: str
    folder: str
    stdin: bytes
    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    code: int = 0
    out: str = ""
    err: str = ""


Handler = Callable[[Call], Coroutine[None, None, Answer]]


def decode(message: bytes) -> Call:
    """Raises ValueError for anything but a whole message."""
    fields: list[bytes] = []
    while message:
        size = int.from_bytes(message[:4], "big")
        if len(message) < 4 + size:
            raise ValueError("a field is cut short")
        fields.append(message[4 : 4 + size])
        message = message[4 + size :]
    if len(fields) < 4:
        raise ValueError("too few fields")
    text = [f.decode("utf-8", "surrogateescape") for f in fields]
    return Call(text[0], text[1], fields[2], text[3], tuple(text[4:]))


def encode(answer: Answer) -> bytes:
    parts = [str(answer.code), answer.out, answer.err]
    raw = [p.encode("utf-8", "surrogateescape") for p in parts]
    return b"".join(len(r).to_bytes(4, "big") + r for r in raw)


async def serve(server: socket.socket, handler: Handler) -> asyncio.Server:
    """Answer each connection's one call. A caller that goes away early cancels its call."""

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(10):
                size = int.from_bytes(await reader.readexactly(4), "big")
            if size > _MOST_BYTES:
                raise ValueError("too long")
            async with asyncio.timeout(10):
                call = decode(await reader.readexactly(size))
            answer = await _unless_gone(reader, handler(call))
            if answer is not None:
                writer.write(encode(answer))
                async with asyncio.timeout(10):
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            pass  # Nobody is there to be told.
        except ValueError as error:
            writer.write(encode(Answer(1, "", f"ERROR bad message: {error}\n")))
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, OSError):
                await writer.wait_closed()

    return await asyncio.start_unix_server(converse, sock=server)


async def _unless_gone(reader: asyncio.StreamReader, work: Coroutine[None, None, Answer]) -> Answer | None:
    """The answer, or None (and the work cancelled) when the caller hangs up first: it sends nothing after its call."""
    doing = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(reader.read(1))
    try:
        await asyncio.wait({doing, gone}, return_when=asyncio.FIRST_COMPLETED)
        return doing.result() if doing.done() else None
    finally:
        for task in (doing, gone):
            task.cancel()
        await asyncio.wait({doing, gone})

"""A database's file as one node has it, read part by part: it may be larger than what this side wants to hold."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from dbaccessor.dqlite import wire
from dbaccessor.dqlite.channel import Channel, encode
from dbaccessor.dqlite.wire import RequestType

_CHUNK = 64 * 1024
_LONGEST_NAME = 4096


async def read(
    channel: Channel,
    name: str,
    begin: Callable[[int, int], Awaitable[None]],
    write: Callable[[bytes], Awaitable[None]],
    seconds: float,
) -> None:
    """Hand the file of database `name`, as it is after its last applied transaction, to `write`, part by part.

    `begin` gets its size first, and that of the write-ahead log which follows it: 0, but from a node of 1.18.1,
    whose file is not whole without. A node holds both in memory while it answers; this side does not. The deadline
    counts what `write` takes as well.
    """
    request = encode(wire.Request(RequestType.DUMP, (name,)))
    async with channel.conversation(False, seconds), asyncio.timeout(seconds):
        channel.send(request)
        channel.querying = True
        left = await _header(channel) - 8
        count = await _word(channel)
        sizes: list[int] = []
        for number in range(count):
            file = await _text(channel)
            size = await _word(channel)
            left -= 8 + len(file.encode()) // 8 * 8 + 8 + size
            if left < 0 or number > 1 or (number == 1 and size != sizes[1]):
                raise wire.ProtocolError(f"{file} of {size} bytes is more than a dump can have")
            if number == 0:
                # Of the log, nothing is before it but its name and its size.
                sizes = [size, max(0, left - (8 + len(f"{file}-wal".encode()) // 8 * 8 + 8)) if count > 1 else 0]
                await begin(*sizes)
            while size:
                chunk = await channel.take(min(size, _CHUNK))
                size -= len(chunk)
                await write(chunk)
        channel.querying = False


async def _header(channel: Channel) -> int:
    """Read up to a dump's files and return how many bytes they take; raise what the node answers instead."""
    header = await channel.take(wire.HEADER.size)
    words, kind, _schema, _extra = wire.HEADER.unpack(header)
    if kind == wire.FILES_TYPE:
        return int(words) * 8
    channel.querying = False
    channel.put_back(header)
    channel.expect(await channel.receive(), wire.Empty, changes=False)
    raise wire.ProtocolError(f"an answer of type {kind} came instead of a dump")


async def _word(channel: Channel) -> int:
    return int.from_bytes(await channel.take(8), "little")


async def _text(channel: Channel) -> str:
    data = b""
    while b"\0" not in data:
        if len(data) > _LONGEST_NAME:
            raise wire.ProtocolError("the name of a file in a dump does not end")
        data += await channel.take(8)
    return data.split(b"\0", 1)[0].decode("utf-8", "replace")

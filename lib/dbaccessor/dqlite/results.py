"""What a statement brings: what it changed, or rows, which come in parts of a page each."""

from __future__ import annotations

from dataclasses import dataclass

from dbaccessor import errors
from dbaccessor.dqlite import wire
from dbaccessor.dqlite.channel import Channel
from dbaccessor.dqlite.wire import Value

# All rows of an answer are held until the last has come, so there has to be an end to them.
MAX_RESULT_BYTES = 64 << 20

# What a node of 1.18.1 says, as an error, when a statement that has no columns was carried out.
_NO_COLUMNS = "not an error"


@dataclass(frozen=True)
class Result:
    last_insert_id: int
    rows_affected: int


@dataclass(frozen=True)
class Rows:
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]


async def read_rows(channel: Channel) -> Rows:
    """Return the rows that are asked for in the conversation that goes on, when all have come. Raises Refused too."""
    channel.querying = True
    rows: list[tuple[Value, ...]] = []
    while True:
        answer = await channel.receive()
        if isinstance(answer, wire.Failure) and answer.message == _NO_COLUMNS:
            channel.querying = False
            return Rows((), ())
        channel.querying = isinstance(answer, wire.RowsPart) and not answer.done
        part = channel.expect(answer, wire.RowsPart, changes=False)
        rows += part.rows
        if part.done:
            return Rows(part.columns, tuple(rows))
        if not part.rows:
            # A node that cannot fit the names of the columns into a page sends them again and again,
            # for ever: here waiting for the end would not end.
            channel.querying = False
            channel.close()
            raise errors.Refused("the names of the columns are too long: together they must fit 4 KiB")
        if channel.received > MAX_RESULT_BYTES:
            channel.close()
            raise errors.Refused(f"the result is larger than {MAX_RESULT_BYTES} bytes; ask for less at a time")

"""One conversation with one node, over any pair of asyncio streams.

One request at a time, each with its own deadline. Whatever makes the state of the conversation doubtful (a
deadline, an end, nonsense, a cancelled caller) closes the connection: it is never used again, and what the
caller learns is NotReady where the request could not have changed anything, Indefinite where it could.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

from dbaccessor import errors, statements
from dbaccessor.dqlite import farewell, wire
from dbaccessor.dqlite.wire import Member, Parameters, RequestType, Role, Value

__all__ = ["Connection", "Member", "Result", "Role", "Rows", "Value"]

# All rows of an answer are held until the last has come, so there has to be an end to them.
MAX_RESULT_BYTES = 64 << 20

_CHUNK = 64 * 1024
_LONGEST_NAME = 4096
# What the engine says when a row-returning write came through Exec. The write lock stays behind on that connection.
_ROWS_YIELDED = "rows yielded"

# "" and ":memory:" are SQLite's names for databases that are no files; opening one kills the node.
_DATABASE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

_MEMBERS = wire.Request(RequestType.CLUSTER, (1,))

# An answer usually takes a millisecond. After this long it is worth asking whether that node leads still.
SLOW_SECONDS = 1.0

_R = TypeVar("_R", bound=wire.Response)


@dataclass(frozen=True)
class Result:
    last_insert_id: int
    rows_affected: int


@dataclass(frozen=True)
class Rows:
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]


class Connection:
    """Made by `open`. `usable` turns False once and for all; `close` may be called at any time, and again.

    `name` is the raft name of the node at the other end, "" where whoever dialled did not say; `dialled_as` is who
    the dialler was then (its cluster and epoch), opaque here. `on_slow` is called when an answer takes SLOW_SECONDS.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        deadline_seconds: float,
        name: str = "",
        dialled_as: object = None,
    ) -> None:
        self.name = name
        self.dialled_as = dialled_as
        self.on_slow: Callable[[Connection], None] | None = None
        self._reader = reader
        self._writer = writer
        self._deadline_seconds = deadline_seconds
        self._decoder = wire.Decoder()
        self._lock = asyncio.Lock()
        self._closed = False
        self._received = 0
        self._querying = False

    @classmethod
    async def open(
        cls,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        deadline_seconds: float,
        name: str = "",
        dialled_as: object = None,
    ) -> Connection:
        """Greet the node. `deadline_seconds` is what each request gets unless it says otherwise."""
        connection = cls(reader, writer, deadline_seconds=deadline_seconds, name=name, dialled_as=dialled_as)
        # The greeting is not answered: whether there is a node behind the streams shows with the first request.
        writer.write(wire.HELLO)
        return connection

    @property
    def usable(self) -> bool:
        return not self._closed

    @property
    def waiting(self) -> bool:
        """Whether an answer is awaited."""
        return self._lock.locked() and not self._closed

    def close(self) -> None:
        """End the conversation; it returns at once. The node rolls an open transaction back."""
        if self._closed:
            return
        self._closed = True
        if self._querying:
            farewell.leave(self._writer)
        else:
            # Not close(): that one waits for unsent bytes, for ever if the other side is frozen.
            self._writer.transport.abort()

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def leader(self, *, deadline_seconds: float | None = None) -> tuple[int, str] | None:
        """Return the leader's id and name as this node sees it; None if it sees none. Only a voter ever sees one."""
        answer = await self._ask(RequestType.LEADER, (0,), wire.Server, deadline_seconds)
        return (answer.dqlite_id, answer.name) if answer.dqlite_id and answer.name else None

    async def cluster(self, *, deadline_seconds: float | None = None) -> tuple[Member, ...]:
        """Return the members as this node's log has them. A node that is no leader may be behind."""
        answer = await self._ask(RequestType.CLUSTER, (1,), wire.Members, deadline_seconds)
        return answer.members

    async def add(self, dqlite_id: int, name: str, *, deadline_seconds: float | None = None) -> None:
        """Make a node a member, as a spare. Only the leader can."""
        await self._ask(RequestType.ADD, (dqlite_id, name), wire.Empty, deadline_seconds, changes=True)

    async def assign(self, dqlite_id: int, role: Role, *, deadline_seconds: float | None = None) -> None:
        """Give a member another role. Only the leader can; roles are its own business, and this may confuse it."""
        await self._ask(RequestType.ASSIGN, (dqlite_id, int(role)), wire.Empty, deadline_seconds, changes=True)

    async def remove(self, dqlite_id: int, *, deadline_seconds: float | None = None) -> None:
        """Remove a member, whatever its role. Only the leader can; it may remove itself."""
        await self._ask(RequestType.REMOVE, (dqlite_id,), wire.Empty, deadline_seconds, changes=True)

    async def transfer(self, dqlite_id: int, *, deadline_seconds: float | None = None) -> None:
        """Hand leadership over to another voter. Only the leader can."""
        await self._ask(RequestType.TRANSFER, (dqlite_id,), wire.Empty, deadline_seconds, changes=True)

    async def open_database(self, name: str, *, deadline_seconds: float | None = None) -> None:
        """Open the only database that this connection will ever have. Only the leader can; it creates a missing one."""
        if not _DATABASE_NAME.fullmatch(name):
            raise errors.Refused(f"{name!r} is no name for a database: letters, digits, '.', '_' and '-', up to 128")
        await self._ask(RequestType.OPEN, (name, 0, ""), wire.Database, deadline_seconds)

    async def execute(self, sql: str, params: Parameters = (), *, deadline_seconds: float | None = None) -> Result:
        """Run one statement that yields no rows. Raises Refused, before anything is sent, for any other."""
        statement = statements.check(sql, params)
        if statement.kind is statements.Kind.READ:
            raise errors.Refused(f"{statement.verb} yields rows: it goes through query, not execute")
        answer = await self._ask(
            RequestType.EXEC_SQL, (0, sql), wire.Result, deadline_seconds, parameters=params, changes=True
        )
        return Result(answer.last_insert_id, answer.rows_affected)

    async def replay(self, sql: str, params: Parameters = (), *, deadline_seconds: float | None = None) -> None:
        """Run one statement of an archive, unchecked. Only for a node of which this is the only client (restore)."""
        await self._ask(RequestType.EXEC_SQL, (0, sql), wire.Result, deadline_seconds, parameters=params, changes=True)

    async def query(self, sql: str, params: Parameters = (), *, deadline_seconds: float | None = None) -> Rows:
        """Run one statement that only reads. Rows are returned when all have come, and confirmed to be all."""
        request = _query_request(sql, params)
        async with self._conversation(False, deadline_seconds):
            self._send(request)
            return await self._rows()

    async def query_and_members(
        self, sql: str, params: Parameters = (), *, deadline_seconds: float | None = None
    ) -> tuple[Rows, tuple[Member, ...]]:
        """As `query`, and the members as `cluster` tells them *after* the rows were read, in one round trip."""
        request = _query_request(sql, params)
        async with self._conversation(False, deadline_seconds):
            # The node reads the second request when it has answered the first.
            self._send(request, _MEMBERS)
            try:
                rows = await self._rows()
            except errors.DbAccessorError:
                if self.usable:
                    await self._receive()
                raise
            return rows, self._expect(await self._receive(), wire.Members, changes=False).members

    async def group(
        self, write: str, ask: str, argument: str, *, deadline_seconds: float | None = None
    ) -> tuple[Result, Rows]:
        """BEGIN IMMEDIATE, `write`, `ask`, COMMIT in one send; both statements get `argument` as their parameter.

        A BEGIN that fails must keep `write` from running on its own, so the two are one request, which stops at its
        first error; `ask` and COMMIT then find nothing to do. Raises NotReady, NotLeader or Refused when nothing was
        done, Indefinite when it may have been.
        """
        requests = (
            wire.Request(RequestType.EXEC_SQL, (0, f"BEGIN IMMEDIATE; {write}"), (argument,)),
            wire.Request(RequestType.QUERY_SQL, (0, ask), (argument,)),
            wire.Request(RequestType.EXEC_SQL, (0, "COMMIT")),
        )
        async with self._conversation(True, deadline_seconds):
            self._send(*requests)
            written = await self._receive()
            rows: Rows | errors.DbAccessorError
            try:
                rows = await self._rows()
            except errors.DbAccessorError as error:
                rows = error
                if not self.usable:
                    raise errors.Indefinite(f"the batch may have been committed: {error}", code=error.code) from error
            ended = await self._receive()
            if isinstance(ended, wire.Failure) and not (
                isinstance(written, wire.Failure) and ended.code == errors.ERROR
            ):
                # The transaction is open still, as when a checkpoint was in progress. (Where BEGIN failed there is
                # none to end, and that is an error as well.)
                self.close()
            if isinstance(written, wire.Failure):
                self._expect(written, wire.Result, changes=True)
            self._expect(ended, wire.Result, changes=True)
            if isinstance(rows, errors.DbAccessorError):
                raise errors.Indefinite(f"the batch was committed, and not what came of it told: {rows}") from rows
            result = self._expect(written, wire.Result, changes=True)
            return Result(result.last_insert_id, result.rows_affected), rows

    async def _rows(self) -> Rows:
        self._querying = True
        rows: list[tuple[Value, ...]] = []
        while True:
            answer = await self._receive()
            self._querying = isinstance(answer, wire.RowsPart) and not answer.done
            part = self._expect(answer, wire.RowsPart, changes=False)
            rows += part.rows
            if part.done:
                return Rows(part.columns, tuple(rows))
            if not part.rows:
                # A node that cannot fit the names of the columns into a page sends them again and again,
                # for ever: here waiting for the end would not end.
                self._querying = False
                self.close()
                raise errors.Refused("the names of the columns are too long: together they must fit 4 KiB")
            if self._received > MAX_RESULT_BYTES:
                self.close()
                raise errors.Refused(f"the result is larger than {MAX_RESULT_BYTES} bytes; ask for less at a time")

    async def dump(
        self,
        name: str,
        begin: Callable[[int], Awaitable[None]],
        write: Callable[[bytes], Awaitable[None]],
        *,
        deadline_seconds: float | None = None,
    ) -> None:
        """Hand the file of database `name`, as it is after its last applied transaction, to `write`, part by part.

        `begin` gets its size first. A node holds the whole file in memory while it answers; this side does not.
        """
        request = wire.Request(RequestType.DUMP, (name,))
        async with self._conversation(False, deadline_seconds):
            self._send(request)
            self._querying = True
            left = await self._dump_header()
            count = await self._word()
            for number in range(count):
                file = await self._text()
                size = await self._word()
                if size > left or (number > 0 and size):
                    raise wire.ProtocolError(f"{file} of {size} bytes is more than a dump can have")
                if number == 0:
                    await begin(size)
                    while size:
                        chunk = await self._reader.readexactly(min(size, _CHUNK))
                        size -= len(chunk)
                        await write(chunk)
            self._querying = False

    async def _dump_header(self) -> int:
        """Read up to a dump's files and return how many bytes they take; raise what the node answers instead."""
        header = await self._reader.readexactly(wire.HEADER.size)
        words, kind, _schema, _extra = wire.HEADER.unpack(header)
        if kind == wire.FILES_TYPE:
            return int(words) * 8
        self._querying = False
        self._decoder.feed(header)
        self._expect(await self._receive(), wire.Empty, changes=False)
        raise wire.ProtocolError(f"an answer of type {kind} came instead of a dump")

    async def _word(self) -> int:
        return int.from_bytes(await self._reader.readexactly(8), "little")

    async def _text(self) -> str:
        data = b""
        while b"\0" not in data:
            if len(data) > _LONGEST_NAME:
                raise wire.ProtocolError("the name of a file in a dump does not end")
            data += await self._reader.readexactly(8)
        return data.split(b"\0", 1)[0].decode("utf-8", "replace")

    async def _ask(
        self,
        kind: RequestType,
        fields: tuple[int | str, ...],
        expected: type[_R],
        deadline_seconds: float | None,
        *,
        parameters: Parameters = (),
        changes: bool = False,
    ) -> _R:
        request = wire.Request(kind, fields, parameters)
        async with self._conversation(changes, deadline_seconds):
            self._send(request)
            return self._expect(await self._receive(), expected, changes=changes)

    def _conversation(self, changes: bool, deadline_seconds: float | None) -> _Conversation:
        seconds = self._deadline_seconds if deadline_seconds is None else deadline_seconds
        return _Conversation(self, self._lock, changes, seconds)

    def _send(self, *requests: wire.Request) -> None:
        try:
            data = b"".join(wire.encode(request) for request in requests)
        except wire.ProtocolError as error:
            raise errors.Refused(str(error)) from error
        self._received = 0
        self._writer.write(data)

    async def _receive(self) -> wire.Response:
        while (response := self._decoder.next()) is None:
            data = await self._reader.read(_CHUNK)
            if not data:
                raise EOFError("the node ended the connection")
            self._received += len(data)
            self._decoder.feed(data)
        return response

    def _expect(self, response: wire.Response, expected: type[_R], *, changes: bool) -> _R:
        if isinstance(response, expected):
            return response
        if not isinstance(response, wire.Failure):
            raise wire.ProtocolError(f"{type(response).__name__} came instead of {expected.__name__}")
        error = errors.from_failure(response.code, response.message, changes=changes)
        if errors.spoils_connection(response.code) or _ROWS_YIELDED in response.message:
            self.close()
        raise error


def _query_request(sql: str, params: Parameters) -> wire.Request:
    statement = statements.check(sql, params)
    if statement.kind is not statements.Kind.READ:
        raise errors.Refused(f"{statement.verb} yields no rows: it goes through execute, not query")
    return wire.Request(RequestType.QUERY_SQL, (0, sql), params)


class _Conversation:
    """The time from a request to its whole answer: alone on the connection, within a deadline.

    The connection is closed if that ends in any other way than by an answer that the protocol foresees.
    """

    def __init__(self, connection: Connection, lock: asyncio.Lock, changes: bool, seconds: float) -> None:
        self._connection = connection
        self._lock = lock
        self._changes = changes
        self._seconds = seconds
        self._timeout = asyncio.timeout(seconds)
        self._slow: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> None:
        # Waiting for the turn counts as well. Nothing has been sent then, so the connection stays as it is.
        await self._timeout.__aenter__()
        try:
            await self._lock.acquire()
        except asyncio.CancelledError as error:
            try:
                await self._timeout.__aexit__(type(error), error, error.__traceback__)
            except TimeoutError:
                raise errors.NotReady(f"the connection was busy for {self._seconds:g} s") from error
            raise
        if not self._connection.usable:
            self._lock.release()
            await self._timeout.__aexit__(None, None, None)
            raise errors.NotReady("the connection is closed")
        if self._connection.on_slow is not None:
            loop = asyncio.get_running_loop()
            self._slow = loop.call_later(SLOW_SECONDS, self._connection.on_slow, self._connection)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()
        if self._slow is not None:
            self._slow.cancel()
        late = False
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            late = True
        if error is None or isinstance(error, errors.DbAccessorError):
            return
        self._connection.close()
        if late:
            ended = f"no answer within {self._seconds:g} s"
        elif isinstance(error, (OSError, EOFError, wire.ProtocolError)):
            ended = str(error) or type(error).__name__
        else:
            return
        raise errors.from_ended(ended, changes=self._changes) from error

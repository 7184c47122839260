"""One conversation with one node, over any pair of asyncio streams, of which it takes the reading over.

One request at a time, each with its own deadline. Whatever makes the state of the conversation doubtful (a
deadline, an end, nonsense, a cancelled caller) closes the connection: it is never used again, and what the
caller learns is NotReady where the request could not have changed anything, Indefinite where it could.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar, cast

from dbaccessor import errors, statements
from dbaccessor.dqlite import farewell, wire
from dbaccessor.dqlite.inbox import Inbox
from dbaccessor.dqlite.wire import Member, Parameters, RequestType, Role, Value

__all__ = ["Connection", "Member", "Result", "Role", "Rows", "Value"]

# All rows of an answer are held until the last has come, so there has to be an end to them.
MAX_RESULT_BYTES = 64 << 20

_CHUNK = 64 * 1024
_LONGEST_NAME = 4096
# What the engine says when a row-returning write came through Exec. The write lock stays behind on that connection.
_ROWS_YIELDED = "rows yielded"

# What a node of 1.18.1 says, as an error, when a statement that has no columns was carried out.
_NO_COLUMNS = "not an error"

# "" and ":memory:" are SQLite's names for databases that are no files; opening one kills the node.
_DATABASE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

_LEADER = wire.encode(wire.Request(RequestType.LEADER, (0,)))
_MEMBERS = wire.encode(wire.Request(RequestType.CLUSTER, (1,)))
# An empty statement: it is carried out only where the database is open still, which a node that steps down closes, and
# costs the node less than any other.
_STILL_LEADS = wire.encode(wire.Request(RequestType.EXEC_SQL, (0, "")))
_BEGIN = wire.encode(wire.Request(RequestType.EXEC_SQL, (0, "BEGIN IMMEDIATE")))
# Statements without parameters up to this length are sent again and again.
_LONGEST_KNOWN = 1000

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
        self._writer = writer
        self._inbox = Inbox(reader, cast(asyncio.Transport, writer.transport))
        self._loop = asyncio.get_running_loop()
        self._deadline_seconds = deadline_seconds
        self._closed = False
        self._querying = False
        self._begins_apart = False
        # Who may ask next, first come first served, while somebody does.
        self._asking = False
        self._turns: deque[asyncio.Future[None]] = deque()
        # The question that is being asked: since when, until when, and whether that is over. One timer watches
        # over all questions, one after another: setting one for each would cost as much as the question.
        self._since = self._until = 0.0
        self._late = False
        self._slow = False
        self._timer: asyncio.TimerHandle | None = None

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
        return self._asking and not self._closed

    def close(self) -> None:
        """End the conversation; it returns at once. The node rolls an open transaction back."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._querying:
            farewell.leave(self._writer)
        else:
            # Not close(): that one waits for unsent bytes, for ever if the other side is frozen. A transport that has
            # closed itself, with something left to send, has no loop any more: Python 3.11's abort stumbles over that.
            with contextlib.suppress(AttributeError):
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

    def ask_leader(self, told: Callable[[str | None], None], *, deadline_seconds: float) -> bool:
        """Ask as `leader` does, without anybody who waits: `told` is called with the name, "" when it sees none.

        It is called once, from the event loop, with None where no answer came; the connection is closed then. False:
        nothing was asked, as the connection is closed or in use.
        """
        if self._asking or self._closed or self._inbox.ended is not None:
            return False
        self._asking = True
        self._watch(self._loop.time() + deadline_seconds)
        self._inbox.on_news = lambda: self._hear_leader(told)
        self._send(_LEADER)
        return True

    def _hear_leader(self, told: Callable[[str | None], None]) -> None:
        name: str | None = None
        try:
            answer = self._inbox.decoder.next()
            if answer is None and self._inbox.ended is None and not self._late:
                return
            if isinstance(answer, wire.Server):
                name = answer.name if answer.dqlite_id else ""
        except wire.ProtocolError:
            pass
        self._inbox.on_news = None
        self._next_turn()
        if name is None:
            self.close()
        told(name)

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

    async def query_as_leader(
        self, sql: str, params: Parameters = (), *, deadline_seconds: float | None = None
    ) -> tuple[Rows | errors.Refused, tuple[Member, ...]]:
        """As `query`, on a node that has led from the opening of the database here until all rows were read.

        With the rows come the members, as `cluster` tells them, from that same time; all in one round trip. A statement
        that the node refuses is an answer as well, and returned. Raises what `still_leads` raises.
        """
        request = _query_request(sql, params)
        said: Rows | errors.Refused
        async with self._conversation(False, deadline_seconds):
            # The node reads each request when it has answered the one before.
            self._send(request + _MEMBERS + _STILL_LEADS)
            try:
                said = await self._rows()
            except errors.DbAccessorError as error:
                if not self.usable:
                    raise
                if not isinstance(error, errors.Refused):
                    await self._receive()
                    await self._receive()
                    raise
                said = error
            members, led = await self._receive(), await self._receive()
            self._expect(led, wire.Result, changes=False)
            return said, self._expect(members, wire.Members, changes=False).members

    async def still_leads(self, *, deadline_seconds: float | None = None) -> None:
        """Return if this node has led without a break since the database was opened here. Raises NotReady, NotLeader.

        It takes only the node's word that it still leads: one that sleeps, or is cut off, does not know better.
        """
        async with self._conversation(False, deadline_seconds):
            self._send(_STILL_LEADS)
            self._expect(await self._receive(), wire.Result, changes=False)

    async def group(
        self, write: str, ask: str, argument: str, *, deadline_seconds: float | None = None
    ) -> tuple[Result, Rows]:
        """BEGIN IMMEDIATE, `write`, `ask`, COMMIT in one send; both statements get `argument` as their parameter.

        A BEGIN that fails must keep `write` from running on its own, so the two are one request, which stops at its
        first error; `ask` and COMMIT then find nothing to do. A node of 1.18.1 binds the parameter to the first
        statement of a request, BEGIN, and refuses: there BEGIN goes ahead by itself, one round trip more. Raises
        NotReady, NotLeader or Refused when nothing was done, Indefinite when it may have been.
        """
        following = (
            wire.Request(RequestType.QUERY_SQL, (0, ask), (argument,)),
            wire.Request(RequestType.EXEC_SQL, (0, "COMMIT")),
        )
        begun = wire.Request(RequestType.EXEC_SQL, (0, f"BEGIN IMMEDIATE; {write}"), (argument,))
        after = wire.Request(RequestType.EXEC_SQL, (0, write), (argument,))
        async with self._conversation(True, deadline_seconds):
            if not self._begins_apart:
                try:
                    return await self._grouped(begun, *following)
                except errors.Refused as error:
                    if error.code != errors.RANGE or self._closed:
                        raise
            self._send(_BEGIN)
            self._expect(await self._receive(), wire.Result, changes=False)
            grouped = await self._grouped(after, *following)
            self._begins_apart = True
            return grouped

    async def _grouped(self, *requests: wire.Request) -> tuple[Result, Rows]:
        self._send(b"".join(map(_encode, requests)))
        written = await self._receive()
        rows: Rows | errors.DbAccessorError
        try:
            rows = await self._rows()
        except errors.DbAccessorError as error:
            rows = error
            if not self.usable:
                raise errors.Indefinite(f"the batch may have been committed: {error}", code=error.code) from error
        ended = await self._receive()
        if isinstance(ended, wire.Failure) and not (isinstance(written, wire.Failure) and ended.code == errors.ERROR):
            # The transaction is open still, as when a checkpoint was in progress. (Where BEGIN failed there is
            # none to end, and that is an error as well.)
            self.close()
        if isinstance(written, wire.Failure):
            self._expect(written, wire.Result, changes=True)
        elif isinstance(ended, wire.Failure) and ended.code == errors.ERROR:
            # There was no transaction any more. If BEGIN went ahead by itself, the write may have lasted without one.
            raise errors.Indefinite(f"the batch may have been committed: {ended.message}", code=ended.code)
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
            if isinstance(answer, wire.Failure) and answer.message == _NO_COLUMNS:
                self._querying = False
                return Rows((), ())
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
            if self._inbox.received > MAX_RESULT_BYTES:
                self.close()
                raise errors.Refused(f"the result is larger than {MAX_RESULT_BYTES} bytes; ask for less at a time")

    async def dump(
        self,
        name: str,
        begin: Callable[[int, int], Awaitable[None]],
        write: Callable[[bytes], Awaitable[None]],
        *,
        deadline_seconds: float | None = None,
    ) -> None:
        """Hand the file of database `name`, as it is after its last applied transaction, to `write`, part by part.

        `begin` gets its size first, and that of the write-ahead log which follows it: 0, but from a node of 1.18.1,
        whose file is not whole without. A node holds both in memory while it answers; this side does not. The deadline
        counts what `write` takes as well.
        """
        request = wire.Request(RequestType.DUMP, (name,))
        seconds = self._deadline_seconds if deadline_seconds is None else deadline_seconds
        async with self._conversation(False, seconds), asyncio.timeout(seconds):
            self._send(_encode(request))
            self._querying = True
            left = await self._dump_header() - 8
            count = await self._word()
            sizes: list[int] = []
            for number in range(count):
                file = await self._text()
                size = await self._word()
                left -= 8 + len(file.encode()) // 8 * 8 + 8 + size
                if left < 0 or number > 1 or (number == 1 and size != sizes[1]):
                    raise wire.ProtocolError(f"{file} of {size} bytes is more than a dump can have")
                if number == 0:
                    # Of the log, nothing is before it but its name and its size.
                    sizes = [size, max(0, left - (8 + len(f"{file}-wal".encode()) // 8 * 8 + 8)) if count > 1 else 0]
                    await begin(*sizes)
                while size:
                    chunk = await self._take(min(size, _CHUNK))
                    size -= len(chunk)
                    await write(chunk)
            self._querying = False

    async def _dump_header(self) -> int:
        """Read up to a dump's files and return how many bytes they take; raise what the node answers instead."""
        header = await self._take(wire.HEADER.size)
        words, kind, _schema, _extra = wire.HEADER.unpack(header)
        if kind == wire.FILES_TYPE:
            return int(words) * 8
        self._querying = False
        self._inbox.decoder.put_back(header)
        self._expect(await self._receive(), wire.Empty, changes=False)
        raise wire.ProtocolError(f"an answer of type {kind} came instead of a dump")

    async def _word(self) -> int:
        return int.from_bytes(await self._take(8), "little")

    async def _text(self) -> str:
        data = b""
        while b"\0" not in data:
            if len(data) > _LONGEST_NAME:
                raise wire.ProtocolError("the name of a file in a dump does not end")
            data += await self._take(8)
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
        request = _encode(wire.Request(kind, fields, parameters))
        async with self._conversation(changes, deadline_seconds):
            self._send(request)
            return self._expect(await self._receive(), expected, changes=changes)

    def _conversation(self, changes: bool, deadline_seconds: float | None) -> _Conversation:
        return _Conversation(self, changes, self._deadline_seconds if deadline_seconds is None else deadline_seconds)

    def _send(self, data: bytes) -> None:
        self._inbox.received = 0
        self._writer.write(data)

    async def _receive(self) -> wire.Response:
        while (response := self._inbox.decoder.next()) is None:
            await self._more()
        return response

    async def _take(self, count: int) -> bytes:
        while (taken := self._inbox.decoder.take(count)) is None:
            await self._more()
        return taken

    async def _more(self) -> None:
        """Wait until more of the answer is here. Raises EOFError, OSError, and TimeoutError at the deadline."""
        if self._late:
            raise TimeoutError
        if self._inbox.ended is not None:
            raise self._inbox.ended
        news: asyncio.Future[None] = self._loop.create_future()

        def tell() -> None:
            if not news.done():
                news.set_result(None)

        self._inbox.on_news = tell
        try:
            self._inbox.want_more()
            await news
        finally:
            self._inbox.on_news = None

    def _watch(self, until: float) -> None:
        """Let the question that begins now last until then."""
        self._since, self._until = self._loop.time(), until
        self._late = self._slow = False
        self._set_timer()

    def _set_timer(self) -> None:
        due = self._until if self._slow else min(self._until, self._since + SLOW_SECONDS)
        if self._timer is not None:
            if self._timer.when() <= due:
                return  # It finds out then for how long to wait on.
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._look_at_the_clock)

    def _look_at_the_clock(self) -> None:
        self._timer = None
        if not self._asking or self._closed:
            return
        now = self._loop.time()
        if now >= self._until:
            self._late = True
            if self._inbox.on_news is not None:
                self._inbox.on_news()
            return
        if now >= self._since + SLOW_SECONDS and not self._slow:
            self._slow = True
            if self.on_slow is not None:
                self.on_slow(self)
        self._set_timer()

    async def _turn(self, until: float) -> None:
        """Wait until nobody else asks. Raises TimeoutError."""
        if not self._asking:
            self._asking = True
            return
        turn: asyncio.Future[None] = self._loop.create_future()
        self._turns.append(turn)
        try:
            async with asyncio.timeout_at(until):
                await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self._next_turn()
            raise

    def _next_turn(self) -> None:
        while self._turns:
            turn = self._turns.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._asking = False

    def _expect(self, response: wire.Response, expected: type[_R], *, changes: bool) -> _R:
        if isinstance(response, expected):
            return response
        if not isinstance(response, wire.Failure):
            raise wire.ProtocolError(f"{type(response).__name__} came instead of {expected.__name__}")
        error = errors.from_failure(response.code, response.message, changes=changes)
        if errors.spoils_connection(response.code) or _ROWS_YIELDED in response.message:
            self.close()
        raise error


def _encode(request: wire.Request) -> bytes:
    try:
        return wire.encode(request)
    except wire.ProtocolError as error:
        raise errors.Refused(str(error)) from error


def _query_request(sql: str, params: Parameters) -> bytes:
    statement = statements.check(sql, params)
    if statement.kind is not statements.Kind.READ:
        raise errors.Refused(f"{statement.verb} yields no rows: it goes through execute, not query")
    if not params and len(sql) <= _LONGEST_KNOWN:
        return _known_query(sql)
    return _encode(wire.Request(RequestType.QUERY_SQL, (0, sql), params))


@functools.lru_cache(maxsize=64)
def _known_query(sql: str) -> bytes:
    return _encode(wire.Request(RequestType.QUERY_SQL, (0, sql)))


class _Conversation:
    """The time from a request to its whole answer: alone on the connection, within a deadline.

    The connection is closed if that ends in any other way than by an answer that the protocol foresees.
    """

    def __init__(self, connection: Connection, changes: bool, seconds: float) -> None:
        self._connection = connection
        self._changes = changes
        self._seconds = seconds

    async def __aenter__(self) -> None:
        connection = self._connection
        until = connection._loop.time() + self._seconds
        try:
            # Waiting for the turn counts as well. Nothing has been sent then, so the connection stays as it is.
            await connection._turn(until)
        except TimeoutError as error:
            raise errors.NotReady(f"the connection was busy for {self._seconds:g} s") from error
        if connection._inbox.ended is not None:
            connection.close()
        if not connection.usable:
            connection._next_turn()
            raise errors.NotReady("the connection is closed")
        connection._watch(until)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        connection = self._connection
        connection._next_turn()
        if error is None or isinstance(error, errors.DbAccessorError):
            return
        connection.close()
        if isinstance(error, TimeoutError) and connection._late:
            ended = f"no answer within {self._seconds:g} s"
        elif isinstance(error, (OSError, EOFError, wire.ProtocolError)):
            ended = str(error) or type(error).__name__
        else:
            return
        raise errors.from_ended(ended, changes=self._changes) from error

"""What can be asked of one node, over any pair of asyncio streams, of which it takes the reading over.

How a question is asked, and what ends the connection, is channel.py's; here is what the questions are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TypeVar

from dbaccessor import errors, statements
from dbaccessor.dqlite import dump, names, wire
from dbaccessor.dqlite.batch import Batches
from dbaccessor.dqlite.channel import Channel, encode
from dbaccessor.dqlite.results import Result, Rows, read_rows
from dbaccessor.dqlite.wire import Member, Parameters, RequestType, Role, Value

__all__ = ["Connection", "Member", "Role", "Value"]

_LEADER = wire.encode(wire.Request(RequestType.LEADER, (0,)))
_MEMBERS = wire.encode(wire.Request(RequestType.CLUSTER, (1,)))
# An empty statement: it is carried out only where the database is open still, which a node that steps down closes, and
# costs the node less than any other.
_STILL_LEADS = wire.encode(wire.Request(RequestType.EXEC_SQL, (0, "")))

_R = TypeVar("_R", bound=wire.Response)


class Question:
    """A statement that only reads, ready to be sent, as often as need be. Raises Refused for any other."""

    def __init__(self, sql: str, params: Parameters = ()) -> None:
        statement = statements.check(sql, params)
        if statement.kind is not statements.Kind.READ:
            raise errors.Refused(f"{statement.verb} yields no rows: it goes through execute, not query")
        self.sql = sql
        self.params = params
        self.request = encode(wire.Request(RequestType.QUERY_SQL, (0, sql), params))


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
        self._channel = Channel(reader, writer, self._tell_slow)
        self._batches = Batches(self._channel)
        self._deadline_seconds = deadline_seconds

    def _tell_slow(self) -> None:
        if self.on_slow is not None:
            self.on_slow(self)

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
        return self._channel.usable

    @property
    def waiting(self) -> bool:
        """Whether an answer is awaited."""
        return self._channel.waiting

    def close(self) -> None:
        """End the conversation; it returns at once. The node rolls an open transaction back."""
        self._channel.close()

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

        def hear(answer: wire.Server | None) -> None:
            told(None if answer is None else answer.name if answer.dqlite_id else "")

        return self._channel.ask_aside(_LEADER, wire.Server, hear, deadline_seconds)

    async def cluster(self, *, deadline_seconds: float | None = None) -> tuple[Member, ...]:
        """Return the members as this node's log has them. A node that is no leader may be behind."""
        answer = await self._ask(RequestType.CLUSTER, (1,), wire.Members, deadline_seconds)
        return answer.members

    async def leader_and_members(
        self, *, deadline_seconds: float | None = None
    ) -> tuple[tuple[int, str] | None, tuple[Member, ...]]:
        """Return what `leader` and `cluster` return, in one round trip."""
        channel = self._channel
        async with channel.conversation(False, self._seconds(deadline_seconds)):
            # The node reads the second request when it has answered the first.
            channel.send(_LEADER + _MEMBERS)
            first, second = await channel.receive(), await channel.receive()
            leader = channel.expect(first, wire.Server, changes=False)
            members = channel.expect(second, wire.Members, changes=False).members
            return (leader.dqlite_id, leader.name) if leader.dqlite_id and leader.name else None, members

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
        if not names.is_possible(name):
            raise errors.Refused(f"{name!r} is no name for a database: {names.RULE}")
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
        return await self.answer(Question(sql, params), deadline_seconds=deadline_seconds)

    async def answer(self, question: Question, *, deadline_seconds: float | None = None) -> Rows:
        """As `query`."""
        channel = self._channel
        async with channel.conversation(False, self._seconds(deadline_seconds)):
            channel.send(question.request)
            return await read_rows(channel)

    async def answer_as_leader(
        self, question: Question, sent: Callable[[], None], *, deadline_seconds: float | None = None
    ) -> tuple[Rows | errors.Refused, tuple[Member, ...]]:
        """As `answer`, on a node that has led from the opening of the database here until it began to read.

        With the rows come the members, as `cluster` tells them, from that same time; all in one round trip, at the
        beginning of which `sent` is called. A statement that the node refuses is an answer as well, and returned.
        Raises what `still_leads` raises.
        """
        channel = self._channel
        async with channel.conversation(False, self._seconds(deadline_seconds)):
            # The node reads the second request when it has answered the first, and carries it out only where it leads
            # and the database is open still, which a node that steps down closes.
            channel.send(_MEMBERS + question.request)
            sent()
            channel.querying = True
            await channel.until_here(2)
            members = await channel.receive()
            if not isinstance(members, wire.Members):
                channel.close()
            told = channel.expect(members, wire.Members, changes=False).members
            try:
                return await read_rows(channel), told
            except errors.Refused as refused:
                if not channel.usable:
                    raise
                return refused, told

    async def still_leads(self, *, deadline_seconds: float | None = None) -> None:
        """Return if this node has led without a break since the database was opened here. Raises NotReady, NotLeader.

        It takes only the node's word that it still leads: one that sleeps, or is cut off, does not know better.
        """
        channel = self._channel
        async with channel.conversation(False, self._seconds(deadline_seconds)):
            channel.send(_STILL_LEADS)
            channel.expect(await channel.receive(), wire.Result, changes=False)

    async def group(
        self, write: str, ask: str, argument: str, *, deadline_seconds: float | None = None
    ) -> tuple[Result, Rows]:
        """Commit `write` and return what `ask` says then, both with `argument` as their parameter: see batch.py.

        Raises NotReady, NotLeader or Refused when nothing was done, Indefinite when it may have been.
        """
        return await self._batches.commit(write, ask, argument, self._seconds(deadline_seconds))

    async def dump(
        self,
        name: str,
        begin: Callable[[int, int], Awaitable[None]],
        write: Callable[[bytes], Awaitable[None]],
        *,
        deadline_seconds: float | None = None,
    ) -> None:
        """Hand the file of database `name`, as it is after its last applied transaction, to `write`: see dump.py."""
        await dump.read(self._channel, name, begin, write, self._seconds(deadline_seconds))

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
        request = encode(wire.Request(kind, fields, parameters))
        return await self._channel.ask(request, expected, self._seconds(deadline_seconds), changes=changes)

    def _seconds(self, deadline_seconds: float | None) -> float:
        return self._deadline_seconds if deadline_seconds is None else deadline_seconds

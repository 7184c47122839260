"""Connections to one database on the leader: lent to one user at a time, and kept for the next.

Every place here is bounded: so many connections at once, so many who wait for one. Beyond that the database is not
slow but stuck, and the next one is Refused at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Protocol

from dbaccessor import dbmetrics, errors, retry
from dbaccessor.confirm import Members
from dbaccessor.dqlite.connection import Connection
from dbaccessor.dqlite.turns import Turns

MAX_WAITING = 256

# A connection that nobody needed for so long is not used again. Its node may be gone without a word since, and whoever
# asked it then would wait, though another node leads and everybody else knows it. It is closed soon after, as whoever
# leads serves so many only.
IDLE_SECONDS = 5.0

# Between two questions whether a node that does not answer leads still, and for how long each is asked.
_ASK_PAUSE_SECONDS = 0.2
_ASK_SECONDS = 0.5


class Connector(Members, Protocol):
    """Finds the leader. leader.py has the real ones."""

    async def to_leader(self, *, deadline: float) -> Connection:
        """Return a fresh connection to the node that leads, before `deadline` (on the event loop's clock).

        Raises NotReady with the reason why there is none. The caller owns the connection.
        """
        ...

    async def leader_name(self, *, deadline: float) -> str:
        """Return the raft name of the node that leads, as far as is known here now, "" where it is not known.

        It costs less than a connection to the leader, and does not wait for an answer of one that is gone.
        """
        ...


# Asked before a connection is opened, with the deadline; raises where there must be none.
Gate = Callable[[float], Awaitable[None]]


class Pool:
    """At most `size` connections to the database `name`. `what` names their users in errors."""

    def __init__(self, connector: Connector, name: str, size: int, what: str, gate: Gate | None = None) -> None:
        self._connector = connector
        self._gate = gate
        self._name = name
        self._what = what
        self._turns = Turns(size)
        self._waiting = 0
        self._idle: list[tuple[Connection, float]] = []  # Each with since when; the longest idle first.
        self._ageing: asyncio.TimerHandle | None = None
        self._suspicions: dict[Connection, asyncio.Task[None]] = {}
        self.closed = False
        self.measured = dbmetrics.unread()

    def turn(self, deadline: float) -> Turn:
        """Return what must surround the use of a connection, an asynchronous context manager: the right to one.

        Entering it raises NotReady at the deadline, Refused when too many wait.
        """
        return Turn(self, deadline)

    async def _wait_for_a_turn(self, deadline: float) -> None:
        if self._waiting >= MAX_WAITING:
            raise errors.Refused(f"{self._waiting} {self._what} wait for {self._name} already")
        self._waiting += 1
        try:
            with self.measured.queued():
                await self._turns.wait(deadline)
        except TimeoutError as error:
            raise errors.NotReady(f"other {self._what} on {self._name} did not end in time") from error
        finally:
            self._waiting -= 1

    async def take(self, deadline: float) -> Connection:
        """Return an idle connection, else a fresh one with the database open. Raises NotReady, NotLeader."""
        while self._idle:
            connection, since = self._idle.pop()
            fresh = asyncio.get_running_loop().time() - since <= IDLE_SECONDS
            if fresh and connection.usable and connection.dialled_as == self._connector.identity:
                return connection
            if fresh:
                self.drop(connection)
            else:
                connection.close()  # There is nothing wrong with it; it is only too old to be trusted.
        if self.closed:
            raise errors.NotReady(f"{self._name} is closed")
        if self._gate is not None:
            await self._gate(deadline)
        connection = await self._connector.to_leader(deadline=deadline)
        try:
            await connection.open_database(self._name, deadline_seconds=retry.left(deadline))
        except BaseException:
            connection.close()
            raise
        connection.on_slow = self._suspect
        self.measured.connected()
        return connection

    def give_back(self, connection: Connection) -> None:
        """Keep a usable connection for the next user. What saw anything but a plain error has closed itself."""
        if connection.usable and not self.closed:
            loop = asyncio.get_running_loop()
            self._idle.append((connection, loop.time()))
            if self._ageing is None:
                self._ageing = loop.call_later(IDLE_SECONDS, self._close_old)
        else:
            self.drop(connection)

    def drop(self, connection: Connection) -> None:
        """Close a connection that another one will have to replace."""
        connection.close()
        self.measured.lost()

    def close(self) -> None:
        """Drop the idle connections. Those that are lent end with their use."""
        self.closed = True
        if self._ageing is not None:
            self._ageing.cancel()
        while self._idle:
            self._idle.pop()[0].close()
        for task in self._suspicions.values():
            task.cancel()

    def _close_old(self) -> None:
        loop = asyncio.get_running_loop()
        self._ageing = None
        while self._idle and (due := self._idle[0][1] + IDLE_SECONDS) <= loop.time():
            self._idle.pop(0)[0].close()
        if self._idle:
            self._ageing = loop.call_at(due, self._close_old)

    def _suspect(self, connection: Connection) -> None:
        # One for each connection: where each answer is slow, on a slow disk, it may never be seen without a question.
        if connection not in self._suspicions:
            task = asyncio.get_running_loop().create_task(self._end_if_deposed(connection))
            self._suspicions[connection] = task
            task.add_done_callback(lambda _: self._suspicions.pop(connection))

    async def _end_if_deposed(self, connection: Connection) -> None:
        """Close a connection whose node says nothing (frozen, or cut off) once another node leads, and all idle ones
        to that node with it: the next user would find out no sooner.

        Whoever waits for the answer learns then what it would learn at its deadline: that nothing was done, or, after
        COMMIT, that it may have been. A node that leads and is only busy is waited for.
        """
        while connection.waiting:
            leads = await self._connector.leader_name(deadline=asyncio.get_running_loop().time() + _ASK_SECONDS)
            if leads and leads != connection.name:
                connection.close()
                for idle, _ in self._idle:
                    if idle.name == connection.name:
                        idle.close()  # `take` passes it over.
                return
            await asyncio.sleep(_ASK_PAUSE_SECONDS)


class Turn:
    """What `Pool.turn` returns."""

    def __init__(self, pool: Pool, deadline: float) -> None:
        self._pool = pool
        self._deadline = deadline

    async def __aenter__(self) -> None:
        if not self._pool._turns.take():
            await self._pool._wait_for_a_turn(self._deadline)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool._turns.give_back()

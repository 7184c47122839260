"""Flow 1, hop 7: asking other voters whom they follow, for confirm.py.

Each is asked over one connection that stays open, and one question at a time serves everybody who waits for it when it
is sent. No more are asked than must answer; the others as soon as one of those names somebody else, cannot be asked, or
takes its time.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from dbaccessor import errors
from dbaccessor.dqlite.connection import Connection

# What a voter that runs needs is under a millisecond; one that does not answer must not keep others waiting.
_QUESTION_SECONDS = 1.0
_DIAL_SECONDS = 1.0
# What is waited for the voters that are asked first. An answer takes a tenth of it where nothing is wrong.
_PATIENCE_SECONDS = 0.002
# After a voter could not be reached, it counts as silent for this long without being dialled again.
_PAUSE_SECONDS = 0.1


class Members(Protocol):
    """Reaches the members. The connectors of leader.py are this."""

    @property
    def identity(self) -> object:
        """Who we are to the members: cluster and epoch. A connection made as somebody else proves nothing."""
        ...

    @property
    def own_name(self) -> str:
        """The raft name of the node in this process, "" where there is none."""
        ...

    async def to_member(self, name: str, *, deadline: float) -> Connection:
        """Return a fresh connection to the node of this raft name. Raises DbAccessorError or OSError."""
        ...


class Round:
    """What one reader waits for: `needed` of these witnesses naming `leader`. `named` are those that did."""

    def __init__(self, leader: str, needed: int, witnesses: list[Witness]) -> None:
        self.named: set[str] = set()
        self._leader = leader
        self._needed = needed
        self._asked = witnesses[:needed]
        self._others = witnesses[needed:]
        self._left = len(witnesses)
        self._answered: set[Witness] = set()
        self._problems: list[str] = []
        self._deadline = 0.0
        self._loop = asyncio.get_running_loop()
        self._outcome: asyncio.Future[None] = self._loop.create_future()

    async def run(self, deadline: float) -> None:
        """Return when enough have named the leader. Raises NotReady."""
        self._deadline = deadline
        self._timer = self._loop.call_at(min(deadline, self._loop.time() + _PATIENCE_SECONDS), self._look_at_the_clock)
        try:
            for witness in self._asked:
                witness.ask(self)
            await self._outcome
        finally:
            self._timer.cancel()

    def heard(self, witness: Witness, named: str, problem: str) -> None:
        """Take one voter's answer: whom it named, "" for nobody or none at all."""
        self._left -= 1
        self._answered.add(witness)
        if named == self._leader:
            self.named.add(witness.name)
            self._needed -= 1
        else:
            self._problems.append(problem or (f"names {named}" if named else "names nobody"))
        if self._outcome.done():
            return
        if self._needed == 0:
            self._outcome.set_result(None)
        elif self._left < self._needed:
            reason = "; ".join(sorted(self._problems))
            self._outcome.set_exception(errors.NotReady(f"{self._leader} is not confirmed as the leader: {reason}"))
        elif named != self._leader:
            self._ask_others()

    def _ask_others(self) -> None:
        others, self._others = self._others, []
        for witness in others:
            witness.ask(self)

    def _look_at_the_clock(self) -> None:
        if self._outcome.done():
            return
        now = self._loop.time()
        if now >= self._deadline:
            self._outcome.set_exception(errors.NotReady(f"too few voters said in time that {self._leader} leads"))
            return
        self._timer = self._loop.call_at(self._deadline, self._look_at_the_clock)
        for witness in self._asked:
            if witness not in self._answered:
                witness.was_late = now
        self._ask_others()


class Witness:
    """One other voter. While it answers over the connection that is open, nothing runs here but the loop's callbacks;
    a task opens a connection where there is none, and lives while somebody waits for an answer."""

    def __init__(self, members: Members, name: str) -> None:
        self._members = members
        self.name = name
        self.was_late = float("-inf")
        self._connection: Connection | None = None
        self._asked: list[Round] = []
        self._waiting: list[Round] = []
        self._task: asyncio.Task[None] | None = None
        self._silent_until = 0.0
        self._closed = False

    def ask(self, round_: Round) -> None:
        """Let this voter's answer to a question that is sent from now on count for the round."""
        if self._closed:
            round_.heard(self, "", f"{self.name} is asked no more")
            return
        self._waiting.append(round_)
        if not self._asked:
            self._go_on()

    def close(self) -> None:
        self._closed = True
        if self._task is not None:
            self._task.cancel()
        self._drop()
        self._tell("", f"{self.name} was not asked to the end")

    def _go_on(self) -> None:
        """Send the next question, for all who wait for one."""
        self._asked, self._waiting = self._waiting, []
        if not self._asked:
            return
        connection = self._connection
        if connection is None or not connection.ask_leader(self._hear, deadline_seconds=_QUESTION_SECONDS):
            self._task = asyncio.get_running_loop().create_task(self._ask_anew())

    def _hear(self, named: str | None) -> None:
        if self._closed:
            return
        if named is None:
            # The old connection broke; it is replaced, once.
            self._task = asyncio.get_running_loop().create_task(self._ask_anew())
        else:
            self._tell(named, "")

    def _tell(self, named: str, problem: str) -> None:
        asked, self._asked = self._asked, []
        if self._closed:
            asked, self._waiting = [*asked, *self._waiting], []
        for round_ in asked:
            round_.heard(self, named, problem)
        self._go_on()

    async def _ask_anew(self) -> None:
        named, problem = "", f"{self.name} was not asked to the end"
        try:
            self._drop()
            named, problem = await self._question()
        finally:
            self._task = None
            self._tell(named, problem)

    async def _question(self) -> tuple[str, str]:
        """Return whom this voter names over a new connection, and why it names nobody."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._silent_until:
            return "", f"{self.name} could not be reached a moment ago"
        try:
            self._connection = await self._members.to_member(self.name, deadline=loop.time() + _DIAL_SECONDS)
            leader = await self._connection.leader(deadline_seconds=_QUESTION_SECONDS)
            return (leader[1] if leader else ""), ""
        except (errors.DbAccessorError, OSError) as error:
            self._drop()
            self._silent_until = loop.time() + _PAUSE_SECONDS
            return "", f"{self.name}: {error}"

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

"""Flow 1, hop 7: asking other voters one thing or another, for confirm.py.

Each is asked over one connection that stays open, and one question at a time serves everybody who waits for it when it
is sent. No more are asked than must answer; the others as soon as one of those does not help, cannot be asked, or takes
its time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from dbaccessor import errors
from dbaccessor.dqlite.connection import Connection
from dbaccessor.terms import Word

# What a voter that runs needs is under a millisecond; one that does not answer must not keep others waiting.
_QUESTION_SECONDS = 1.0
_DIAL_SECONDS = 1.0
# What is waited for the voters that are asked first. An answer takes a tenth of it where nothing is wrong.
_PATIENCE_SECONDS = 0.002

_W = TypeVar("_W")
_W_co = TypeVar("_W_co", covariant=True)
_Told = Callable[[_W | None], None]


class Link(Protocol[_W_co]):
    """A connection over which one voter is asked one thing, again and again."""

    def ask(self, told: _Told[_W_co], *, deadline_seconds: float) -> bool:
        """Call `told` once with what the voter says, None where it says nothing. False: it is not asked."""
        ...

    def close(self) -> None: ...


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

    async def to_terms(self, name: str, *, deadline: float) -> Link[Word]:
        """Return who tells the terms of that node (terms.py). Raises DbAccessorError or OSError."""
        ...


class Following:
    """The link that asks a node whom it follows: a raft name, "" for nobody."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def ask(self, told: _Told[str], *, deadline_seconds: float) -> bool:
        """As Link.ask."""
        return self._connection.ask_leader(told, deadline_seconds=deadline_seconds)

    def close(self) -> None:
        self._connection.close()


class Round(Generic[_W]):
    """What one reader waits for: `needed` of these witnesses that vouch. `vouching` are the names of those that did.

    `judge` returns "" where what a witness said is enough, else why not; `what` begins the sentence where too few do.
    `on_late` is called when some have taken longer than it should be waited for.
    """

    def __init__(
        self,
        what: str,
        needed: int,
        witnesses: list[Witness[_W]],
        judge: Callable[[_W], str],
        on_late: Callable[[], None],
    ) -> None:
        self.vouching: set[str] = set()
        self._what = what
        self._needed = needed
        self._asked = witnesses[:needed]
        self._others = witnesses[needed:]
        self._left = len(witnesses)
        self._judge = judge
        self._on_late = on_late
        self._answered: set[Witness[_W]] = set()
        self._problems: list[str] = []
        # How it ended, None until then: "" where enough have vouched. Who waits for that, if anybody does.
        self._problem: str | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._began: float | None = None

    @property
    def enough(self) -> bool:
        """Whether so many have vouched already."""
        return self._problem == ""

    def begin(self) -> None:
        """Ask, if that was not done yet. What is said from now on counts, until `end`."""
        if self._began is not None:
            return
        self._began = self._loop.time()
        for witness in self._asked:
            witness.ask(self)

    async def outcome(self, deadline: float) -> None:
        """Return when enough have vouched. Raises NotReady, with the reason. It has begun before."""
        if self._problem is None:
            assert self._began is not None
            self._waiter = self._loop.create_future()
            timers = (
                self._loop.call_at(self._began + _PATIENCE_SECONDS, self._look_at_the_clock),
                self._loop.call_at(deadline, self._settle, "too few voters answered in time"),
            )
            try:
                await self._waiter
            finally:
                for timer in timers:
                    timer.cancel()
        if self._problem:
            raise errors.NotReady(f"{self._what}: {self._problem}")

    def end(self) -> None:
        """Ask nobody else. What is still said is heard, and counts for nothing."""
        self._settle("it was not waited for")

    def heard(self, witness: Witness[_W], said: _W | None, problem: str) -> None:
        """Take what one voter said, None where it did not, and why not then."""
        if said is not None:
            problem = self._judge(said)
        self._left -= 1
        self._answered.add(witness)
        if problem:
            self._problems.append(problem)
        else:
            self.vouching.add(witness.name)
            self._needed -= 1
        if self._problem is not None:
            return
        if self._needed == 0:
            self._settle("")
        elif self._left < self._needed:
            self._settle("; ".join(sorted(self._problems)))
        elif problem:
            self._ask_others()

    def _settle(self, problem: str) -> None:
        if self._problem is None:
            self._problem = problem
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(None)

    def _ask_others(self) -> None:
        others, self._others = self._others, []
        for witness in others:
            witness.ask(self)

    def _look_at_the_clock(self) -> None:
        if self._problem is not None:
            return
        for witness in self._asked:
            if witness not in self._answered:
                witness.was_late = self._loop.time()
        self._on_late()
        self._ask_others()


class Witness(Generic[_W]):
    """One other voter. While it answers over the link that is open, nothing runs here but the loop's callbacks; a task
    opens a link where there is none, and lives while somebody waits for an answer.

    After it could not be reached it counts as silent for `pause_seconds` without being dialled again.
    """

    def __init__(self, name: str, open_link: Callable[[float], Awaitable[Link[_W]]], pause_seconds: float) -> None:
        self.name = name
        self.was_late = float("-inf")
        self._open_link = open_link
        self._pause_seconds = pause_seconds
        self._link: Link[_W] | None = None
        self._asked: list[Round[_W]] = []
        self._waiting: list[Round[_W]] = []
        self._task: asyncio.Task[None] | None = None
        self._silent_until = 0.0
        self._closed = False
        self._loop = asyncio.get_running_loop()

    def ask(self, round_: Round[_W]) -> None:
        """Let this voter's answer to a question that is sent from now on count for the round."""
        if self._closed:
            round_.heard(self, None, f"{self.name} is asked no more")
            return
        if self._link is None and self._loop.time() < self._silent_until:
            round_.heard(self, None, f"{self.name} could not be reached a moment ago")
            return
        self._waiting.append(round_)
        if not self._asked:
            self._go_on()

    def close(self) -> None:
        self._closed = True
        if self._task is not None:
            self._task.cancel()
        self._drop()
        self._tell(None, f"{self.name} was not asked to the end")

    def _go_on(self) -> None:
        """Send the next question, for all who wait for one."""
        self._asked, self._waiting = self._waiting, []
        if not self._asked:
            return
        link = self._link
        if link is None or not link.ask(self._hear, deadline_seconds=_QUESTION_SECONDS):
            self._task = self._loop.create_task(self._ask_anew())

    def _hear(self, said: _W | None) -> None:
        if self._closed:
            return
        if said is None:
            # The old link broke; it is replaced, once.
            self._task = self._loop.create_task(self._ask_anew())
        else:
            self._tell(said, "")

    def _tell(self, said: _W | None, problem: str) -> None:
        asked, self._asked = self._asked, []
        if self._closed:
            asked, self._waiting = [*asked, *self._waiting], []
        for round_ in asked:
            round_.heard(self, said, problem)
        if not self._asked:
            self._go_on()

    async def _ask_anew(self) -> None:
        said, problem = None, f"{self.name} was not asked to the end"
        try:
            self._drop()
            said, problem = await self._question()
        finally:
            self._task = None
            self._tell(said, problem)

    async def _question(self) -> tuple[_W | None, str]:
        """Return what this voter says over a new link, and why it says nothing."""
        loop = self._loop
        try:
            self._link = await self._open_link(loop.time() + _DIAL_SECONDS)
            answer: asyncio.Future[_W | None] = loop.create_future()

            def hear(said: _W | None) -> None:
                if not answer.done():
                    answer.set_result(said)

            if self._link.ask(hear, deadline_seconds=_QUESTION_SECONDS) and (said := await answer) is not None:
                return said, ""
            problem = "it does not answer"
        except (errors.DbAccessorError, OSError) as error:
            problem = str(error)
        self._drop()
        self._silent_until = loop.time() + self._pause_seconds
        return None, f"{self.name}: {problem}"

    def _drop(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

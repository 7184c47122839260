"""Flow 3, hop 2: publishes the two lists of API addresses, on the one controller that is responsible for it.

Level-triggered: it looks at everything that the lists follow from (members, what they reported, spaces, the setting),
computes both, and writes what differs. So it does not matter what it missed, or who was responsible before. A list that
differs only in its order is not written, and wakes nobody. A list that would be empty is not written either.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from controller.api import nodes, selection
from controller.api.nodes import Published
from controller.api.selection import Incomplete, Selection, Servers
from dbaccessor import errors
from dbaccessor.database import Transaction

log = logging.getLogger(__name__)

_T = TypeVar("_T")

# Agents are to follow a change within five seconds: this is the first of their steps.
_LOOK_SECONDS = 1.0
_DEADLINE_SECONDS = 5.0


class Fenced(Protocol):
    """The `controller` database through a responsibility: who has lost it cannot write any more (C9)."""

    async def run(
        self, fn: Callable[[Transaction], Awaitable[_T]], *, read_only: bool = False, deadline_seconds: float = 10
    ) -> _T: ...


class AddressSetter:
    """The worker. `default_port` is where a controller is dialled that has not reported yet."""

    def __init__(self, database: Fenced, default_port: int, *, look_seconds: float = _LOOK_SECONDS) -> None:
        self._database = database
        self._default_port = default_port
        self._look_seconds = look_seconds
        self._nudged = asyncio.Event()
        self._notes: tuple[str, ...] = ()
        self._fallbacks: tuple[str, ...] = ()
        self._skipped: tuple[str, ...] = ()
        self._problem = ""
        self._changes = 0

    def nudge(self) -> None:
        """Look at once: something has changed."""
        self._nudged.set()

    async def run(self) -> None:
        """Keep the lists right. Ends by cancellation, or with what says that somebody else is responsible now."""
        while True:
            self._nudged.clear()
            try:
                await self.look()
                self._say("")
            except errors.DbAccessorError as error:
                # Whatever was done or not: the next look finds out.
                self._say(str(error))
            try:
                async with asyncio.timeout(self._look_seconds):
                    await self._nudged.wait()
            except TimeoutError:
                pass

    async def look(self) -> bool:
        """Bring both lists up to date. Return whether one was published."""
        if not await self._database.run(self._differs, read_only=True, deadline_seconds=_DEADLINE_SECONDS):
            return False
        changed = await self._database.run(self._write, deadline_seconds=_DEADLINE_SECONDS)
        self._changes += changed
        return changed

    def report(self) -> dict[str, Any]:
        """Return what `hactl` and the engine's report show of this worker."""
        return {
            "notes": list(self._notes),
            "fallbacks": list(self._fallbacks),
            "skipped": list(self._skipped),
            "problem": self._problem,
            "published": self._changes,
        }

    async def _differs(self, tx: Transaction) -> bool:
        """Whether there is anything to write: it is usually not, and a look then keeps no writer waiting."""
        wanted = await self._selected(tx)
        if isinstance(wanted, Incomplete):
            return False
        return any([await _change(tx, audience, *part) is not None for audience, part in _parts(wanted).items()])

    async def _write(self, tx: Transaction) -> bool:
        wanted = await self._selected(tx)
        if isinstance(wanted, Incomplete):
            return False
        await nodes.forget_departed(tx)
        published = False
        for audience, part in _parts(wanted).items():
            change = await _change(tx, audience, *part)
            if change is not None:
                await nodes.publish(tx, audience, change)
                log.info("%s are sent to %s", audience, ", ".join(_words(s) for s in change.servers))
                published = True
        return published

    async def _selected(self, tx: Transaction) -> Selection | Incomplete:
        facts = await nodes.facts(tx, self._default_port)
        found = selection.select(facts.controllers, facts.spaces, facts.management_space)
        notes = (found.reason,) if isinstance(found, Incomplete) else notes_of(found)
        for note in notes:
            if note not in self._notes:
                log.warning("%s", note)
        self._notes = notes
        if isinstance(found, Selection):
            self._fallbacks = tuple(f.controller_id for f in found.fallbacks)
            self._skipped = found.skipped
        return found

    def _say(self, problem: str) -> None:
        if problem and problem != self._problem:
            log.warning("the lists of addresses stay as they are: %s", problem)
        self._problem = problem


def notes_of(found: Selection) -> tuple[str, ...]:
    """Say what an operator should know of a selection."""
    skipped = (f"controller {i} has no address that another machine can dial, and is in no list" for i in found.skipped)
    return (*dict.fromkeys(f.reason for f in found.fallbacks), *skipped)


def _parts(wanted: Selection) -> dict[str, tuple[tuple[Servers, ...], tuple[str, ...]]]:
    return {nodes.AGENTS: (wanted.agents, notes_of(wanted)), nodes.CLIENTS: (wanted.clients, ())}


async def _change(
    tx: Transaction, audience: str, servers: tuple[Servers, ...], notes: tuple[str, ...]
) -> Published | None:
    """Return what is to be published instead of what is, None where that is the same."""
    now = await nodes.published(tx, audience)
    if now is None:
        return Published(servers, 1, notes)
    if not selection.same(now.servers, servers):
        return Published(servers, now.revision + 1, notes)
    # Other notes are news for people, and wake nobody.
    return None if now.notes == notes else Published(now.servers, now.revision, notes)


def _words(part: Servers) -> str:
    return f"controller {part.controller_id} ({' '.join(map(str, part.servers))})"

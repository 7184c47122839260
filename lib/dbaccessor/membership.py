"""The leader's side of membership: it alone adds and removes members, one at a time, and watches the roles.

A node that wants to join or to leave asks the leader's worker (the preamble's membership purpose). So every change
passes one lock in one process, waits for the roles to settle first (unless a silent member is removed), and a deposed
leader's change fails by raft's own rules. Roles themselves are Dqlite's business; the watchdog only notices when its
queue is stuck.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field

from dbaccessor import errors, registry
from dbaccessor.conf import ControllerConf
from dbaccessor.database import Database
from dbaccessor.dqlite import cluster
from dbaccessor.dqlite.connection import Connection, Member, Role
from dbaccessor.identity import controller_of
from dbaccessor.localnode import LocalNode
from dbaccessor.preamble import MembershipRequest, Outcome
from dbaccessor.timing import Timing

log = logging.getLogger(__name__)

_CHANGE_SECONDS = 5.0
# Dqlite looks at the roles every second; after this many it has had every chance.
_STUCK_SECONDS = 8.0
_NUDGE_PAUSE_SECONDS = 60.0
_FRESH_SECONDS = 5.0
# The charm writes a new map on all units within moments; a leader that lacks it for so long will not get it soon.
_OUTDATED_SECONDS = 5.0
# A joiner asks again and again; with none for so long the matter is over.
_ASKED_SECONDS = 20.0
# Rows that could not be read or deleted are looked at again after this; nobody waits for it meanwhile.
_ROWS_PAUSE_SECONDS = 5.0


@dataclass(frozen=True)
class Leading:
    """What the worker tells about the present: its node leads, this is the configuration, these nodes are alive.

    `members` are those of the own node's last word, a quarter of a second ago: enough to see that nothing is to be
    done. Whoever does something asks again.
    `ask_anew` returns when everybody has been asked again; what is so then, the next Leading tells. `generations` are
    those of the configurations of the others that answer, by Dqlite id; 0 where one has none or does not say.
    """

    dqlite_id: int
    local: LocalNode
    conf: ControllerConf
    members: tuple[Member, ...]
    alive: frozenset[int]
    ask_anew: Callable[[], Awaitable[None]]
    generations: Mapping[int, int] = field(default_factory=dict)


@dataclass
class _Outdated:
    """The own configuration, of this generation, has kept one out since then that a newer one names."""

    generation: int
    since: float
    asked_at: float


class Membership:
    """Carries out joins, leaves and removals while the own node leads. `leading()` is None while it does not."""

    def __init__(self, database: Database, timing: Timing, leading: Callable[[], Leading | None]) -> None:
        self._database = database
        self.timing = timing
        self._leading = leading
        self._lock = asyncio.Lock()
        self._off_target_since: float | None = None
        self._nudged_at = self._promoted_at = float("-inf")
        # A node that was just added answered us, though the peer watch may not have come round to it yet.
        self._added: dict[int, float] = {}
        self._outdated: _Outdated | None = None
        self._passed_on_at = float("-inf")
        # For which generation and members no row is left of those that departed; None: not known.
        self._rows_in_order: tuple[int, frozenset[str]] | None = None
        self._rows_failed_at = float("-inf")

    async def handle(self, request: MembershipRequest) -> Outcome:
        """Carry out one request. Never raises for what the cluster does; the reason is in the outcome."""
        log.info("%s of %s is asked for", request.operation, request.name)
        until = asyncio.get_running_loop().time() + self.timing.join_seconds
        try:
            async with asyncio.timeout_at(until), self._lock:
                outcome = await self._carry_out(request, until - _CHANGE_SECONDS)
        except TimeoutError:
            limit = f"{self.timing.join_seconds:g} s"
            outcome = Outcome(False, f"it took more than {limit}, with the changes before it; ask again")
        except (errors.DbAccessorError, OSError) as error:
            outcome = Outcome(False, f"{type(error).__name__}: {error}")
        log.log(
            logging.INFO if outcome.done else logging.WARNING,
            "%s of %s: %s",
            request.operation,
            request.name,
            outcome.reason,
        )
        return outcome

    async def look(self) -> None:
        """One round of the leader's duties: remove one departed member, let a better informed one lead, notice stuck
        roles, delete the rows that departed members left behind."""
        now = self._leading()
        if now is None:
            self._off_target_since = self._outdated = self._rows_in_order = None
            return
        if self._lock.locked():
            return
        if self._is_in_order(now) and not self._rows_are_due(now):
            self._off_target_since = None
            return
        async with self._lock:
            connection = await now.local.connect(_CHANGE_SECONDS)
            try:
                members = await connection.cluster()
                if await self._remove_departed(now, connection, members):
                    return
                if await self._pass_on(now, connection, members):
                    return
                await self._watch_roles(now, connection, members)
                if self._rows_are_due(now):
                    await self._delete_departed_rows(now, members)
            finally:
                connection.close()

    def _is_in_order(self, now: Leading) -> bool:
        """Whether nobody has departed or was kept out by an old configuration, and the roles are at their target."""
        departed = any(controller_of(m.name) in now.conf.departed for m in now.members)
        off_target = cluster.off_target(now.members, self._alive(now))
        return not departed and self._outdated is None and off_target is None

    def _rows_are_due(self, now: Leading) -> bool:
        """Whether a row of a departed member may be there: once for each leadership, generation and set of members."""
        if not now.conf.departed or self._rows_in_order == _rows_of(now.conf, now.members):
            return False
        return asyncio.get_running_loop().time() - self._rows_failed_at >= _ROWS_PAUSE_SECONDS

    async def _carry_out(self, request: MembershipRequest, settled_by: float) -> Outcome:
        now = self._present(request)
        if isinstance(now, Outcome):
            return now
        connection = await now.local.connect(_CHANGE_SECONDS)
        try:
            await self._settle(connection, settled_by)
            # That may have taken seconds: others may be alive by now, and another configuration be in force.
            now = self._present(request)
            if isinstance(now, Outcome):
                return now
            members = await connection.cluster()
            if request.operation == "join":
                return await self._join(now, connection, members, request)
            return await self._leave(now, connection, members, request)
        finally:
            connection.close()

    def _present(self, request: MembershipRequest) -> Leading | Outcome:
        """Return what is so at this moment, or why this request cannot be carried out now."""
        now = self._leading()
        if now is None:
            return Outcome(False, "this node does not lead now")
        if request.operation == "join" and (problem := self._unwelcome(now.conf, request)) is not None:
            return Outcome(False, problem)
        return now

    def _unwelcome(self, conf: ControllerConf, request: MembershipRequest) -> str | None:
        """Say why the own configuration keeps this controller out, and note it if its own is newer; else None."""
        if request.controller_id in conf.departed:
            return f"controller {request.controller_id} departed (generation {conf.generation})"
        if request.controller_id in conf.db_bind_addresses:
            return None
        if request.generation > conf.generation:
            clock = asyncio.get_running_loop().time()
            if self._outdated is None or self._outdated.generation != conf.generation:
                self._outdated = _Outdated(conf.generation, clock, clock)
            self._outdated.asked_at = clock
        return (
            f"the leader's configuration (generation {conf.generation}) has no address of"
            f" controller {request.controller_id} yet"
        )

    async def _join(
        self, now: Leading, connection: Connection, members: tuple[Member, ...], request: MembershipRequest
    ) -> Outcome:
        if any(m.dqlite_id == request.dqlite_id for m in members):
            return Outcome(True, "is a member already")
        for old in members:
            # A controller has one node. Its earlier ids are those whose data is gone or was put aside.
            if controller_of(old.name) == request.controller_id:
                await connection.remove(old.dqlite_id)
                log.info("removed %s, which %s replaces", old.name, request.name)
        generation = max(now.conf.generation, request.generation)
        await registry.record_joining(self._database, request, generation)
        try:
            await connection.add(request.dqlite_id, request.name)
        except (errors.NotReady, errors.NotLeader, errors.Refused):
            # Surely not added. After anything else it may be a member, and its row must stay.
            await registry.delete(self._database, request.name)
            raise
        self._added = {request.dqlite_id: asyncio.get_running_loop().time()}
        return Outcome(True, f"added at generation {generation}")

    async def _leave(
        self, now: Leading, connection: Connection, members: tuple[Member, ...], request: MembershipRequest
    ) -> Outcome:
        if request.dqlite_id == now.dqlite_id:
            return Outcome(False, "the leader hands leadership over first, then asks the next one")
        member = next((m for m in members if m.dqlite_id == request.dqlite_id), None)
        if member is None:
            # It was removed, and perhaps it asks again because whoever did that came no further.
            if all(m.name != request.name for m in members):
                await self._delete_row(request.name)
            return Outcome(True, "is no member")
        problem = await self._removal_problem(now, members, member)
        if problem is not None:
            return Outcome(False, problem)
        await self._remove(connection, member)
        return Outcome(True, "removed")

    async def _remove_departed(self, now: Leading, connection: Connection, members: tuple[Member, ...]) -> bool:
        gone = [m for m in members if controller_of(m.name) in now.conf.departed and m.dqlite_id != now.dqlite_id]
        # The silent first: removing a living voter could make a dead one part of the majority that is left.
        for member in sorted(gone, key=lambda m: m.dqlite_id in now.alive):
            if member.dqlite_id in now.alive and await self._are_settling(now, connection, members):
                # Only living ones come after it: each has its turn in a later round.
                log.info("departed member %s stays until the roles have settled", member.name)
                return False
            problem = await self._removal_problem(now, members, member)
            if problem is not None:
                log.warning("departed member %s stays for now: %s", member.name, problem)
                continue
            await self._remove(connection, member)
            self._off_target_since = None  # Other roles are the target from now on.
            log.info("removed departed member %s", member.name)
            return True
        return False

    async def _are_settling(self, now: Leading, connection: Connection, members: tuple[Member, ...]) -> bool:
        """Whether the roles are not at their target yet, and were not for less than `settle_seconds`.

        A voter that is removed has no successor for a second or two, in which the next removal would leave what is
        written on fewer disks still. Unlike `_settle` this holds nobody up: other duties have their turns meanwhile.
        """
        await self._watch_roles(now, connection, members)
        since = self._off_target_since
        return since is not None and asyncio.get_running_loop().time() - since < self.timing.settle_seconds

    async def _pass_on(self, now: Leading, connection: Connection, members: tuple[Member, ...]) -> bool:
        """Let another lead if this one's configuration stays too old to let in those that newer ones name.

        It gets no newer one while the unit's agent is down. Leadership goes to the living voter with the newest, which
        cannot circle: each is newer than the one before. To one that does not say, it goes once in a while.
        """
        clock = asyncio.get_running_loop().time()
        seen = self._outdated
        if seen is None or seen.generation != now.conf.generation or clock - seen.asked_at > _ASKED_SECONDS:
            self._outdated = None
            return False
        if clock - seen.since < _OUTDATED_SECONDS:
            return False
        heir = _informed(now, members)
        if heir is None and clock - self._passed_on_at >= _NUDGE_PAUSE_SECONDS:
            silent = [m for m in _living_voters(now, members) if not now.generations.get(m.dqlite_id)]
            heir = random.choice(silent) if silent else None
        if heir is None:
            return False
        self._outdated, self._passed_on_at = None, clock
        log.warning(
            "the configuration here (generation %d) has been too old for those that join for %.0f s: handing leadership"
            " to %s; see why this unit's agent writes no newer one",
            now.conf.generation,
            clock - seen.since,
            heir.name,
        )
        await connection.transfer(heir.dqlite_id)
        return True

    async def _removal_problem(self, now: Leading, members: tuple[Member, ...], leaving: Member) -> str | None:
        problem = removal_problem(members, leaving, now.alive)
        if problem is not None or leaving.role != Role.VOTER:
            return problem
        # It counts for the quorum now, also if it came back so lately that it was not seen yet. One of the others may
        # have died since it was asked last, and the quorum with it, once this one is gone.
        await now.ask_anew()
        present = self._leading()
        if present is None:
            return "this node does not lead now"
        return removal_problem(members, leaving, present.alive)

    async def _remove(self, connection: Connection, member: Member) -> None:
        await connection.remove(member.dqlite_id)
        await self._delete_row(member.name)

    async def _delete_row(self, name: str) -> None:
        """Delete the row of a node that is no member. Raft's configuration is what counts: a failure is only told."""
        try:
            await registry.delete(self._database, name)
        except errors.DbAccessorError as error:
            log.warning("the row of removed member %s stays until it has departed: %s", name, error)

    async def _delete_departed_rows(self, now: Leading, members: tuple[Member, ...]) -> None:
        """Delete the rows of those that departed and are no members any more.

        Whoever removed them may have died between the two steps. Such a row would keep every patch that needs a newer
        version waiting, and the controller's addresses in both lists. Departed ids never come back.
        """
        names = {m.name for m in members}
        try:
            async with asyncio.timeout(_CHANGE_SECONDS):
                nodes, _ = await registry.rows(self._database)
                for node in nodes:
                    if node.controller_id in now.conf.departed and node.name not in names:
                        await registry.delete(self._database, node.name)
                        log.info("deleted the row that departed member %s left behind", node.name)
        except (errors.DbAccessorError, TimeoutError) as error:
            self._rows_failed_at = asyncio.get_running_loop().time()
            log.info("rows of departed members may be left: %s", str(error) or "no answer in time")
            return
        self._rows_in_order = _rows_of(now.conf, members)

    async def _settle(self, connection: Connection, until: float) -> None:
        """Wait until the roles of those that answer are what Dqlite aims at; give up after `settle_seconds`, or at
        `until` (the loop's clock), so that a change is tried by everybody who waited for its turn.

        Whoever waits here watches as well: with one change asked for after another, `look` never has the lock.
        """
        deadline = min(until, asyncio.get_running_loop().time() + self.timing.settle_seconds)
        while asyncio.get_running_loop().time() < deadline:
            now = self._leading()
            if now is None:
                return
            members = await connection.cluster()
            await self._watch_roles(now, connection, members)
            if self._off_target_since is None:
                return
            await asyncio.sleep(0.1)

    def _alive(self, now: Leading) -> frozenset[int]:
        fresh = asyncio.get_running_loop().time() - _FRESH_SECONDS
        return now.alive | {i for i, at in self._added.items() if at > fresh}

    async def _watch_roles(self, now: Leading, connection: Connection, members: tuple[Member, ...]) -> None:
        clock = asyncio.get_running_loop().time()
        problem = cluster.off_target(members, self._alive(now))
        if problem is None:
            self._off_target_since = None
            return
        if self._off_target_since is None:
            self._off_target_since = clock
        stuck = clock - self._off_target_since
        if stuck < _STUCK_SECONDS:
            return
        others = [m for m in members if m.dqlite_id != now.dqlite_id and m.dqlite_id in now.alive]
        heir = next((m for m in others if m.role == Role.VOTER), None)
        if heir is not None and clock - self._nudged_at >= _NUDGE_PAUSE_SECONDS:
            self._nudged_at = clock
            log.warning(
                "roles have been off target for %.0f s (%s): handing leadership to %s", stuck, problem, heir.name
            )
            await connection.transfer(heir.dqlite_id)
        elif heir is None and others and clock - self._promoted_at >= _NUDGE_PAUSE_SECONDS:
            # The stuck queue is in this leader's memory, and there is nobody to hand leadership to: make somebody.
            self._promoted_at = clock
            heir = min(others, key=lambda m: m.role != Role.STANDBY)
            log.warning("roles off target for %.0f s (%s): making %s a voter", stuck, problem, heir.name)
            await connection.assign(heir.dqlite_id, Role.VOTER)


def _rows_of(conf: ControllerConf, members: Iterable[Member]) -> tuple[int, frozenset[str]]:
    """What decides which rows there should be. A member more or less is somebody's work, perhaps another leader's."""
    return conf.generation, frozenset(m.name for m in members)


def _living_voters(now: Leading, members: Iterable[Member]) -> list[Member]:
    return [m for m in members if m.role == Role.VOTER and m.dqlite_id != now.dqlite_id and m.dqlite_id in now.alive]


def _informed(now: Leading, members: Iterable[Member]) -> Member | None:
    """Return the living voter with the newest configuration that is newer than the own, None if there is none."""

    def generation(member: Member) -> int:
        return now.generations.get(member.dqlite_id, 0)

    newer = [m for m in _living_voters(now, members) if generation(m) > now.conf.generation]
    return max(newer, key=generation, default=None)


def removal_problem(members: Iterable[Member], leaving: Member, alive: frozenset[int]) -> str | None:
    """Say why removing `leaving` now would lose the quorum, or return None. `alive` are Dqlite ids."""
    voters = [m for m in members if m.role == Role.VOTER and m.dqlite_id != leaving.dqlite_id]
    if not voters:
        return f"{leaving.name} is the last voter"
    answering = sum(m.dqlite_id in alive for m in voters)
    needed = cluster.quorum(len(voters))
    if answering < needed:
        return f"of the {len(voters)} voters that would be left {answering} answer, and {needed} are needed"
    return None

"""Flow 2, hop 2: one controller's part in who is responsible for what: claims, keeps, gives up, and waits for leases.

Every controller runs one, and all are equal: there is nobody whose death would keep leases from running out. What is
safe rests on elapsed time alone (sightings.py for those who wait, holding.py for who holds) and on rows that change
only from the state that was seen (store.py). `run` ends by cancellation, and gives up what is held before it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

from controller.leases import secretary as secretaries_of
from controller.leases import timing as timings
from controller.leases.clock import Clock
from controller.leases.holding import Attempt, Held
from controller.leases.keeper import Keeper
from controller.leases.lease import Denied, InvalidLease, Key, Token
from controller.leases.observer import Observer
from controller.leases.responsible import Responsibility
from controller.leases.secretary import Secretary
from controller.leases.sightings import Sighting
from controller.leases.store import Row, Store
from controller.leases.takeovers import TakeOvers
from controller.leases.timing import Timing
from dbaccessor import errors, retry
from dbaccessor.identity import Epoch

log = logging.getLogger(__name__)

MAX_CLAIMS: Final = 2048

_RETRY_SECONDS = 0.05
_PREPARE_SECONDS = 1.0


async def _nothing() -> None:
    """What is to be prepared where the table exists already."""


class Manager:
    """Leases for the controller `holder`. `epoch` says which epoch the cluster is in now, None while unknown.

    `prepare` makes the table exist; it is tried until it succeeds, before anything else.
    """

    def __init__(
        self,
        store: Store,
        holder: str,
        epoch: Callable[[], Epoch | None],
        *,
        timing: Timing | None = None,
        clock: Clock | None = None,
        prepare: Callable[[], Awaitable[object]] = _nothing,
        secretaries: Mapping[str, Secretary] | None = None,
    ) -> None:
        self.timing = timing or timings.for_latency(10)
        self.holder = holder
        self.incarnation = secrets.token_hex(8)
        self._store = store
        self._epoch = epoch
        self._clock = clock or Clock()
        self._prepare = prepare
        self._secretaries: dict[str, Secretary] = {
            secretaries_of.SINGULAR_CONTROLLER: secretaries_of.SingularController(),
            **(secretaries or {}),
        }
        self._observer = Observer(store, self.incarnation, epoch, self.timing, self._clock)
        self._keeper = Keeper(store, self.timing, self._clock)
        self._takeovers = TakeOvers()
        self._turns = _Turns()
        self._claiming = 0
        self._doubtful: set[Key] = set()
        self._group: asyncio.TaskGroup | None = None
        self._ended = False

    def register(self, namespace: str, secretary: Secretary) -> None:
        """Make a namespace exist. Raises ValueError when it has a secretary already."""
        if namespace in self._secretaries:
            raise ValueError(f"the namespace {namespace} has a secretary already")
        self._secretaries[namespace] = secretary

    async def run(self) -> None:
        """Look, renew and watch until cancelled; then give up what is held."""
        try:
            await self._prepare_in_time()
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self._observer.run())
                group.create_task(self._keeper.run())
        finally:
            self._group, self._ended = None, True
            self._observer.end()
            await self._stop()

    def held(self, key: Key) -> Responsibility | None:
        """Return what this controller holds now, without waiting."""
        held = self._keeper.held.get(key)
        return None if held is None or held.responsibility.seconds_left <= 0 else held.responsibility

    def check(self, key: Key, token: Token) -> bool:
        """Return whether this controller holds the lease by this token now. Raises InvalidLease."""
        self._admit(key, None)
        held = self.held(key)
        return held is not None and held.token == token

    async def claim(self, key: Key, duration_seconds: float) -> Responsibility:
        """Hold the lease for at least so long after this was called, and from then on until it is lost or given up.

        A claim of what is held here extends it. Raises Denied, which names the holder: this controller does not hold
        it; InvalidLease; NotReady or Refused: nothing was done; Indefinite: it may have been claimed, and then it
        runs out by itself unless it is claimed again.
        """
        self._admit(key, duration_seconds)
        self._check_running()
        if self._claiming >= MAX_CLAIMS:
            raise errors.Refused(f"{self._claiming} claims are under way already")
        self._claiming += 1
        deadline = asyncio.get_running_loop().time() + self.timing.claim_seconds
        duration_ms = math.ceil(duration_seconds * 1000)
        try:
            async with self._turns.of(key, deadline):
                held = self._keeper.held.get(key)
                if held is not None and await self._extend(held, duration_ms, deadline):
                    self._keeper.counters["extensions"] += 1
                    return held.responsibility
                return await self._acquire(key, duration_ms, deadline)
        except Denied:
            self._keeper.counters["denied"] += 1
            raise
        finally:
            self._claiming -= 1

    async def revoke(self, key: Key) -> None:
        """Give the lease up if it is held here: others may have it as soon as nobody here works under it any more."""
        self._admit(key, None)
        deadline = asyncio.get_running_loop().time() + self.timing.claim_seconds
        async with self._turns.of(key, deadline):
            held = self._keeper.held.get(key)
            if held is not None:
                await self._keeper.leave(held, "it was given up", self.timing.claim_seconds)

    def give_up(self, responsibility: Responsibility) -> None:
        """End this responsibility now, and have its lease given up, without waiting for it."""
        held = self._keeper.held.get(responsibility.key)
        if held is not None and held.responsibility is responsibility:
            self._keeper.begin_to_leave(held, "it was given up")
            leaving = self._keeper.leave(held, "it was given up", self.timing.claim_seconds)
            try:
                if self._group is not None:
                    self._group.create_task(leaving)
                    return
            except RuntimeError:
                pass  # The group ends already, and the end of `run` does it.
            leaving.close()

    async def wait_until_free(self, key: Key) -> None:
        """Return when the lease can be claimed: nobody holds it, or who did has not renewed it in time.

        Raises InvalidLease; Refused when too many wait.
        """
        self._admit(key, None)
        while (mine := self.held(key)) is not None:
            await mine.lost()
        await self._observer.wait_until_free(key)

    def report(self) -> dict[str, Any]:
        """Return all leases as last seen, what is held here, and what was counted."""
        looked_at = self._observer.looked_at
        return {
            "holder": self.holder,
            "incarnation": self.incarnation,
            "promised-seconds": self.timing.promised_seconds,
            "seen-seconds-ago": None if looked_at is None else round(self._clock.monotonic() - looked_at, 3),
            **({"problem": self._observer.problem} if self._observer.problem else {}),
            "waiting": self._observer.waiting,
            "held": len(self._keeper.held),
            "counters": dict(self._keeper.counters),
            "losses": dict(self._keeper.losses),
            "lookups": dict(self._observer.lookups),
            "take-overs": self._takeovers.report(),
            **({} if self._keeper.least_left is None else {"least-seconds-left": round(self._keeper.least_left, 3)}),
            "leases": [self._report_of(row) for _, row in sorted(self._observer.sightings.rows().items())],
        }

    # Claiming

    async def _extend(self, held: Held, duration_ms: int, deadline: float) -> bool:
        """Renew for this duration; False when it was lost over it. Raises DbAccessorError."""
        held.duration_ms = duration_ms
        while not await self._renewed(held, deadline):
            if held.responsibility.seconds_left <= 0:
                return False
        return True

    async def _renewed(self, held: Held, deadline: float) -> bool:
        try:
            return await self._keeper.renew(held)
        except (errors.NotReady, errors.NotLeader, errors.Indefinite):
            if retry.left(deadline) <= _RETRY_SECONDS:
                raise
            await asyncio.sleep(_RETRY_SECONDS)
            return False

    async def _acquire(self, key: Key, duration_ms: int, deadline: float) -> Responsibility:
        """Move the row from what was seen to this holder, as often as it takes to be sure of the outcome."""
        await self._nobody_works(key, deadline)
        fresh = False
        doubt: errors.Indefinite | None = None
        taken: tuple[Sighting, float] | None = None
        in_doubt: dict[int, Attempt] = {}
        while True:
            self._check_running()
            self._observer.heed_epoch()
            sightings = self._observer.sightings
            if not sightings.complete or (not fresh and sightings.free_at(key) > self._clock.monotonic()):
                await self._look(deadline, doubt)
                fresh = True
            row = sightings.row(key)
            if row is not None and sightings.free_at(key) > self._clock.monotonic():
                raise Denied(key, row.holder)
            if row is None or row.incarnation != self.incarnation:  # Else an attempt of this claim took it, in doubt.
                other = sightings.of_another(key)
                taken = None if other is None else (other, self._clock.monotonic())
            done = None if row is None else in_doubt.get(row.renewals)
            if done is not None and done.row.is_state_of(row):
                # What was looked at is as good as the answer that did not come. To try again instead would change the
                # row again and again while no answer comes, and nobody could ever see it unchanged.
                self._doubtful.discard(key)
                doubt, in_doubt = None, {}
                if (mine := await self._granted(done, taken)) is not None:
                    return mine
            attempt = self._attempt(key, row, duration_ms)
            # Also when this caller is cancelled before it is answered.
            self._doubtful.add(key)
            try:
                seconds = min(self.timing.attempt(duration_ms / 1000), retry.left(deadline))
                now = await self._store.move(row, attempt.row, deadline_seconds=seconds)
            except (errors.NotReady, errors.NotLeader, errors.Indefinite) as error:
                if isinstance(error, errors.Indefinite):
                    doubt, in_doubt[attempt.row.renewals] = error, attempt
                if retry.left(deadline) <= _RETRY_SECONDS:
                    raise doubt or error from error
                await asyncio.sleep(_RETRY_SECONDS)
                await self._look(deadline, doubt)
                fresh = True
                continue
            # Whatever was in doubt compared with a state that is gone now. The answer may show one of these, though: as
            # the row that this attempt did not find as expected.
            self._doubtful.discard(key)
            doubt, fresh = None, True
            sightings.note(key, now, self._clock.monotonic())
            if attempt.row.is_state_of(now) and (mine := await self._granted(attempt, taken)) is not None:
                return mine

    def _attempt(self, key: Key, seen: Row | None, duration_ms: int) -> Attempt:
        epoch = self._epoch()
        before = Token(0, 0) if seen is None else seen.token
        token = Token(max(before.epoch, 0 if epoch is None else epoch.number), before.count + 1)
        renewals = self._keeper.next_renewals(seen)
        row = Row(key, self.holder, self.incarnation, token, renewals, duration_ms, int(self._clock.wall()))
        return Attempt(row, self._clock.boottime())

    def _check_running(self) -> None:
        if self._ended:
            raise errors.NotReady("the lease manager has ended")

    async def _granted(self, attempt: Attempt, taken: tuple[Sighting, float] | None) -> Responsibility | None:
        """Hold what this attempt is known to have claimed; None when that came too late."""
        row = attempt.row
        responsibility = Responsibility(row.key, row.token, row.holder, row.incarnation, self._clock.boottime)
        held = self._keeper.grant(attempt, responsibility)
        log.info("lease %s, %s, is held here for %g s", row.key, row.token, row.duration_seconds)
        if taken is not None:
            self._takeovers.note(*taken, self._clock.monotonic())
        if self._ended:
            # Too late for the stop that gives up what is held.
            await self._keeper.leave(held, "the lease manager ends", self.timing.stop_seconds)
            return None
        return responsibility if responsibility.seconds_left > 0 else None

    async def _look(self, deadline: float, doubt: errors.Indefinite | None) -> None:
        try:
            await self._observer.look_now(deadline)
        except errors.NotReady as error:
            raise doubt or error from error

    async def _nobody_works(self, key: Key, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                await self._keeper.vacated(key)
        except TimeoutError as error:
            raise errors.NotReady(f"who worked under the former holding of {key} has not ended yet") from error

    def _admit(self, key: Key, duration_seconds: float | None) -> None:
        secretaries_of.check_names(key, self.holder)
        secretary = self._secretaries.get(key.namespace)
        if secretary is None:
            known = ", ".join(sorted(self._secretaries))
            raise InvalidLease(f"there is no namespace {key.namespace!r} of leases; there are: {known}")
        if duration_seconds is None:
            return
        shortest, longest = self.timing.shortest_seconds, self.timing.longest_seconds
        if not shortest <= duration_seconds <= longest:
            raise InvalidLease(f"{key} for {duration_seconds:g} s: a lease lasts {shortest:g} to {longest:g} s")
        secretary.check(key, self.holder, duration_seconds)

    # Beginning and end

    async def _prepare_in_time(self) -> None:
        while True:
            try:
                await self._prepare()
                return
            except (errors.NotReady, errors.NotLeader, errors.Indefinite) as error:
                self._observer.problem = str(error)
                await asyncio.sleep(_PREPARE_SECONDS)

    async def _stop(self) -> None:
        deadline = asyncio.get_running_loop().time() + self.timing.stop_seconds
        await self._keeper.leave_all("the lease manager ends", self.timing.stop_seconds)
        if not self._doubtful:
            return
        try:
            found = await self._store.changes(0, deadline_seconds=retry.left(deadline))
            for row in found.rows:
                if row.incarnation == self.incarnation:
                    await self._keeper.free(row, deadline)
        except errors.DbAccessorError as error:
            log.warning("leases that may have been claimed are left to run out: %s", error)

    def _report_of(self, row: Row) -> dict[str, Any]:
        held = self._keeper.held.get(row.key)
        return {
            "namespace": row.key.namespace,
            "model": row.key.model,
            "name": row.key.name,
            "holder": row.holder,
            "token": str(row.token),
            "since": row.since,
            "duration-seconds": row.duration_seconds,
            "late-renewals": row.late if held is None else held.late,
            **({} if held is None else {"held-here-seconds": round(held.responsibility.seconds_left, 3)}),
        }


class _Turns:
    """One at a time for each key."""

    def __init__(self) -> None:
        self._locks: dict[Key, tuple[asyncio.Lock, int]] = {}

    @contextlib.asynccontextmanager
    async def of(self, key: Key, deadline: float) -> AsyncIterator[None]:
        """Raises NotReady at the deadline."""
        lock, users = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = (lock, users + 1)
        try:
            try:
                async with asyncio.timeout_at(deadline):
                    await lock.acquire()
            except TimeoutError as error:
                raise errors.NotReady(f"another claim of {key} did not end in time") from error
            try:
                yield
            finally:
                lock.release()
        finally:
            lock, users = self._locks[key]
            if users == 1:
                del self._locks[key]
            else:
                self._locks[key] = (lock, users - 1)

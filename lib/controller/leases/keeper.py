"""Flow 2, hop 2: keeps what is held here: renews it in batches, ends it in time, gives it up in order.

One task renews and one watches the deadlines, however many leases there are. A renewal that hangs holds up other
renewals for one attempt at most, and never the watch.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections import Counter
from collections.abc import Iterable
from typing import Final

from controller.leases.clock import Clock
from controller.leases.holding import Attempt, Held
from controller.leases.lease import Key
from controller.leases.responsible import LATE, Responsibility
from controller.leases.store import Row, Store
from controller.leases.timing import Timing
from dbaccessor import errors, retry

log = logging.getLogger(__name__)

# A committer takes 4096 requests at most, renewals and claims together.
MAX_AT_ONCE: Final = 1024

_TICK_SECONDS = 0.2
_RETRY_SECONDS = 0.05
# How a lease can be lost: not renewed in time; another holds it; its row is gone; its fence was raised by another.
LOSSES: Final = ("late", "taken-over", "freed", "fenced")
# What is due this part of its interval later is renewed along, so that renewals fall into few batches.
_AHEAD: Final = 0.25


class Keeper:
    """What this incarnation holds. Its `run` lives in the manager."""

    def __init__(self, store: Store, timing: Timing, clock: Clock) -> None:
        self.held: dict[Key, Held] = {}
        self.leaving: dict[Key, Held] = {}
        self.counters: Counter[str] = Counter()
        self.losses = Counter(dict.fromkeys(LOSSES, 0))
        # The shortest time that a renewal had left when it came: how near a lease here ever was to being lost.
        self.least_left: float | None = None
        self._store = store
        self._timing = timing
        self._clock = clock
        self._former: dict[Key, Responsibility] = {}
        self._tried = 0
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Renew and watch until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renew_for_ever())
            group.create_task(self._watch_for_ever())

    def next_renewals(self, seen: Row | None) -> int:
        """Return a renewal counter that no attempt of this incarnation has had, and that is above what was seen.

        So a row that has it was made by that one attempt. One number is kept for all leases: one for each could never
        be forgotten, as nobody can say that an attempt in doubt upon a lease that is gone will not happen yet.
        """
        self._tried = max(0 if seen is None else seen.renewals, self._tried) + 1
        return self._tried

    def grant(self, claim: Attempt, responsibility: Responsibility) -> Held:
        """Hold what this attempt is known to have claimed."""
        held = self.held[claim.row.key] = Held(claim, responsibility, self._timing)
        self.counters["claims"] += 1
        self._wake.set()
        return held

    async def renew(self, held: Held) -> bool:
        """Make one attempt; return whether it committed and the lease is held still. Raises DbAccessorError."""
        key, seen = held.row.key, held.row
        if self._is_over(held):
            return False
        attempt = held.attempt(self.next_renewals(seen), self._clock.boottime())
        seconds = self._timing.attempt(held.duration_ms / 1000)
        row = await self._store.move(seen, attempt.row, deadline_seconds=seconds)
        if self.held.get(key) is not held:
            return False
        late, left = held.late, held.responsibility.seconds_left
        if not held.heard(row):
            if row is not None and row.holder:
                self.lose(held, f"controller {row.holder} has taken over", "taken-over")
            else:
                self.lose(held, "its row was freed", "freed")
            return False
        self.counters["late-renewals"] += held.late - late
        self.counters["renewals"] += 1
        self.least_left = left if self.least_left is None else min(self.least_left, left)
        return row is not None and row.renewals == attempt.row.renewals and not self._is_over(held)

    def lose(self, held: Held, why: str, kind: str) -> None:
        """End what is held, without a word to the database. `kind` is one of LOSSES."""
        key = held.row.key
        if held.responsibility.why_over not in ("", LATE):
            kind = "fenced"  # The fence of a later holder ended it before.
        held.responsibility.end(why)
        if self.held.get(key) is held:
            del self.held[key]
            self._former[key] = held.responsibility
            self.counters["lost"] += 1
            self.losses[kind] += 1
            log.warning("lease %s, %s, is lost: %s", key, held.row.token, held.responsibility.why_over)

    async def vacated(self, key: Key) -> None:
        """Return when nobody works any more under what was held or is being given up here."""
        former = self._former.get(key)
        if former is not None:
            await former.vacated()
            if self._former.get(key) is former:
                del self._former[key]

    def begin_to_leave(self, held: Held, why: str) -> None:
        """End it here. To be followed by `leave`, which tells the others."""
        key = held.row.key
        held.responsibility.end(why)
        if self.held.get(key) is held:
            del self.held[key]
            self._former[key] = held.responsibility
            self.leaving[key] = held

    async def leave(self, held: Held, why: str, seconds: float) -> None:
        """Give up in order: end it here, wait until nobody works under it, and only then free the row.

        Returns within `seconds`. What cannot be freed is left to run out by itself.
        """
        key = held.row.key
        self.begin_to_leave(held, why)
        left = held.responsibility.deadline - self._clock.boottime()
        deadline = asyncio.get_running_loop().time() + max(0.0, min(seconds, left))
        try:
            async with asyncio.timeout_at(deadline):
                await self.vacated(key)
            await self.free(held.row, deadline)
            self.counters["given-up"] += 1
            log.info("lease %s, %s, is given up: %s", key, held.row.token, why)
        except (TimeoutError, errors.DbAccessorError) as error:
            log.warning("lease %s is left to run out: %s", key, str(error) or "who works under it has not ended")
        # Cancelled, it stays here, for the manager's own end.
        if self.leaving.get(key) is held:
            del self.leaving[key]

    async def free(self, row: Row, deadline: float) -> None:
        """Take the holder off the row of a holding that has ended here. Raises DbAccessorError."""
        now: Row | None = row
        # A higher token of this incarnation is another holding, which somebody may have begun meanwhile.
        while now is not None and (now.incarnation, now.token) == (row.incarnation, row.token):
            freed = dataclasses.replace(
                now,
                holder="",
                incarnation="",
                renewals=self.next_renewals(now),
                since=int(self._clock.wall()),
                late=0,
            )
            try:
                seconds = min(self._timing.attempt_seconds, retry.left(deadline))
                now = await self._store.move(now, freed, deadline_seconds=seconds)
            except (errors.NotReady, errors.NotLeader, errors.Indefinite):
                # In doubt: the next answer tells, since this one is done once at most.
                if retry.left(deadline) <= _RETRY_SECONDS:
                    raise
                await asyncio.sleep(_RETRY_SECONDS)

    async def leave_all(self, why: str, seconds: float) -> None:
        """Give up everything at once."""
        for part in _parts([*self.held.values(), *self.leaving.values()]):
            await asyncio.gather(*(self.leave(held, why, seconds) for held in part))

    # The two loops

    async def _renew_for_ever(self) -> None:
        while True:
            self._wake.clear()
            problem = False
            for part in _parts(self._due()):
                outcomes = await asyncio.gather(*map(self._renew_quietly, part))
                failed = [outcome for outcome in outcomes if outcome is not None]
                problem |= bool(failed)
                if failed:
                    log.info("%d of %d leases were not renewed yet: %s", len(failed), len(part), failed[0])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause(problem)):
                    await self._wake.wait()

    def _due(self) -> list[Held]:
        now = self._clock.boottime()
        soon = [held for held in self.held.values() if held.renew_at <= now]
        if not soon:
            return []
        renew = self._timing.renew_seconds
        return [h for h in self.held.values() if h.renew_at - _AHEAD * renew(h.row.duration_seconds) <= now]

    def _pause(self, problem: bool) -> float:
        if problem:
            return _RETRY_SECONDS
        first = min((held.renew_at for held in self.held.values()), default=None)
        return 60.0 if first is None else max(0.001, first - self._clock.boottime())

    async def _renew_quietly(self, held: Held) -> str | None:
        """Return why it has to be tried again soon; None when it was renewed, or is not held any more."""
        try:
            if await self.renew(held) or held.responsibility.seconds_left <= 0:
                return None
            return "an attempt before it was answered late"
        except errors.DbAccessorError as error:
            self.counters["failed-renewals"] += 1
            return str(error)

    async def _watch_for_ever(self) -> None:
        while True:
            # Not longer than a tick: the event loop's clock stands still during a suspend, and a holder's does not.
            first = _TICK_SECONDS
            for held in list(self.held.values()):
                left = held.responsibility.seconds_left
                first = min(first, left)
                if left <= 0:
                    self.lose(held, LATE, "late")
            await asyncio.sleep(max(0.001, first))

    def _is_over(self, held: Held) -> bool:
        if held.responsibility.seconds_left > 0:
            return False
        self.lose(held, LATE, "late")
        return True


def _parts(held: Iterable[Held]) -> Iterable[list[Held]]:
    left = list(held)
    while left:
        yield left[:MAX_AT_ONCE]
        left = left[MAX_AT_ONCE:]

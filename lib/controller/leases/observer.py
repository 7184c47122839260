"""Flow 2, hop 2: looks at all leases, again and again, for everybody on this controller who waits for one.

One question for all of them: what has changed since the last answer. It is asked several times a second while
somebody waits, at once when a claim needs to know, and now and then otherwise. What was deleted does not show so: now
and then it asks for all rows.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable
from typing import Final

from controller.leases.clock import Clock
from controller.leases.lease import Key
from controller.leases.sightings import Sightings
from controller.leases.store import Changes, Store
from controller.leases.timing import Timing
from dbaccessor import errors

log = logging.getLogger(__name__)

MAX_WAITING: Final = 16384

# With nobody waiting the answers are for reports only.
_IDLE_SECONDS = 2.0
# A lease that is deleted here and there (the pruner's work) stays in reports for so long.
ALL_SECONDS: Final = 600.0
_ENDED = "the lease manager has ended"


class Observer:
    """Its `run` lives in the manager. `epoch` says which epoch of the cluster this is now."""

    def __init__(
        self, store: Store, incarnation: str, epoch: Callable[[], object], timing: Timing, clock: Clock
    ) -> None:
        self.sightings = Sightings(incarnation)
        self.problem = "the leases were not looked at yet"
        self.looked_at: float | None = None
        self.lookups = Counter({"done": 0, "failed": 0})
        self._store = store
        self._epoch = epoch
        self._timing = timing
        self._clock = clock
        self._waiting: dict[Key, set[asyncio.Future[None]]] = {}
        self._count = 0
        self._asked: set[asyncio.Future[None]] = set()
        self._ended = False
        self._all_due = 0.0
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self._wake.clear()
            await self._look()
            self._tell()
            if self._asked and not self.problem:
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._wake.wait()

    async def wait_until_free(self, key: Key) -> None:
        """Return when the lease may be claimed, as far as can be seen.

        Raises Refused when too many wait, NotReady when this has ended.
        """
        self._check()
        if self._count >= MAX_WAITING:
            raise errors.Refused(f"{self._count} wait for leases already")
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, set()).add(waiter)
        self._count += 1
        self._wake.set()
        try:
            await waiter
        finally:
            self._count -= 1
            self._waiting[key].discard(waiter)
            if not self._waiting[key]:
                del self._waiting[key]

    async def look_now(self, deadline: float) -> None:
        """Return when an answer to a question sent from now on is in `sightings`.

        Raises NotReady at the deadline, and when this has ended.
        """
        self._check()
        answered = asyncio.get_running_loop().create_future()
        self._asked.add(answered)
        self._wake.set()
        try:
            async with asyncio.timeout_at(deadline):
                await answered
        except TimeoutError as error:
            raise errors.NotReady(
                f"the leases could not be looked at in time: {self.problem or 'no answer'}"
            ) from error
        finally:
            self._asked.discard(answered)

    def end(self) -> None:
        """Tell everybody who waits that nobody looks any more."""
        self._ended = True
        for waiter in [*self._asked, *(waiter for waiters in self._waiting.values() for waiter in waiters)]:
            if not waiter.done():
                waiter.set_exception(errors.NotReady(_ENDED))

    def _check(self) -> None:
        if self._ended:
            raise errors.NotReady(_ENDED)

    def heed_epoch(self) -> None:
        """Forget what was seen in another epoch than the present one."""
        self.sightings.heed(self._epoch())

    @property
    def waiting(self) -> int:
        return self._count

    async def _look(self) -> None:
        self.heed_epoch()
        asked, epoch = list(self._asked), self._epoch()
        seconds = max(1.0, self._timing.failover_seconds)
        mark = self.sightings.mark if self._clock.monotonic() < self._all_due else 0
        try:
            changes = await self._ask(mark, seconds)
        except errors.DbAccessorError as error:
            self.problem = str(error)
            self.lookups["failed"] += 1
            return
        if self._epoch() != epoch:
            self.lookups["failed"] += 1
            self.problem = "the cluster's epoch changed while the leases were looked at"
            return
        self.sightings.take(changes, self._clock.monotonic())
        self.looked_at, self.problem = self._clock.monotonic(), ""
        if changes.complete:
            self._all_due = self.looked_at + ALL_SECONDS
        self.lookups["done"] += 1
        for answered in asked:
            if not answered.done():
                answered.set_result(None)
            self._asked.discard(answered)

    async def _ask(self, mark: int, seconds: float) -> Changes:
        """Return what has changed since this mark; asked once more beside a question without an answer in a failover.

        Who led may be gone without a word, and then whoever waits for its answer waits to the end. All who observe
        would see the last renewal so much later, and count from then.
        """

        def ask() -> asyncio.Task[Changes]:
            return asyncio.create_task(self._store.changes(mark, deadline_seconds=seconds))

        asking = {ask()}
        try:
            done, _ = await asyncio.wait(asking, timeout=self._timing.failover_seconds)
            if not done:
                asking.add(ask())
            left = set(asking)
            while True:
                done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
                answered = next((task for task in done if task.exception() is None), None)
                if answered is not None or not left:
                    return (answered or done.pop()).result()
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)

    def _tell(self) -> None:
        """End the waiting of those whose lease is free. Only what was seen in an answer counts."""
        if self.problem or not self.sightings.complete or self.looked_at is None:
            return
        for key, waiters in self._waiting.items():
            if self.sightings.free_at(key) <= self.looked_at:
                for waiter in waiters:
                    if not waiter.done():
                        waiter.set_result(None)

    def _pause(self) -> float:
        """Until the next look: soon while somebody waits, sooner when a lease that is waited for runs out before."""
        if not self._waiting and not self._asked:
            return _IDLE_SECONDS
        if self.problem:
            return self._timing.poll_seconds
        now = self._clock.monotonic()
        due = [free_at - now for free_at in map(self.sightings.free_at, self._waiting) if free_at > now]
        return max(0.001, min(self._timing.poll_seconds, *due)) if due else self._timing.poll_seconds

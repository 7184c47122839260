"""How soon somebody else holds what a dead holder held, at every setting, on a loop whose time jumps.

The bound is what is promised, to the millisecond: nothing here depends on how busy the machine is.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator

import pytest

import jumpingloop
from controller.leases import Denied, Key, Manager
from controller.leases import timing as timings
from controller.leases.clock import Clock
from controller.leases.sightings import Sighting
from controller.leases.takeovers import BOUNDS, TakeOvers
from controller.leases.timing import Timing
from dbaccessor import errors
from dbaccessor.identity import Epoch
from leasetable import MemoryStore, Table

KEY = Key("singular-controller", "m", "m")
LATENCIES_MS = (5, 10, 20, 21, 50, 100)
ANSWER_SECONDS = 0.001
ROUNDS = 8


def durations(timing: Timing) -> list[float]:
    return sorted({timing.shortest_seconds, 2.0, timing.duration_seconds, 15.0, 60.0})


SETTINGS = [
    pytest.param(latency, seconds, id=f"{latency} ms, {seconds:g} s")
    for latency in LATENCIES_MS
    for seconds in durations(timings.for_latency(latency))
    if seconds >= timings.for_latency(latency).shortest_seconds
]


class One:
    """A manager that waits for the lease and claims it, as a flag does, until it is told to stop."""

    def __init__(self, table: Table, holder: str, timing: Timing, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self.store = MemoryStore(table, ANSWER_SECONDS)
        clock = Clock(lambda: 1000 + loop.time(), lambda: 50 + loop.time(), lambda: 1.7e9)
        self.manager = Manager(self.store, holder, lambda: Epoch(0, ""), timing=timing, clock=clock)
        self.seconds = seconds
        self.holds = asyncio.Event()
        self.tasks = [loop.create_task(self.manager.run()), loop.create_task(self._want())]

    async def _want(self) -> None:
        while True:
            await self.manager.wait_until_free(KEY)
            with contextlib.suppress(Denied, errors.NotReady):
                mine = await self.manager.claim(KEY, self.seconds)
                self.holds.set()
                await mine.lost()
                self.holds.clear()

    def kill(self) -> None:
        """What kill -9 leaves behind: nothing is given up."""
        self.store.cut = True
        for task in self.tasks:
            task.cancel()


@contextlib.contextmanager
def several(timing: Timing, seconds: float) -> Iterator[list[One]]:
    table = Table()
    ones = [One(table, str(n), timing, seconds) for n in range(3)]
    try:
        yield ones
    finally:
        for one in ones:
            one.kill()


async def until_held(ones: list[One], limit_seconds: float) -> One:
    waiting = {asyncio.create_task(one.holds.wait()): one for one in ones}
    done, pending = await asyncio.wait(waiting, timeout=limit_seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    assert done, f"nobody holds it within {limit_seconds:g} s"
    return waiting[done.pop()]


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize(("latency_ms", "seconds"), SETTINGS)
def test_after_a_kill_another_holds_within_the_duration_and_a_poll(latency_ms: int, seconds: float):
    timing = timings.for_latency(latency_ms)

    async def story(phase: float) -> None:
        with several(timing, seconds) as ones:
            first = await until_held(ones, 5)
            await asyncio.sleep(2 * timing.renew_seconds(seconds) + phase)
            first.kill()
            killed = now()
            other = await until_held([one for one in ones if one is not first], 2 * seconds + 5)
            took = now() - killed
            assert seconds - timing.renew_seconds(seconds) - 0.1 < took <= seconds + timing.poll_seconds + 0.01
            # Its own account: claimed at once when it could be, which was the duration after it saw the last change.
            told = other.manager.report()["take-overs"]
            assert told["count"] == 1
            assert 0 <= told["last"]["claimed-after-seconds"] <= timing.poll_seconds
            assert told["last"]["seconds"] <= seconds + timing.poll_seconds

    dice = random.Random(f"{latency_ms} {seconds}")
    for _ in range(ROUNDS):
        jumpingloop.run(story(dice.uniform(0, timing.renew_seconds(seconds))))


@pytest.mark.parametrize("silent", [False, True], ids=["refusing", "silent"])
@pytest.mark.parametrize("latency_ms", LATENCIES_MS)
def test_with_the_leader_dead_in_the_same_moment_it_is_within_what_is_promised_and_a_second(
    latency_ms: int, silent: bool
):
    timing = timings.for_latency(latency_ms)
    seconds = timing.duration_seconds

    async def story(phase: float) -> None:
        with several(timing, seconds) as ones:
            first = await until_held(ones, 5)
            await asyncio.sleep(2 * timing.renew_seconds(seconds) + phase)
            others = [one for one in ones if one is not first]
            # The worst moment: right after a renewal, which nobody has seen yet.
            table = first.store.table
            before = table.changed
            while table.changed == before:
                await asyncio.sleep(ANSWER_SECONDS)
            first.kill()
            killed = now()
            for one in others:
                if silent:  # What was asked of the one that is gone hangs, also when there is another leader.
                    one.store.silent_until = killed + timing.failover_seconds
                else:  # Nobody is answered before there is another leader.
                    one.store.seconds = timing.failover_seconds
            await asyncio.sleep(timing.failover_seconds)
            for one in others:
                one.store.seconds = ANSWER_SECONDS
            await until_held(others, 2 * seconds + 5)
            assert now() - killed <= timing.promised_seconds + 1

    dice = random.Random(latency_ms)
    for _ in range(ROUNDS):
        jumpingloop.run(story(dice.uniform(0, timing.renew_seconds(seconds))))


@pytest.mark.parametrize("latency_ms", LATENCIES_MS)
def test_after_a_clean_stop_another_holds_within_a_poll_and_two_answers(latency_ms: int):
    timing = timings.for_latency(latency_ms)

    async def story() -> None:
        with several(timing, timing.duration_seconds) as ones:
            first = await until_held(ones, 5)
            await asyncio.sleep(3.33)
            told = now()
            for task in first.tasks:
                task.cancel()
            other = await until_held([one for one in ones if one is not first], 10)
            assert now() - told <= timing.poll_seconds + 10 * ANSWER_SECONDS < 1
            assert other.manager.report()["take-overs"]["count"] == 0, "what was given up is not taken over"

    jumpingloop.run(story())


@pytest.mark.parametrize("latency_ms", LATENCIES_MS)
def test_when_only_answers_are_lost_one_more_renewal_counts_and_no_second_one(latency_ms: int):
    """The holder's requests arrive and it hears nothing: what it sends after the first compares with a row that is
    gone. So it has the lease for one renewal longer than if all was cut, and never for two."""
    timing = timings.for_latency(latency_ms)
    seconds = timing.duration_seconds

    async def story(phase: float) -> None:
        with several(timing, seconds) as ones:
            first = await until_held(ones, 5)
            await asyncio.sleep(2 * timing.renew_seconds(seconds) + phase)
            before = first.manager.held(KEY)
            assert before is not None
            first.store.deaf = True
            cut, changes = now(), len(first.store.table.history)
            other = await until_held([one for one in ones if one is not first], 3 * seconds + 5)
            took = now() - cut
            assert took <= seconds + timing.renew_seconds(seconds) + timing.poll_seconds + 0.01
            assert before.why_over, "it had stopped before"
            # One renewal of the old holder's, then the new one's claim.
            assert [row.holder for row in first.store.table.history[changes:]][:2] == [
                first.manager.holder,
                other.manager.holder,
            ]

    dice = random.Random(latency_ms)
    for _ in range(ROUNDS):
        jumpingloop.run(story(dice.uniform(0, timing.renew_seconds(seconds))))


def test_what_is_taken_over_is_counted_by_how_long_it_took():
    async def story() -> None:
        table, timing = Table(), timings.for_latency(10)
        one = One(table, "0", timing, 5.0)
        await until_held([one], 5)
        (row,) = (found for found, _ in table.rows.values())
        one.kill()

        taken = TakeOvers()
        taken.note(Sighting(row, 10.0), 15.05, 15.1)
        taken.note(Sighting(row, 10.0), 17.0, 17.5)

        told = taken.report()
        assert (told["count"], told["total-seconds"]) == (2, 12.6)
        assert told["last"] == {"duration-seconds": 5.0, "claimed-after-seconds": 2.0, "seconds": 7.5}
        assert [told["within"][bound] for bound in ("5.0", "5.25", "7.0", "8.0", "3600.0")] == [0, 1, 1, 2, 2]
        assert list(BOUNDS) == sorted(BOUNDS)

    jumpingloop.run(story())

"""At most one holder acts, whatever happens to whom; and soon after it is over, somebody does.

Each controller is a process of its own (manyprocesses.py). Requests and answers are late, lost, or carried out long
after their sender gave up; processes are paused, suspended, killed, started again; clocks go at different rates.
"""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from controller.leases import Denied, Key, LeaseError, Manager, Responsibility
from controller.leases import timing as timings
from controller.leases.clock import Clock
from controller.leases.store import Changes, Row
from dbaccessor import errors
from dbaccessor.identity import Epoch
from leasetable import Table
from manyprocesses import Process, World

KEYS = [Key("singular-controller", name, name) for name in ("m", "n")]
TIMING = timings.for_latency(10)
DURATION = TIMING.duration_seconds
# Two clocks may differ by a thousandth: that is what the margin's second part is for.
RATES = (0.9995, 1.0, 1.0005)


class FaultyStore:
    """A way to the table on which anything gets late or lost."""

    def __init__(self, world: World, process: Process, table: Table, dice: random.Random) -> None:
        self._world = world
        self._process = process
        self._table = table
        self._dice = dice
        self.cut = False
        self.worst_seconds = 0.01
        self.ended = False

    async def move(self, seen: Row | None, new: Row, *, deadline_seconds: float) -> Row | None:
        try:
            return await self._ask(lambda: self._table.move(seen, new), deadline_seconds)
        except TimeoutError as error:
            raise errors.Indefinite("no answer in time; it may be committed") from error

    async def changes(self, mark: int, *, deadline_seconds: float) -> Changes:
        try:
            return await self._ask(lambda: self._table.changes(mark), deadline_seconds)
        except TimeoutError as error:
            raise errors.NotReady("no answer in time") from error

    async def _ask(self, what, deadline_seconds: float):
        if self.ended:
            raise errors.NotReady("the test is over")
        answer = self._process.loop.create_future()
        lost = self.cut

        def arrive() -> None:
            said = what()
            if not lost and not self.cut:
                self._world.at(self._seconds(), lambda: deliver(said))

        def deliver(said) -> None:
            if not self._process.loop.is_closed():
                self._process.loop.call_soon(lambda: answer.done() or answer.set_result(said))

        # What is cut off may still be on its way, and arrive long after its sender gave up.
        if not lost or self._dice.random() < 0.5:
            self._world.at(self._seconds() + (self._dice.uniform(0, 3) if lost else 0), arrive)
        async with asyncio.timeout(deadline_seconds):
            return await answer

    def _seconds(self) -> float:
        return self._dice.uniform(0.0005, self.worst_seconds)


class Controller:
    """One process with a manager, and one task a lease that acts whenever it is responsible."""

    def __init__(self, run: Faults, holder: str, rate: float) -> None:
        self.run = run
        self.process = Process(run.world, rate, run.dice.uniform(0, 1e6))
        self.store = FaultyStore(run.world, self.process, run.table, run.dice)
        self.alive = True
        self.holds: dict[Key, Responsibility] = {}
        self.process.spawn(self._live(holder))

    async def _live(self, holder: str) -> None:
        clock = Clock(self.process.boottime, self.process.monotonic, lambda: self.run.dice.uniform(0, 4e9))
        self.manager = Manager(self.store, holder, lambda: Epoch(0, ""), timing=TIMING, clock=clock)
        async with asyncio.TaskGroup() as group:
            for key in KEYS:
                group.create_task(self._work(key))
            self.managing = group.create_task(self.manager.run())

    async def _work(self, key: Key) -> None:
        while True:
            try:
                await self.manager.wait_until_free(key)
                responsibility = await self.manager.claim(key, DURATION)
                self.holds[key] = responsibility
                self.run.granted(self, key)
                await self._act(responsibility)
            except (Denied, LeaseError):
                pass
            except errors.DbAccessorError:
                await asyncio.sleep(0.1)

    async def _act(self, responsibility: Responsibility) -> None:
        with responsibility.occupied():
            while True:
                responsibility.check()
                self.run.acted(responsibility)
                await asyncio.sleep(0.02)

    def valid(self, key: Key) -> bool:
        """Whether a check in this very moment would pass, or will if the process goes on now."""
        found = self.holds.get(key)
        return self.alive and found is not None and found.seconds_left > 0


class Faults(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 2**32), count=st.sampled_from([2, 3, 5]))
    def begin(self, seed: int, count: int) -> None:
        self.dice = random.Random(seed)
        self.world = World()
        self.table = Table()
        # What is seen inside of a process is raised outside, where nobody catches it.
        self.wrong: list[str] = []
        self.acts: dict[Key, list[tuple[float, Responsibility]]] = {key: [] for key in KEYS}
        self.controllers = [Controller(self, str(n), self.dice.choice(RATES)) for n in range(count)]
        self.world.run(1)

    def granted(self, by: Controller, key: Key) -> None:
        if any(other is not by and other.valid(key) for other in self.controllers):
            self.wrong.append(f"{key} is granted while another's check would pass")

    def acted(self, responsibility: Responsibility) -> None:
        acts = self.acts[responsibility.key]
        if acts and acts[-1][1].token > responsibility.token:
            self.wrong.append("a former holder acts after a later one")
        if acts and acts[-1][1].token == responsibility.token and acts[-1][1] is not responsibility:
            self.wrong.append("two holdings have one token")
        acts.append((self.world.now, responsibility))

    @invariant()
    def nothing_is_wrong(self) -> None:
        assert getattr(self, "wrong", []) == []

    def one(self, which: int) -> Controller:
        return self.controllers[which % len(self.controllers)]

    who = st.integers(0, 9)

    @rule(seconds=st.sampled_from([0.05, 0.5, 1.0, 3.0, 4.7, 4.8, 5.0, 5.2, 7.0]))
    def time_goes_on(self, seconds: float) -> None:
        self.world.run(seconds)

    @rule(which=who, suspended=st.booleans())
    def pause(self, which: int, suspended: bool) -> None:
        self.one(which).process.pause(suspended=suspended)

    @rule(key=st.sampled_from(KEYS), seconds=st.sampled_from([0.5, 4.5, 5.0, 8.0]))
    def pause_the_holder(self, key: Key, seconds: float) -> None:
        for one in self.controllers:
            if one.valid(key):
                one.process.pause()
        self.world.run(seconds)

    @rule(which=who)
    def go_on(self, which: int) -> None:
        self.one(which).process.go_on()

    @rule(which=who)
    def cut_off(self, which: int) -> None:
        self.one(which).store.cut = True

    @rule(key=st.sampled_from(KEYS), seconds=st.sampled_from([0.5, 4.5, 5.0, 8.0]))
    def cut_the_holder_off(self, key: Key, seconds: float) -> None:
        for one in self.controllers:
            if one.valid(key):
                one.store.cut = True
        self.world.run(seconds)

    @rule(which=who)
    def connect(self, which: int) -> None:
        self.one(which).store.cut = False

    @rule(which=who, worst=st.sampled_from([0.01, 0.3, 1.5, 4.0]))
    def be_slow(self, which: int, worst: float) -> None:
        self.one(which).store.worst_seconds = worst

    @rule(which=who)
    def kill(self, which: int) -> None:
        one = self.one(which)
        one.alive, one.process.dead = False, True

    @rule(which=who)
    def stop(self, which: int) -> None:
        one = self.one(which)
        if one.alive and not one.process.paused:
            for task in asyncio.all_tasks(one.process.loop):
                one.process.loop.call_soon(task.cancel)
            self.world.run(0.1)

    @rule(which=who)
    def give_up(self, which: int) -> None:
        one = self.one(which)
        if one.alive and not one.process.paused:
            for responsibility in one.holds.values():
                one.process.loop.call_soon(one.manager.give_up, responsibility)

    @rule(which=who, rate=st.sampled_from(RATES))
    @precondition(lambda self: len(self.controllers) < 12)
    def start_another_process(self, which: int, rate: float) -> None:
        n = which % len(self.controllers)
        self.controllers.append(Controller(self, str(n), rate))

    def teardown(self) -> None:
        if not hasattr(self, "controllers"):
            return
        for one in self.controllers:
            one.process.go_on()
            one.store.cut, one.store.worst_seconds = False, 0.01
        self.controllers.append(Controller(self, "last", 1.0))
        # What is on its way still may take three seconds and more.
        self.world.run(TIMING.promised_seconds + 1 + 4)
        since = self.world.now - 0.1
        try:
            self.nothing_is_wrong()
            for key in KEYS:
                assert self.acts[key] and self.acts[key][-1][0] > since, f"nobody acts for {key}"
                tokens = [row.token for row in self.table.history if row.key == key]
                assert tokens == sorted(tokens)
        finally:
            for one in self.controllers:
                one.store.ended = True
            self.world.close()


def play(examples: int) -> None:
    # Nothing is made smaller: that takes hours, and what was found first is told by its orders.
    settled = settings(
        max_examples=examples,
        stateful_step_count=30,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow],
    )
    run_state_machine_as_test(Faults, settings=settled)


def test_at_most_one_acts_at_any_time_and_somebody_soon_after():
    play(12)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_at_most_one_acts_at_any_time_and_somebody_soon_after_at_length():
    play(600)

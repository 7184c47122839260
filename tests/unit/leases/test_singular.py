"""A lease becomes a flag, the flag runs a worker: on the real engine, on a loop whose time jumps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

import jumpingloop
from controller.engine import Engine, EngineError, Getter, Manifold, Worker
from controller.leases import FencedDatabase, Key, Manager, Responsibility, Singular, Token, is_responsible, singular
from controller.leases import timing as timings
from controller.leases.clock import Clock
from dbaccessor import errors
from dbaccessor.database import Database
from dbaccessor.identity import Epoch
from leasetable import MemoryStore, Table
from sqlitenode import SqliteNode

KEY = Key("singular-controller", "m", "m")
TIMING = timings.for_latency(10)
DURATION = TIMING.duration_seconds


class Controller:
    """An engine with a lease manager, the flag, and one worker that must run once."""

    def __init__(self, table: Table, holder: str, at_work: list[str], slow_seconds: float = 0.0) -> None:
        self.store = MemoryStore(table, 0.001)
        self.holder = holder
        self.at_work = at_work
        self.slow_seconds = slow_seconds
        self.engine = Engine(
            {
                "lease-manager": Manifold(self._manager),
                "is-responsible": singular("lease-manager", KEY, DURATION),
                "work": is_responsible()(Manifold(self._work, output=lambda worker: worker.responsibility)),
                "uses-work": Manifold(lambda get: Idle(get("work", Responsibility)), inputs=("work",)),
            }
        )
        self.task = asyncio.get_running_loop().create_task(self.engine.run())

    def _manager(self, _: Getter) -> Worker:
        loop = asyncio.get_running_loop()
        clock = Clock(loop.time, loop.time)
        return Manager(self.store, self.holder, lambda: Epoch(0, ""), timing=TIMING, clock=clock)

    def _work(self, get: Getter) -> Worker:
        found = get("is-responsible", Singular).responsibility  # type: ignore[type-abstract]
        assert found is not None
        return Lone(self, found)

    def state(self, name: str) -> str:
        return str(self.engine.report()["manifolds"][name]["state"])

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


class Lone:
    def __init__(self, controller: Controller, responsibility: Responsibility) -> None:
        self.controller = controller
        self.responsibility = responsibility

    async def run(self) -> None:
        at_work = self.controller.at_work
        at_work.append(self.controller.holder)
        assert len(at_work) == 1, f"at work at once: {at_work}"
        try:
            while True:
                self.responsibility.check()
                await asyncio.sleep(0.05)
        finally:
            await asyncio.sleep(self.controller.slow_seconds)
            at_work.remove(self.controller.holder)

    def report(self) -> dict[str, object]:
        return {"token": str(self.responsibility.token)}


class Idle:
    def __init__(self, responsibility: Responsibility) -> None:
        self.responsibility = responsibility

    async def run(self) -> None:
        await asyncio.Event().wait()


def play(count: int, story: Callable[..., Awaitable[None]], slow_seconds: float = 0.0) -> None:
    async def run() -> None:
        table, at_work = Table(), list[str]()
        ones = [Controller(table, str(n), at_work, slow_seconds) for n in range(count)]
        await asyncio.sleep(1)
        try:
            await story(at_work, *ones)
        finally:
            for one in ones:
                await one.stop()

    jumpingloop.run(run())


async def until_at_work(at_work: list[str], other_than: str) -> float:
    """Return after how many seconds somebody else is at work."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not at_work or at_work == [other_than]:
        assert loop.time() - began < 30
        await asyncio.sleep(0.01)
    return loop.time() - began


def test_one_of_three_works_and_the_others_say_why_not():
    async def story(at_work: list[str], *ones: Controller) -> None:
        await asyncio.sleep(60)
        (holder,) = at_work
        for one in ones:
            reports = one.engine.report()["manifolds"]
            if one.holder == holder:
                assert reports["is-responsible"]["report"]["token"] == "0.1"
                assert reports["work"]["report"] == {"token": "0.1"}
                assert one.state("uses-work") == "started"
                assert reports["work"]["start-count"] == 1
            else:
                assert reports["work"]["why"] == "missing: is-responsible says no"
                assert reports["is-responsible"]["report"]["why"].endswith(f"is held by controller {holder}")

    play(3, story)


def test_a_clean_stop_hands_the_work_over_in_less_than_a_second():
    async def story(at_work: list[str], *ones: Controller) -> None:
        for _ in range(2):
            holder = at_work[0]
            stopping = asyncio.create_task(ones[int(holder)].stop())
            assert await until_at_work(at_work, holder) < 0.5
            await stopping

    play(3, story)


def test_the_work_has_ended_before_the_lease_is_given_up():
    async def story(at_work: list[str], *ones: Controller) -> None:
        holder = at_work[0]
        stopping = asyncio.create_task(ones[int(holder)].stop())
        assert 1.5 < await until_at_work(at_work, holder) < 2
        await stopping

    # The worker itself asserts that it is alone.
    play(2, story, slow_seconds=1.5)


def test_who_is_cut_off_stops_and_another_works_within_the_promise():
    async def story(at_work: list[str], *ones: Controller) -> None:
        holder = at_work[0]
        ones[int(holder)].store.cut = True
        assert await until_at_work(at_work, holder) < TIMING.promised_seconds + 1
        ones[int(holder)].store.cut = False
        await asyncio.sleep(10)
        assert ones[int(holder)].state("work") == "stopped"

    play(2, story)


def test_a_lone_controller_that_was_cut_off_works_again_at_once_when_it_is_back():
    async def story(at_work: list[str], only: Controller) -> None:
        only.store.cut = True
        await asyncio.sleep(30)
        assert at_work == []
        only.store.cut = False
        assert await until_at_work(at_work, "nobody") < 1.5
        report = only.engine.report()["manifolds"]["work"]["report"]
        assert report == {"token": "0.2"}

    play(1, story)


def test_a_database_that_is_away_for_long_makes_nobody_back_off():
    async def story(at_work: list[str], *ones: Controller) -> None:
        for one in ones:
            one.store.cut = True
        await asyncio.sleep(300)
        for one in ones:
            one.store.cut = False
        assert await until_at_work(at_work, "nobody") < 2

    play(3, story)


def test_a_lease_manager_that_fails_takes_the_work_down_and_up_again():
    async def story(at_work: list[str], *ones: Controller) -> None:
        holder = at_work[0]
        ones[int(holder)].store.troubles = iter([("before", ZeroDivisionError("a bug"))])  # type: ignore[list-item]
        assert await until_at_work(at_work, holder) < 3
        await asyncio.sleep(10)
        assert ones[int(holder)].state("lease-manager") == "started"
        assert len(at_work) == 1

    play(2, story)


def test_a_refused_claim_is_tried_again():
    async def story(at_work: list[str], only: Controller) -> None:
        assert at_work == ["0"]

    async def run() -> None:
        at_work = list[str]()
        one = Controller(Table(), "0", at_work)
        one.store.troubles = iter([("before", errors.Refused("4096 requests wait already"))])
        await asyncio.sleep(3)
        await story(at_work, one)
        await one.stop()

    jumpingloop.run(run())


class Asking:
    """A getter whose one database is real."""

    def __init__(self, held: Responsibility) -> None:
        self.held = held
        self.responsibility = held
        self.database = Database(SqliteNode(), "model-m")  # type: ignore[arg-type]

    def check(self) -> bool:
        return True

    def __call__(self, name: str, kind: type) -> object:
        found = self if name == "is-responsible" else self.database
        assert isinstance(found, kind)
        return found


@pytest.mark.parametrize("kind", [Database, object])
def test_a_single_instance_worker_gets_its_database_fenced_and_not_otherwise(kind: type):
    async def story() -> None:
        asking = Asking(Responsibility(KEY, Token(0, 1), "0", "i", lambda: 0.0))
        got: list[object] = []

        def start(get: Getter) -> Worker:
            got.append(get("model-database", FencedDatabase))
            get("model-database", kind)
            raise AssertionError("a plain database was handed out")

        with pytest.raises(EngineError, match=r'ask for get\("model-database", FencedDatabase\)'):
            is_responsible()(Manifold(start, inputs=("model-database",))).start(asking)  # type: ignore[arg-type]
        assert got == [asking.held.fenced(asking.database)]
        asking.database.close()

    asyncio.run(story())

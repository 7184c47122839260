"""The provisioner against a provider in memory: what it does, and what it leaves behind wherever it is stopped."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest

import jumpingloop
from controller.workers import machinerows
from controller.workers.computeprovisioner import ANOTHER_PROVIDER, NO_PROVIDER, ComputeProvisioner, Pace
from controller.workers.machines import Machine, State
from controller.workers.provider import NotDone, Refused, Spec, TryAgain
from dbaccessor import errors
from fakeprovider import FakeCloud, FakeProvider
from fencedsqlite import Fenced, FencedStore, Store

UUIDS = [f"00000000-0000-4000-8000-{n:012d}" for n in range(40)]
PATCHES = ("0002-machine.sql", "0005-machine-provider.sql", "0006-machine-sweep.sql")
STRANGER = "11111111-0000-4000-8000-000000000000"


@dataclass
class World:
    """What outlives every holder: the database and the cloud."""

    store: Store = field(default_factory=lambda: Store(*PATCHES))
    cloud: FakeCloud = field(default_factory=FakeCloud)
    provider: bool = True
    pace: Pace = field(default_factory=Pace)
    epoch: int = 1

    def holder(self, token: int = 1, step=None, check: Callable[[], None] = lambda: None) -> ComputeProvisioner:
        async def find():
            return FakeProvider(self.cloud, step=step) if self.provider else None

        self.database = FencedStore(self.store, token, step)
        return ComputeProvisioner(
            self.database, check, find, lambda m: Spec(f"machine-{m.number}"), self.pace, epoch=lambda: self.epoch
        )

    async def add(self, count: int, first: int = 0, **options) -> tuple[Machine, ...]:
        uuids = UUIDS[first : first + count]
        return await self._apart(lambda tx: machinerows.add(tx, uuids, **options))

    async def remove(self, *numbers: int) -> None:
        await self._apart(lambda tx: machinerows.remove(tx, numbers))

    async def retry(self, *numbers: int) -> None:
        await self._apart(lambda tx: machinerows.retry(tx, numbers))

    async def _apart(self, body):
        # An operator's own transaction, which knows nothing of fences.
        return await FencedStore(self.store, self.store.fence).run(body)

    def states(self) -> dict[int, str]:
        return dict(self.store.rows("SELECT number, state FROM machine ORDER BY number"))

    def reasons(self) -> set[str]:
        return {row[0] for row in self.store.rows("SELECT reason FROM machine")}

    async def until(self, fact: Callable[[], bool], what: str, seconds: float = 300) -> None:
        async with asyncio.timeout(seconds):
            while not fact():
                await asyncio.sleep(0.05)

    async def until_states(self, *states: str) -> None:
        await self.until(lambda: list(self.states().values()) == list(states), f"{states}")


@contextlib.asynccontextmanager
async def working(provisioner: ComputeProvisioner) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(provisioner.run())
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def test_machines_are_started_and_removed_ones_are_stopped():
    async def story() -> None:
        world = World()
        await world.add(3)
        async with working(world.holder()) as task:
            await world.until_states("started", "started", "started")
            assert sorted(world.cloud.instances) == UUIDS[:3]
            instance = world.cloud.instances[UUIDS[1]]
            assert world.store.rows("SELECT instance, address FROM machine WHERE number = 1") == [
                (instance.id, instance.address)
            ]
            assert world.cloud.specs[UUIDS[1]].hostname == "machine-1"

            await world.remove(1)
            await world.until_states("started", "stopped", "started")
            assert world.cloud.ended == [UUIDS[1]]
            assert not task.done()

    jumpingloop.run(story())


def test_a_poke_is_enough_and_without_one_it_looks_by_itself():
    async def story() -> None:
        world = World()
        provisioner = world.holder()
        async with working(provisioner):
            await asyncio.sleep(1)
            await world.add(1)
            begun = asyncio.get_running_loop().time()
            provisioner.poke()
            await world.until_states("started")
            assert asyncio.get_running_loop().time() - begun < 0.2
            await world.add(1, first=1)
            await world.until_states("started", "started")
            assert asyncio.get_running_loop().time() - begun < Pace().poll + 0.2

    jumpingloop.run(story())


def test_calls_run_side_by_side_and_not_more_than_so_many():
    async def story() -> None:
        world = World()
        world.cloud.start_seconds = 1.0
        await world.add(40)
        async with working(world.holder()):
            await world.until_states(*["started"] * 40)
            assert world.cloud.most_under_way == Pace().calls
            assert asyncio.get_running_loop().time() < 40 / Pace().calls + 2

    jumpingloop.run(story())


def test_without_a_provider_machines_wait_and_say_what_for():
    async def story() -> None:
        world = World(provider=False)
        await world.add(2)
        await world.add(1, first=2, manual=True)
        async with working(world.holder()):
            await world.until(lambda: NO_PROVIDER in world.reasons(), "the reason")
            assert world.states() == {0: "pending", 1: "pending", 2: "pending"}
            assert "hactl controller-config local-provider=" in NO_PROVIDER
            world.provider = True
            await world.until_states("started", "started", "pending")
            assert world.reasons() == {"", "manual: waits for its agent"}

    jumpingloop.run(story())


def test_a_machine_of_another_provider_is_neither_lost_nor_stopped_before_that_one_is_set_again():
    async def story() -> None:
        world = World()
        first, second = world.cloud, FakeCloud("http://cloud:2")
        await world.add(2)
        provisioner = world.holder()
        async with working(provisioner):
            await world.until_states("started", "started")
            world.cloud = second
            await asyncio.sleep(3 * Pace().sweep)
            assert world.states() == {0: "started", 1: "started"}
            await world.remove(0)
            await world.until(lambda: ANOTHER_PROVIDER.format(first.name) in world.reasons(), "what it waits for")
            assert first.name in ANOTHER_PROVIDER.format(first.name)
            await asyncio.sleep(3 * Pace().sweep)
            assert world.states() == {0: "stopping", 1: "started"}
            assert (first.ended, second.stopped) == ([], set())
            world.provider = False
            await asyncio.sleep(3 * Pace().sweep)
            assert ANOTHER_PROVIDER.format(first.name) in world.reasons()
            world.provider, world.cloud = True, first
            await world.until_states("stopped", "started")
            assert first.ended == [UUIDS[0]]
        assert provisioner.report()["counters"]["lost"] == 0

    jumpingloop.run(story())


@pytest.mark.parametrize(
    ("trouble", "where"),
    [(TryAgain("no answer"), "http://cloud:1"), (NotDone("connection refused"), "http://cloud:2")],
)
def test_what_another_provider_may_have_started_is_not_started_a_second_time(trouble: TryAgain, where: str):
    async def story() -> None:
        world = World()
        clouds = [world.cloud, FakeCloud("http://cloud:2")]
        clouds[0].start_troubles = {UUIDS[0]: [trouble]}
        await world.add(1)
        async with working(world.holder()):
            await world.until_states("error")
            world.cloud = clouds[1]
            await asyncio.sleep(3 * Pace().sweep)
            assert world.states() == {0: "started" if where == world.cloud.name else "error"}
            world.cloud = next(cloud for cloud in clouds if cloud.name == where)
            await world.until_states("started")
            assert [cloud.name for cloud in clouds if cloud.made] == [where]

    jumpingloop.run(story())


def test_a_row_of_an_earlier_version_is_of_whichever_provider_is_set():
    async def story() -> None:
        world = World()
        await world.add(1)
        async with working(world.holder()):
            await world.until_states("started")
            world.store.rows("UPDATE machine SET provider = ''")
            world.cloud = FakeCloud("http://cloud:2")
            await world.remove(0)
            await world.until_states("stopped")

    jumpingloop.run(story())


def test_what_may_pass_is_tried_again_later_each_time_and_what_may_not_is_not():
    async def story() -> None:
        world = World()
        world.cloud.start_troubles = {UUIDS[0]: [TryAgain("no room")] * 3, UUIDS[1]: [Refused("a bad name")]}
        await world.add(2)
        async with working(world.holder()):
            await world.until_states("error", "error")
            assert world.store.rows("SELECT reason, retry_seconds FROM machine ORDER BY number") == [
                ("no room", 1),
                ("a bad name", None),
            ]
            await world.until_states("started", "error")
            assert 1 + 2 + 4 <= asyncio.get_running_loop().time() < 1 + 2 + 4 + 1
            await asyncio.sleep(100)
            assert world.states()[1] == "error"
            await world.remove(1)
            await world.until_states("started", "stopped")

    jumpingloop.run(story())


def test_a_new_holder_counts_the_delay_from_when_it_saw_it():
    async def story() -> None:
        world = World()
        world.cloud.start_troubles = {"": [TryAgain("no room")]}
        await world.add(1)
        async with working(world.holder(1)):
            await world.until_states("error")
        await asyncio.sleep(1000)
        begun = asyncio.get_running_loop().time()
        async with working(world.holder(2)):
            await world.until_states("started")
        assert 1 <= asyncio.get_running_loop().time() - begun < 1.2

    jumpingloop.run(story())


def test_a_stop_that_fails_is_repeated_until_it_is_done():
    async def story() -> None:
        world = World()
        world.cloud.stop_troubles = [TryAgain("no answer"), Refused("not today")]
        await world.add(1)
        async with working(world.holder()):
            await world.until_states("started")
            await world.remove(0)
            await world.until(lambda: "not today" in world.reasons(), "the second reason")
            await world.until_states("stopped")
            assert world.cloud.instances == {}

    jumpingloop.run(story())


def test_an_instance_that_no_row_knows_is_stopped_and_those_of_others_are_not():
    async def story() -> None:
        world = World()
        await world.add(1)
        world.cloud.make(STRANGER, "model")
        world.cloud.make("22222222-0000-4000-8000-000000000000", "another model")
        async with working(world.holder()) as task:
            await world.until_states("started")
            await world.until(lambda: world.cloud.ended == [STRANGER], "the stranger to be stopped")
            world.cloud.make(UUIDS[9], "model")
            await world.until(lambda: UUIDS[9] in world.cloud.ended, "one that came later, too", Pace().sweep + 1)
            assert len(world.cloud.instances) == 2
            assert not task.done()

    jumpingloop.run(story())


def test_in_a_new_epoch_what_no_row_knows_is_named_and_left_alone_for_ten_minutes():
    async def story() -> None:
        world = World(epoch=2)
        await world.add(1)
        world.cloud.make(STRANGER, "model")
        provisioner = world.holder(1)
        async with working(provisioner):
            await world.until_states("started")
            await asyncio.sleep(Pace().spare - 2 * Pace().sweep)
            assert world.cloud.ended == []
            assert list(provisioner.report()["spared"]) == [STRANGER]
        begun = asyncio.get_running_loop().time()
        provisioner = world.holder(2)
        async with working(provisioner):
            await world.until(lambda: world.cloud.ended == [STRANGER], "it is stopped then", 2 * Pace().spare)
            assert asyncio.get_running_loop().time() - begun >= Pace().spare, "whoever takes over counts anew"
            assert "spared" not in provisioner.report()
        world.cloud.make(UUIDS[9], "model")
        async with working(world.holder(3)):
            await world.until(lambda: UUIDS[9] in world.cloud.ended, "the rows are believed now", Pace().sweep)
            world.epoch = 3
            world.cloud.make(UUIDS[8], "model")
            await asyncio.sleep(Pace().spare - Pace().sweep)
            assert UUIDS[8] in world.cloud.instances, "the epoch rose under it"

    jumpingloop.run(story())


def test_without_a_provider_nothing_is_stopped_however_long_the_epoch_lasts():
    async def story() -> None:
        world = World(epoch=2)
        world.cloud.make(STRANGER, "model")
        async with working(world.holder()):
            await asyncio.sleep(Pace().spare / 2)
            world.provider = False
            await asyncio.sleep(2 * Pace().spare)
            world.provider = True
            await asyncio.sleep(Pace().spare - 2 * Pace().sweep)
            assert world.cloud.ended == []
            await world.until(lambda: world.cloud.ended == [STRANGER], "the time to be up")

    jumpingloop.run(story())


def test_rows_that_know_every_instance_are_believed_at_once_in_a_new_epoch():
    async def story() -> None:
        world = World(epoch=2)
        await world.add(1)
        async with working(world.holder()):
            await world.until_states("started")
            await asyncio.sleep(2 * Pace().sweep)
            world.cloud.make(STRANGER, "model")
            await world.until(lambda: world.cloud.ended == [STRANGER], "the stranger to be stopped", 2 * Pace().sweep)

    jumpingloop.run(story())


def test_more_unknown_ones_than_calls_are_all_stopped_in_one_go():
    async def story() -> None:
        world = World()
        for uuid in UUIDS[:30]:
            world.cloud.make(uuid, "model")
        async with working(world.holder()):
            await world.until(lambda: not world.cloud.instances, "all of them to go", Pace().sweep)

    jumpingloop.run(story())


def test_an_instance_that_vanished_is_lost_and_one_that_is_listed_again_is_not():
    async def story() -> None:
        world = World()
        await world.add(2)
        provisioner = world.holder()
        async with working(provisioner):
            await world.until_states("started", "started")
            await asyncio.sleep(2 * Pace().sweep)
            gone = world.cloud.instances.pop(UUIDS[0])
            await world.until_states("lost", "started")
            (reason,) = world.reasons() - {""}
            assert gone.id in reason and "remove the machine and add another" in reason
            await asyncio.sleep(3 * Pace().sweep)
            assert world.cloud.made == UUIDS[:2], "its uuid never starts again"
            world.cloud.instances[UUIDS[0]] = gone
            await world.until_states("started", "started")
            assert world.reasons() == {""}
        assert provisioner.report()["counters"]["lost"] == 1
        assert world.cloud.made == UUIDS[:2] and world.cloud.ended == []

    jumpingloop.run(story())


def test_what_starts_while_the_list_is_on_its_way_is_not_lost():
    async def story() -> None:
        world = World()
        world.cloud.start_seconds = Pace().sweep + 1
        lists = 0

        async def slow_second_list(what: str) -> None:
            nonlocal lists
            lists += what == "after list"
            if what == "after list" and lists == 2:
                await world.until_states("started")

        await world.add(1)
        provisioner = world.holder(step=slow_second_list)
        async with working(provisioner):
            await world.until(lambda: lists > 3, "two sweeps more")
            assert provisioner.report()["counters"]["lost"] == 0
            assert world.states() == {0: "started"}

    jumpingloop.run(story())


def test_a_lost_machine_is_removed_like_any_other():
    async def story() -> None:
        world = World()
        await world.add(1)
        async with working(world.holder()):
            await world.until_states("started")
            await asyncio.sleep(2 * Pace().sweep)
            del world.cloud.instances[UUIDS[0]]
            await world.until_states("lost")
            await world.remove(0)
            await world.until_states("stopped")
            assert UUIDS[0] in world.cloud.stopped

    jumpingloop.run(story())


def test_what_failed_for_good_starts_when_an_operator_has_it_tried_again():
    async def story() -> None:
        world = World()
        world.cloud.start_troubles = {UUIDS[0]: [Refused("a bad name")]}
        await world.add(1)
        provisioner = world.holder()
        async with working(provisioner):
            await world.until_states("error")
            await asyncio.sleep(100)
            await world.retry(0)
            await world.until_states("started")
            assert world.reasons() == {""}
            counters = provisioner.report()["counters"]
            assert (counters["failed-starts"], counters["started"]) == (1, 1)

    jumpingloop.run(story())


def test_what_waits_for_its_next_try_is_tried_at_once_when_an_operator_says_so():
    async def story() -> None:
        world = World()
        world.cloud.start_troubles = {UUIDS[0]: [TryAgain("no room")] * 6}
        await world.add(1)
        async with working(world.holder()):
            await world.until(lambda: world.store.rows("SELECT attempts FROM machine") == [(6,)], "the sixth try")
            await world.until_states("error")
            began = asyncio.get_running_loop().time()
            await world.retry(0)
            await world.until_states("started")
            assert asyncio.get_running_loop().time() - began < Pace().poll + 0.2, "not after the thirty seconds"

    jumpingloop.run(story())


def test_what_a_provisioner_did_is_counted_and_so_are_its_machines():
    async def story() -> None:
        world = World()
        # One was started by a holder that never wrote so.
        await world.add(3)
        world.cloud.make(UUIDS[0], "model")
        world.cloud.make(STRANGER, "model")
        world.cloud.stop_troubles = [TryAgain("no answer")]
        provisioner = world.holder()
        async with working(provisioner):
            await world.until_states("started", "started", "started")
            await world.remove(1)
            await world.until_states("started", "stopped", "started")
            await world.until(lambda: provisioner.report()["counters"]["unknown-stopped"] == 1, "the stranger's end")
            await world.until(lambda: provisioner.report()["machines"]["stopped"] == 1, "the counts of rows")
            told = provisioner.report()
        counters = told["counters"]
        assert (counters["started"], counters["adopted"], counters["failed-starts"]) == (2, 1, 0)
        assert (counters["stopped"], counters["lost"]) == (1, 0)
        assert told["machines"] == {**dict.fromkeys(State, 0), "started": 2, "stopped": 1}

    jumpingloop.run(story())


def test_of_many_stopped_machines_the_latest_keep_their_rows():
    async def story() -> None:
        world = World()
        world.pace = Pace(keep=3)
        await world.add(12)
        await world.remove(*range(9))
        async with working(world.holder()):
            await world.until(lambda: len(world.states()) == 6, "the older ones to be forgotten")
            assert list(world.states()) == [6, 7, 8, 9, 10, 11]
        (used,) = world.store.rows("SELECT numbers_used FROM machine_count")
        assert used == (12,)

    jumpingloop.run(story())


def test_a_provider_that_lists_nothing_is_said_and_stops_nobody_from_trying():
    async def story() -> None:
        world = World()
        world.cloud.list_troubles = [TryAgain("no answer")] * 1000
        await world.add(1)
        provisioner = world.holder()
        async with working(provisioner):
            await world.until_states("started")

    jumpingloop.run(story())


@pytest.mark.parametrize("trouble", [errors.NotReady("no leader"), errors.Indefinite("leadership lost")])
def test_a_database_that_is_away_is_waited_for(trouble: errors.DbAccessorError):
    async def story() -> None:
        world = World()
        await world.add(3)
        provisioner = world.holder()
        world.database.troubles = [trouble] * 5
        world.database.troubles_after = [trouble] * 5
        async with working(provisioner) as task:
            await world.until_states("started", "started", "started")
            assert not task.done()
        assert sorted(world.cloud.made) == UUIDS[:3]
        assert provisioner.report()["calls"] == 0

    jumpingloop.run(story())


def test_whoever_is_fenced_off_ends_with_that():
    async def story() -> None:
        world = World()
        await world.add(1)
        world.store.fence = 7
        with pytest.raises(Fenced):
            await world.holder(6).run()
        assert world.cloud.made == []

    jumpingloop.run(story())


def test_whose_time_is_over_asks_the_provider_nothing_more():
    async def story() -> None:
        def over() -> None:
            raise TimeoutError("the lease ran out")

        world = World()
        await world.add(1)
        with pytest.raises(TimeoutError):
            await world.holder(check=over).run()
        assert world.states() == {0: "starting"}
        assert world.cloud.made == []

    jumpingloop.run(story())


# Stopped at every step


@contextlib.asynccontextmanager
async def a_story(world: World) -> AsyncIterator[None]:
    """Three machines; a fourth once those are up, and one of them removed then; a stranger from the beginning."""

    async def operator() -> None:
        await world.until(lambda: list(world.states().values()) == ["started"] * 3, "three machines")
        await world.add(1, first=3)
        await world.remove(1)

    world.cloud.make(STRANGER, "model")
    world.cloud.start_seconds = 0.1
    await world.add(3)
    operating = asyncio.create_task(operator())
    try:
        yield
        await operating
    finally:
        operating.cancel()


def told(world: World) -> bool:
    """Whether everything is as it should be in the end."""
    return list(world.states().values()) == ["started", "stopped", "started", "started"] and (
        sorted(world.cloud.instances) == [UUIDS[0], UUIDS[2], UUIDS[3]]
    )


def judge(world: World) -> None:
    assert told(world)
    assert sorted(world.cloud.made) == sorted([STRANGER, *UUIDS[:4]]), "a machine had more than one instance"
    assert sorted(world.cloud.ended) == sorted([STRANGER, UUIDS[1]])


def _steps() -> list[str]:
    steps: list[str] = []

    async def story() -> None:
        async def count(what: str) -> None:
            steps.append(what)

        world = World()
        async with a_story(world), working(world.holder(step=count)):
            await world.until(lambda: told(world), "the end of the story")
            await asyncio.sleep(Pace().sweep)
        judge(world)

    jumpingloop.run(story())
    return steps


STEPS = _steps()


def test_every_kind_of_step_is_among_those_to_stop_at():
    around = {f"{when} {what}" for when in ("before", "after") for what in ("start", "stop", "list", "write")}

    assert set(STEPS) == around | {"before read"}


@pytest.mark.parametrize("wakes", [False, True], ids=["killed", "asleep"])
@pytest.mark.parametrize("at", range(len(STEPS)))
def test_stopped_at_any_step_it_does_no_harm_and_the_next_holder_completes_it(at: int, wakes: bool):
    async def story() -> None:
        world = World()
        left, stopped, awake = at, asyncio.Event(), asyncio.Event()

        async def maybe_stop(what: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                stopped.set()
                await awake.wait()

        async with a_story(world):
            # Its own clock tells it nothing, and nobody cancels it: the worst case of all.
            first = asyncio.create_task(world.holder(1, maybe_stop).run())
            await stopped.wait()
            async with working(world.holder(2)):
                await world.until(lambda: told(world), "the next holder to have done everything")
                if wakes:
                    awake.set()
                    (ended,) = await asyncio.gather(first, return_exceptions=True)
                    assert isinstance(ended, Fenced)
                await asyncio.sleep(2 * Pace().sweep)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        judge(world)

    jumpingloop.run(story())


def test_a_machine_removed_while_it_starts_is_stopped_afterwards():
    async def story() -> None:
        world = World()
        world.cloud.start_seconds = 5
        await world.add(1)
        async with working(world.holder()):
            await world.until(lambda: world.cloud.under_way == 1, "the call to be under way")
            await world.remove(0)
            await world.until_states("stopped")
            assert world.cloud.instances == {}
            assert world.states() == {0: State.STOPPED}

    jumpingloop.run(story())

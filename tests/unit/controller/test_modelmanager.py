"""The model-worker-manager: engines follow the models, and trouble with one is no other's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import jumpingloop
from controller.engine import Getter, Manifold, Manifolds, Worker, offer
from controller.models.manager import ModelWorkerManager
from controller.models.model import Model
from controller.models.watch import ModelWatch
from dbaccessor import errors
from dbaccessor.dqlite.results import Rows


class FakeModels:
    """The rows as the manager reads them: a counter and a list, and a trouble that the test orders."""

    def __init__(self) -> None:
        self.rows: dict[str, Model] = {}
        self.count = 0
        self.lists = 0
        self.trouble: errors.DbAccessorError | None = None
        self.databases = self
        self._watchers: set[Callable[[], None]] = set()

    def database(self, name: str) -> FakeModels:
        return self

    async def read(self, sql: str, params: tuple[str, ...], **_: Any) -> Rows:
        if self.trouble is not None:
            raise self.trouble
        return Rows(("count",), ((self.count,),))

    async def all(self) -> tuple[Model, ...]:
        self.lists += 1
        return tuple(self.rows.values())

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        self._watchers.add(changed)
        return lambda: self._watchers.discard(changed)

    def put(self, name: str, life: str = "alive", *, told: bool = False) -> None:
        self.rows[name] = Model(f"u-{name}", name, "", life, "")
        self._changed(told)

    def drop(self, name: str) -> None:
        del self.rows[name]
        self._changed(False)

    def _changed(self, told: bool) -> None:
        self.count += 1
        for watcher in tuple(self._watchers) if told else ():
            watcher()


class Stage:
    def __init__(self) -> None:
        self.models = FakeModels()
        self.made: list[str] = []
        self.gone: list[str] = []
        self.broken: set[str] = set()
        self.more: Manifolds = {}
        self.manager = ModelWorkerManager(self.models, self.make, self.bury)  # type: ignore[arg-type]

    def make(self, watch: ModelWatch) -> Manifolds:
        self.made.append(watch.model.name)
        if watch.model.name in self.broken:
            raise ValueError("on purpose")
        return {"model": offer(lambda _: watch), **self.more}

    async def bury(self, model: Model) -> None:
        self.gone.append(model.name)
        if model.name in self.broken:
            raise errors.NotReady("on purpose")

    def running(self) -> dict[str, str]:
        told = self.manager.report()["models"].values()
        return {engine["name"]: engine["life"] for engine in told if engine["state"] == "started"}


@contextlib.asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    made = Stage()
    made.models.put("controller")
    task = asyncio.create_task(made.manager.run())
    await asyncio.sleep(0.5)
    try:
        yield made
        assert not task.done(), "nothing ends the manager"
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert made.running() == {}, "no engine outlives it"


def test_engines_follow_the_rows_within_a_second_and_at_once_after_a_change_made_here():
    async def play() -> None:
        async with stage() as on:
            on.models.put("elsewhere")
            assert on.running() == {"controller": "alive"}
            await asyncio.sleep(1.1)
            assert on.running() == {"controller": "alive", "elsewhere": "alive"}
            on.models.put("here", told=True)
            await asyncio.sleep(0.01)
            assert "here" in on.running()

            on.models.put("here", "dying")
            await asyncio.sleep(1.1)
            assert on.running()["here"] == "dying", "whoever winds it up runs in its engine"
            on.models.drop("here")
            await asyncio.sleep(1.1)
            assert on.running() == {"controller": "alive", "elsewhere": "alive"}
            assert on.gone == ["here"]
            assert on.made == ["controller", "elsewhere", "here"]

    jumpingloop.run(play())


def test_the_rows_are_read_when_the_counter_changed_and_now_and_then():
    async def play() -> None:
        async with stage() as on:
            await asyncio.sleep(20)
            assert on.models.lists == 1
            await asyncio.sleep(20)
            assert on.models.lists == 2

    jumpingloop.run(play())


def test_while_the_database_is_away_everything_goes_on_and_the_report_says_so():
    async def play() -> None:
        async with stage() as on:
            on.models.trouble = errors.NotReady("no leader")
            on.models.drop("controller")
            await asyncio.sleep(5)
            assert on.running() == {"controller": "alive"}
            assert on.manager.report()["problem"] == "no leader"
            on.models.trouble = None
            on.models.put("controller")
            await asyncio.sleep(1.1)
            assert "problem" not in on.manager.report()
            assert on.made == ["controller"]

    jumpingloop.run(play())


def test_a_model_whose_table_cannot_be_made_is_tried_again_and_troubles_no_other():
    async def play() -> None:
        async with stage() as on:
            on.broken.add("broken")
            on.models.put("broken")
            on.models.put("fine")
            await asyncio.sleep(3.5)
            assert on.running() == {"controller": "alive", "fine": "alive"}
            assert on.made.count("broken") >= 3
            on.broken.clear()
            await asyncio.sleep(1.1)
            assert "broken" in on.running()

    jumpingloop.run(play())


def test_a_model_that_comes_back_under_its_uuid_while_its_engine_ends_gets_another_engine():
    async def play() -> None:
        async with stage() as on:
            on.models.put("twice")
            await asyncio.sleep(1.1)
            on.broken.add("twice")
            on.models.drop("twice")
            await asyncio.sleep(1.1)
            assert on.gone == ["twice"], "what cannot be cleaned up after it is only logged"
            on.broken.clear()
            on.models.put("twice")
            await asyncio.sleep(1.1)
            assert "twice" in on.running()

    jumpingloop.run(play())


def test_a_manager_that_ends_while_the_engine_of_a_model_does_waits_until_all_its_workers_have_ended():
    async def play() -> None:
        ended: list[str] = []

        class Slow:
            def __init__(self, name: str, seconds: float) -> None:
                self._name, self._seconds = name, seconds

            async def run(self) -> None:
                try:
                    await asyncio.Event().wait()
                finally:
                    await asyncio.sleep(self._seconds)
                    ended.append(self._name)

        def slow(name: str, seconds: float, *inputs: str) -> Manifold:
            def start(get: Getter) -> Worker:
                for needed in inputs:
                    get(needed, object)
                return Slow(name, seconds)

            return Manifold(start, inputs)

        async with stage() as on:
            # One of them takes longer than its engine waits.
            on.more = {"needed": slow("needed", 1), "leaf": slow("leaf", 3, "needed"), "late": slow("late", 60)}
            on.models.put("going")
            await asyncio.sleep(1.1)
            on.models.drop("going")
            await asyncio.sleep(1.5)
            began = asyncio.get_running_loop().time()
        assert ended == ["leaf", "needed"]
        assert asyncio.get_running_loop().time() - began < 10
        assert on.gone == [], "the process ends; what is left of the model is another's"

    jumpingloop.run(play())

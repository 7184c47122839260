"""Manifolds that offer a value, at once or once it is prepared."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import jumpingloop
from controller.engine import Bounce, Engine, Getter, Manifold, Manifolds, Offer, Worker, gate, offer


@contextlib.asynccontextmanager
async def running(manifolds: Manifolds) -> AsyncIterator[Engine]:
    engine = Engine(manifolds)
    task = asyncio.create_task(engine.run())
    await asyncio.sleep(0.5)
    try:
        yield engine
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class Source:
    """A worker that can be ended from outside, so that another one takes its place."""

    def __init__(self, made: list[Source]) -> None:
        self.end = asyncio.Event()
        made.append(self)

    async def run(self) -> None:
        await self.end.wait()
        raise Bounce


def told(engine: Engine, name: str) -> dict[str, object]:
    found: dict[str, object] = engine.report()["manifolds"][name]
    return found


def test_what_is_prepared_first_is_missing_until_then_and_its_dependants_start_by_themselves():
    async def play() -> None:
        ready = asyncio.Event()

        async def prepare() -> Offer:
            await ready.wait()
            return Offer("prepared")

        table = {
            "door": gate(lambda _: prepare),
            "guest": offer(lambda get: get("door", str) + " indeed", ("door",)),
        }
        async with running(table) as engine:
            assert told(engine, "door")["report"] == {"prepared": False}
            assert told(engine, "guest")["why"] == "missing: door: it is not prepared yet"
            ready.set()
            await asyncio.sleep(0.5)
            assert engine.output("guest") == "prepared indeed"
            assert told(engine, "guest")["start-count"] == 1

    jumpingloop.run(play())


def test_it_is_prepared_again_for_another_input_and_never_offered_on_the_old_one():
    async def play() -> None:
        made: list[Source] = []
        prepared: list[Source] = []

        def make(get: Getter):
            source = get("source", Source)

            async def prepare() -> Offer:
                prepared.append(source)
                await asyncio.sleep(1)
                return Offer(source)

            return prepare

        table = {"source": Manifold(lambda _: Source(made)), "door": gate(make, ("source",))}
        async with running(table) as engine:
            made[0].end.set()  # While it prepares.
            await asyncio.sleep(2)
            assert engine.output("door") is made[1]
            made[1].end.set()  # While it offers.
            await asyncio.sleep(2)
            assert engine.output("door") is made[2]
        assert prepared == made

    jumpingloop.run(play())


def test_an_offer_reports_what_its_value_reports():
    class Told:
        def report(self) -> dict[str, int]:
            return {"n": 1}

    async def play() -> None:
        async with running({"told": offer(lambda _: Told()), "silent": offer(lambda _: 7)}) as engine:
            assert told(engine, "told")["report"] == {"n": 1}
            assert told(engine, "silent")["report"] == {}

    jumpingloop.run(play())


def test_a_worker_that_does_not_end_is_left_behind_in_time_and_the_others_still_end_in_order():
    async def play() -> None:
        diary: list[str] = []

        class Stubborn:
            async def run(self) -> None:
                while not enough.is_set():
                    with contextlib.suppress(asyncio.CancelledError):
                        await enough.wait()

        class Quiet:
            def __init__(self, name: str) -> None:
                self._name = name

            async def run(self) -> None:
                try:
                    await asyncio.Event().wait()
                finally:
                    diary.append(f"-{self._name} at {asyncio.get_running_loop().time() - began:g}")

        def quiet(name: str, *inputs: str) -> Manifold:
            def start(get: Getter) -> Worker:
                for needed in inputs:
                    get(needed, object)
                return Quiet(name)

            return Manifold(start, inputs)

        def stubborn(get: Getter) -> Worker:
            get("base", Quiet)
            return Stubborn()

        table = {"base": quiet("base"), "stubborn": Manifold(stubborn, ("base",)), "other": quiet("other", "base")}
        enough = asyncio.Event()
        engine = Engine(table, abandon_seconds=lambda name: 12)
        task = asyncio.create_task(engine.run())
        await asyncio.sleep(1)
        began = asyncio.get_running_loop().time()
        task.cancel()
        await asyncio.wait((task,))
        assert engine.abandoned == ("stubborn",)
        assert diary == ["-other at 0", "-base at 12"]
        enough.set()

    jumpingloop.run(play())

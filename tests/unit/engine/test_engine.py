"""The engine's table, line by line, on a loop whose time jumps."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jumpingloop
from controller.engine import Bounce, Engine, EngineError, Getter, Manifold, Missing, Uninstall, Worker
from controller.engine.engine import Delays

NO_DICE = random.Random()
NO_DICE.uniform = lambda a, b: 1.0  # type: ignore[method-assign]


class Idle:
    """A worker that runs until it is told to stop, and writes its beginnings and ends down."""

    def __init__(self, name: str, diary: list[str], gets: tuple[object, ...] = ()) -> None:
        self.name = name
        self.gets = gets
        self._diary = diary
        self.end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        self._diary.append(f"+{self.name}")
        try:
            await self.end
        finally:
            self._diary.append(f"-{self.name}")

    def report(self) -> dict[str, object]:
        return {"name": self.name}


class Stage:
    """Makes manifolds whose workers can be found and ended by name."""

    def __init__(self) -> None:
        self.diary: list[str] = []
        self.workers: dict[str, Idle] = {}
        self.starts: list[tuple[float, str]] = []

    def manifold(self, name: str, *inputs: str, fail: Callable[[], Exception | None] = lambda: None) -> Manifold:
        def start(get: Getter) -> Worker:
            self.starts.append((asyncio.get_running_loop().time(), name))
            error = fail()
            if error is not None:
                raise error
            self.workers[name] = Idle(name, self.diary, tuple(get(i, Idle) for i in inputs))
            return self.workers[name]

        return Manifold(start, inputs)

    def end(self, name: str, error: Exception | None = None) -> None:
        future = self.workers[name].end
        future.set_result(None) if error is None else future.set_exception(error)

    def times(self, name: str) -> list[float]:
        return [round(at, 3) for at, who in self.starts if who == name]


@contextlib.asynccontextmanager
async def running(manifolds: dict[str, Manifold], **options: Any) -> AsyncIterator[Engine]:
    engine = Engine(manifolds, dice=NO_DICE, **options)
    task = asyncio.create_task(engine.run())
    await asyncio.sleep(0.5)
    try:
        yield engine
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def states(engine: Engine) -> dict[str, str]:
    return {name: told["state"] for name, told in engine.report()["manifolds"].items()}


def test_workers_start_in_any_order_and_find_their_inputs():
    async def play() -> None:
        stage = Stage()
        table = {"c": stage.manifold("c", "a", "b"), "b": stage.manifold("b", "a"), "a": stage.manifold("a")}
        async with running(table) as engine:
            assert states(engine) == {"a": "started", "b": "started", "c": "started"}
            assert stage.workers["c"].gets == (stage.workers["a"], stage.workers["b"])

    jumpingloop.run(play())


def test_a_worker_whose_input_ends_is_stopped_and_waits_for_it():
    async def play() -> None:
        stage = Stage()
        async with running({"a": stage.manifold("a"), "b": stage.manifold("b", "a")}) as engine:
            stage.end("a")
            await asyncio.sleep(1)
            assert states(engine) == {"a": "stopped", "b": "stopped"}
            told = engine.report()["manifolds"]
            assert told["a"]["why"] == "finished"
            assert told["b"]["why"] == "missing: a"

    jumpingloop.run(play())


def test_a_worker_that_failed_comes_back_and_so_do_all_that_need_it():
    async def play() -> None:
        stage = Stage()
        table = {"a": stage.manifold("a"), "b": stage.manifold("b", "a"), "c": stage.manifold("c", "b")}
        async with running(table) as engine:
            first = stage.workers["c"]
            stage.end("a", ValueError("it broke"))
            await asyncio.sleep(1)
            assert engine.report()["manifolds"]["a"]["why"] == "failed: ValueError: it broke"
            await asyncio.sleep(4)
            assert states(engine) == {"a": "started", "b": "started", "c": "started"}
            assert stage.workers["c"] is not first
            assert stage.workers["c"].gets == (stage.workers["b"],)

    jumpingloop.run(play())


def test_the_delay_after_errors_grows_and_ends_at_the_longest():
    async def play() -> None:
        stage = Stage()
        delays = Delays(error=3, factor=2, longest=20, reset_after=60)
        async with running({"a": stage.manifold("a", fail=lambda: ValueError("no"))}, delays=delays):
            await asyncio.sleep(100)
            starts = stage.times("a")
            assert [round(b - a) for a, b in itertools.pairwise(starts)] == [3, 6, 12, 20, 20, 20]

    jumpingloop.run(play())


def test_a_worker_that_lived_long_begins_with_the_short_delay_again():
    async def play() -> None:
        stage = Stage()
        broken = [True, True, False, False]

        def fail() -> Exception | None:
            return ValueError("no") if broken.pop(0) else None

        async with running({"a": stage.manifold("a", fail=fail)}, delays=Delays(error=3, factor=2)):
            await asyncio.sleep(100)  # It failed at 0 and 3, runs since 9.
            began = asyncio.get_running_loop().time()
            stage.end("a", ValueError("after a long time"))
            await asyncio.sleep(10)
            assert stage.times("a")[-1] - began == pytest.approx(3)

    jumpingloop.run(play())


def test_bounce_starts_again_at_once_and_finishing_does_not_start_again():
    async def play() -> None:
        stage = Stage()
        async with running({"a": stage.manifold("a"), "b": stage.manifold("b")}) as engine:
            stage.end("a", Bounce("new settings"))
            stage.end("b")
            await asyncio.sleep(0.1)
            assert states(engine) == {"a": "started", "b": "stopped"}
            assert len(stage.times("a")) == 2

    jumpingloop.run(play())


def test_uninstalled_means_missing_for_good_and_its_name_is_free_again():
    async def play() -> None:
        stage = Stage()
        async with running({"a": stage.manifold("a"), "b": stage.manifold("b", "a")}) as engine:
            stage.end("a", Uninstall("done for good"))
            await asyncio.sleep(200)
            assert states(engine) == {"a": "uninstalled", "b": "stopped"}
            engine.install("a", stage.manifold("a"))
            await asyncio.sleep(1)
            assert states(engine) == {"a": "started", "b": "started"}

    jumpingloop.run(play())


def test_a_fatal_error_stops_all_dependants_first_and_is_raised():
    async def play() -> None:
        stage = Stage()
        table = {"a": stage.manifold("a"), "b": stage.manifold("b", "a"), "c": stage.manifold("c")}
        engine = Engine(table, is_fatal=lambda e: isinstance(e, KeyError), dice=NO_DICE)
        task = asyncio.create_task(engine.run())
        await asyncio.sleep(1)
        stage.end("c", KeyError("the end"))
        with pytest.raises(KeyError, match="the end"):
            await task
        assert stage.diary[-2:] == ["-b", "-a"]
        assert engine.report()["state"] == "stopped"
        assert "the end" in engine.report()["error"]

    jumpingloop.run(play())


def test_of_two_fatal_errors_the_worse_one_is_raised():
    async def play() -> None:
        stage = Stage()
        engine = Engine(
            {"a": stage.manifold("a"), "b": stage.manifold("b")},
            is_fatal=lambda _: True,
            worst=lambda one, other: max(one, other, key=lambda e: int(str(e))),
        )
        task = asyncio.create_task(engine.run())
        await asyncio.sleep(1)
        stage.end("a", ValueError("1"))
        stage.end("b", ValueError("2"))
        with pytest.raises(ValueError, match="2"):
            await task

    jumpingloop.run(play())


def test_an_input_that_comes_back_ends_the_waiting_after_an_error():
    async def play() -> None:
        stage = Stage()
        fails: list[Exception] = [ValueError("no use without a fresh a")]
        table = {
            "a": stage.manifold("a"),
            "b": stage.manifold("b", "a", fail=lambda: fails.pop() if fails else None),
        }
        async with running(table, delays=Delays(error=50)) as engine:
            stage.end("a", Bounce())
            await asyncio.sleep(1)
            assert states(engine) == {"a": "started", "b": "started"}

    jumpingloop.run(play())


def test_an_input_that_starts_in_the_very_moment_of_a_failure_ends_the_waiting_as_well():
    async def play() -> None:
        stage = Stage()
        # In one turn of the loop b fails for want of a, and then a starts.
        table = {
            "b": stage.manifold("b", "a", fail=lambda: None if "a" in stage.workers else ValueError("no use without")),
            "a": stage.manifold("a"),
        }
        async with running(table, delays=Delays(error=30)) as engine:
            assert states(engine) == {"a": "started", "b": "started"}
            assert len(stage.times("b")) == 2

    logging.disable(logging.CRITICAL)
    try:
        jumpingloop.run(play())
    finally:
        logging.disable(logging.NOTSET)


def test_a_filter_sees_every_error_first_and_may_make_another_of_it():
    async def play() -> None:
        stage = Stage()
        seen: list[Exception] = []

        def into_uninstall(error: Exception) -> Exception:
            seen.append(error)
            return Uninstall("not here")

        manifold = Manifold(stage.manifold("a", fail=lambda: KeyError("x")).start, filter=into_uninstall)
        async with running({"a": manifold}) as engine:
            assert states(engine) == {"a": "uninstalled"}
            assert [type(e) for e in seen] == [KeyError]

    jumpingloop.run(play())


def test_an_output_may_be_something_else_than_the_worker_and_has_to_be_what_is_asked_for():
    async def play() -> None:
        stage = Stage()
        number = Manifold(stage.manifold("number").start, output=lambda worker: 42)
        given: list[object] = []

        def wants(kind: type) -> Manifold:
            def start(get: Getter) -> Worker:
                given.append(get("number", kind))
                return Idle("x", [])

            return Manifold(start, ("number",))

        async with running({"number": number, "int": wants(int), "str": wants(str)}) as engine:
            assert given == [42]
            assert engine.report()["manifolds"]["str"]["why"] == "missing: number offers int, not str"

    jumpingloop.run(play())


def test_an_input_that_was_not_declared_is_a_mistake_that_names_both(caplog: pytest.LogCaptureFixture):
    async def play() -> None:
        stage = Stage()

        def start(get: Getter) -> Worker:
            return get("a", Idle)

        with caplog.at_level(logging.CRITICAL):
            async with running({"a": stage.manifold("a"), "b": Manifold(start)}) as engine:
                why = engine.report()["manifolds"]["b"]["why"]
        assert "b asks for a, which it did not declare as an input" in why

    jumpingloop.run(play())


def test_a_cycle_an_unknown_input_and_a_name_twice_are_refused_by_name():
    stage = Stage()
    table = {"a": stage.manifold("a", "c"), "b": stage.manifold("b", "a"), "c": stage.manifold("c", "b")}
    with pytest.raises(EngineError, match="in a circle: a -> c -> b -> a"):
        Engine(table)
    with pytest.raises(EngineError, match="b needs nobody, which is no manifold here"):
        Engine({"b": stage.manifold("b", "nobody")})

    engine = Engine({"a": stage.manifold("a")})
    with pytest.raises(EngineError, match="a is installed already"):
        engine.install("a", stage.manifold("a"))
    with pytest.raises(EngineError, match="in a circle: b -> b"):
        engine.install("b", stage.manifold("b", "b"))


def test_stopping_ends_dependants_before_what_they_need():
    async def play() -> None:
        stage = Stage()
        table = {"a": stage.manifold("a"), "b": stage.manifold("b", "a"), "c": stage.manifold("c", "b", "a")}
        async with running(table):
            stage.diary.clear()
        assert stage.diary == ["-c", "-b", "-a"]

    jumpingloop.run(play())


def test_a_worker_that_fails_while_it_stops_is_an_error_and_still_comes_back(caplog: pytest.LogCaptureFixture):
    async def play() -> None:
        stage = Stage()

        class Clumsy:
            async def run(self) -> None:
                try:
                    await asyncio.Event().wait()
                finally:
                    raise ValueError("could not close")

        def start(get: Getter) -> Worker:
            get("a", Idle)
            return Clumsy()

        async with running({"a": stage.manifold("a"), "b": Manifold(start, ("a",))}) as engine:
            stage.end("a", Bounce())
            await asyncio.sleep(1)
            assert "could not close" in caplog.text
            assert states(engine)["b"] == "started"
            assert engine.report()["manifolds"]["b"]["start-count"] == 2

    jumpingloop.run(play())


def test_the_engines_end_does_not_cut_off_the_end_of_a_worker_that_was_told_to_stop_before():
    async def play() -> None:
        stage = Stage()

        class Careful:
            async def run(self) -> None:
                try:
                    await asyncio.Event().wait()
                finally:
                    stage.diary.append("b begins to end")
                    await asyncio.sleep(3)
                    stage.diary.append("b has ended")

        def start(get: Getter) -> Worker:
            get("a", Idle)
            return Careful()

        async with running({"a": stage.manifold("a"), "b": Manifold(start, ("a",))}):
            stage.diary.clear()
            stage.end("a", Bounce())
            await asyncio.sleep(1)
        assert stage.diary == ["-a", "b begins to end", "+a", "b has ended", "-a"]

    jumpingloop.run(play())


def test_a_worker_that_was_about_to_begin_when_another_failed_for_good_does_not_keep_the_engine_from_its_end():
    async def play() -> None:
        stage = Stage()
        table = {
            "a": stage.manifold("a"),
            "b": stage.manifold("b", "a", "never"),
            "never": stage.manifold("never", fail=lambda: Missing("what never comes")),
        }
        engine = Engine(table, is_fatal=lambda e: isinstance(e, KeyError), dice=NO_DICE)
        task = asyncio.create_task(engine.run())
        await asyncio.sleep(1)
        stage.end("a", KeyError("the end"))
        with pytest.raises(KeyError, match="the end"):
            await task

    jumpingloop.run(play())


@pytest.mark.parametrize("end", [Missing("it is gone"), Uninstall("not needed"), Bounce("again"), ValueError("broken")])
def test_who_was_told_to_stop_is_started_again_at_once_whatever_it_ended_with(end: Exception):
    """Its inputs are others than those it ended with, and nobody will tell it a second time."""

    async def play() -> None:
        stage = Stage()

        class Slow:
            async def run(self) -> None:
                try:
                    await asyncio.Event().wait()
                finally:
                    await asyncio.sleep(1)  # By now its input is back.
                    raise end

        def start(get: Getter) -> Worker:
            get("a", Idle)
            stage.starts.append((asyncio.get_running_loop().time(), "b"))
            return Slow()

        async with running({"a": stage.manifold("a"), "b": Manifold(start, ("a",))}) as engine:
            told = asyncio.get_running_loop().time()
            stage.end("a", Bounce())
            await asyncio.sleep(1.5)
            assert states(engine) == {"a": "started", "b": "started"}
            assert stage.times("b")[-1] - told == pytest.approx(1.01)

    logging.disable(logging.CRITICAL)
    try:
        jumpingloop.run(play())
    finally:
        logging.disable(logging.NOTSET)


def test_a_worker_that_is_cancelled_by_somebody_else_has_failed():
    async def play() -> None:
        stage = Stage()

        class Hurt:
            async def run(self) -> None:
                raise asyncio.CancelledError

        def start(_: Getter) -> Worker:
            stage.starts.append((asyncio.get_running_loop().time(), "a"))
            return Hurt()

        async with running({"a": Manifold(start)}) as engine:
            await asyncio.sleep(2)
            assert engine.report()["manifolds"]["a"]["why"] == "failed: Cancelled: nobody told it to stop"
            assert len(stage.times("a")) == 1

    logging.disable(logging.CRITICAL)
    try:
        jumpingloop.run(play())
    finally:
        logging.disable(logging.NOTSET)


def test_the_delays_are_those_of_the_engine_that_ours_is_like():
    delays = Delays()

    assert (delays.bounce, delays.error, delays.factor) == (0.01, 3.0, 1.2)
    assert (delays.longest, delays.reset_after) == (120.0, 60.0)
    assert [round(delays.after(n), 2) for n in (0, 1, 2, 3, 21, 22, 99)] == [3, 3, 3.6, 4.32, 115.01, 120, 120]


def test_the_delay_after_an_error_is_up_to_a_tenth_shorter_or_longer():
    async def play() -> None:
        stage = Stage()
        engine = Engine({"a": stage.manifold("a", fail=lambda: ValueError("no"))}, delays=Delays(factor=1))
        task = asyncio.create_task(engine.run())
        await asyncio.sleep(300)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        waited = [b - a for a, b in itertools.pairwise(stage.times("a"))]
        assert 2.699 < min(waited) < 2.9
        assert 3.1 < max(waited) < 3.301

    logging.disable(logging.CRITICAL)
    try:
        jumpingloop.run(play())
    finally:
        logging.disable(logging.NOTSET)


def test_an_input_that_is_missing_counts_as_one_error_and_success_as_none():
    async def play() -> None:
        stage = Stage()
        ends: list[Exception | None] = [Missing("x"), ValueError("no"), None, ValueError("no"), None]

        class Short:
            async def run(self) -> None:
                error = ends.pop(0)
                if error is not None:
                    raise error

        def start(get: Getter) -> Worker:
            stage.starts.append((asyncio.get_running_loop().time(), "b"))
            get("a", Idle)
            return Short()

        async with running(
            {"a": stage.manifold("a"), "b": Manifold(start, ("a",))}, delays=Delays(error=3, factor=2)
        ) as engine:
            # It began with Missing at least once. An input that comes back makes it try.
            assert engine.report()["manifolds"]["b"]["why"] == "missing: x"
            stage.end("a", Bounce())
            await asyncio.sleep(20)
            first, second = stage.times("b")[-2:]
            assert second - first == pytest.approx(6), "the second in a row"
            stage.end("a", Bounce())
            await asyncio.sleep(20)
            first, second = stage.times("b")[-2:]
            assert second - first == pytest.approx(3), "it had finished before"
            assert not ends

    logging.disable(logging.CRITICAL)
    try:
        jumpingloop.run(play())
    finally:
        logging.disable(logging.NOTSET)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_ends_whenever_no_worker_ever_runs_with_an_input_that_is_gone(data: st.DataObject):
    """Any graph, any order of ends: in the end everybody runs whose inputs all do, on their present outputs."""
    count = data.draw(st.integers(1, 6))
    names = [f"w{n}" for n in range(count)]
    inputs = {n: tuple(data.draw(st.sets(st.sampled_from(names[:i])))) if i else () for i, n in enumerate(names)}
    ends = data.draw(
        st.lists(st.tuples(st.sampled_from(names), st.sampled_from([None, Bounce, ValueError, Missing])), max_size=8)
    )
    pauses = data.draw(st.lists(st.sampled_from([0.0, 0.005, 0.02, 5.0]), min_size=len(ends), max_size=len(ends)))

    async def play() -> None:
        stage = Stage()
        async with running({n: stage.manifold(n, *inputs[n]) for n in names}) as engine:
            for (name, kind), pause in zip(ends, pauses, strict=True):
                if name in stage.workers and not stage.workers[name].end.done():
                    stage.end(name, None if kind is None else kind("told"))
                await asyncio.sleep(pause)
            await asyncio.sleep(300)
            now = states(engine)
            for name in names:
                if now[name] == "started":
                    assert stage.workers[name].gets == tuple(stage.workers[i] for i in inputs[name])
                    assert all(now[i] == "started" for i in inputs[name])
                elif engine.report()["manifolds"][name]["why"].startswith("missing: w"):
                    assert any(now[i] != "started" for i in inputs[name])
        alive = {n: stage.diary.count(f"+{n}") - stage.diary.count(f"-{n}") for n in names}
        assert set(alive.values()) == {0}

    logging.disable(logging.CRITICAL)
    try:
        jumpingloop.run(play())
    finally:
        logging.disable(logging.NOTSET)


def test_what_a_worker_reports_is_json_whatever_it_holds():
    async def play() -> None:
        stage = Stage()

        class Talker(Idle):
            def report(self) -> dict[str, object]:
                return {"path": Path("/"), "error": ValueError("no"), "seen": {3}, "of": {("a", 1): None}}

        class Circle(Idle):
            def report(self) -> dict[str, object]:
                told: dict[str, object] = {}
                told["self"] = told
                return told

        def talking(kind: type[Idle]) -> Manifold:
            return Manifold(lambda _: kind("talker", stage.diary))

        async with running({"a": talking(Talker), "b": talking(Circle), "c": stage.manifold("c")}) as engine:
            told = json.loads(json.dumps(engine.report()))["manifolds"]
            assert told["a"]["report"]["path"] == "PosixPath('/')"
            assert told["a"]["report"]["seen"] == [3]
            assert "report" not in told["b"]
            assert told["c"]["report"] == {"name": "c"}
            stage.end("c", Uninstall("no \udcff"))
            await asyncio.sleep(0.5)
            assert engine.report()["manifolds"]["c"]["why"] == "no ?"

    jumpingloop.run(play())

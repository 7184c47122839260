"""Manifolds under a flag, and the fortress."""

from __future__ import annotations

import asyncio

import pytest

import jumpingloop
from controller.engine import Bounce, Engine, Getter, Manifold, Worker
from controller.engine.fortress import Fortress
from controller.engine.housing import if_all


class Flag:
    def __init__(self, answer: bool) -> None:
        self.answer = answer
        self.end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        await self.end

    def check(self) -> bool:
        return self.answer


class Idle:
    async def run(self) -> None:
        await asyncio.Event().wait()


def idle(_: Getter) -> Worker:
    return Idle()


def test_a_housed_manifold_runs_while_its_flag_says_yes_and_not_otherwise():
    async def play() -> None:
        answers = [False, True, False]
        flags: list[Flag] = []

        def raise_flag(_: Getter) -> Worker:
            flags.append(Flag(answers.pop(0)))
            return flags[-1]

        engine = Engine({"is-up": Manifold(raise_flag), "work": if_all("is-up")(Manifold(idle))})
        task = asyncio.create_task(engine.run())
        seen = []
        for _ in range(3):
            await asyncio.sleep(1)
            seen.append(engine.report()["manifolds"]["work"]["state"])
            if answers:
                flags[-1].end.set_exception(Bounce("the truth changed"))
        assert seen == ["stopped", "started", "stopped"]
        assert engine.report()["manifolds"]["work"]["why"] == "missing: is-up says no"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    jumpingloop.run(play())


def test_a_decorator_is_data_and_adds_an_input_once():
    manifold = Manifold(idle, ("is-up",))

    assert if_all("is-up", "is-other")(manifold).inputs == ("is-up", "is-other")
    assert manifold.inputs == ("is-up",)


def test_a_fortress_is_locked_down_only_when_the_last_guest_has_left():
    async def play() -> None:
        fortress = Fortress()
        leave = asyncio.Event()

        async def guest() -> None:
            async with fortress.visit():
                await leave.wait()

        guests = [asyncio.create_task(guest()) for _ in range(2)]
        await asyncio.sleep(1)
        assert fortress.report() == {"unlocked": False, "guests": 0}
        fortress.unlock()
        await asyncio.sleep(1)
        assert fortress.report() == {"unlocked": True, "guests": 2}
        locking = asyncio.create_task(fortress.lock_down())
        late = asyncio.create_task(guest())
        await asyncio.sleep(1)
        assert not locking.done()
        assert fortress.report() == {"unlocked": False, "guests": 2}
        leave.set()
        await locking
        assert fortress.report() == {"unlocked": False, "guests": 0}
        late.cancel()
        await asyncio.gather(*guests)

    jumpingloop.run(play())

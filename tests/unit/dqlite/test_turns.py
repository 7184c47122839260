"""Turns: so many at a time, in the order of asking, and none is lost with somebody who stops waiting."""

from __future__ import annotations

import asyncio

import pytest

from dbaccessor.dqlite.turns import Turns


def soon(seconds: float = 5) -> float:
    return asyncio.get_running_loop().time() + seconds


def test_those_who_wait_get_the_turn_in_their_order_and_nobody_overtakes_them():
    async def play() -> list[str]:
        turns, order = Turns(1), []
        assert turns.take()
        assert turns.all_taken

        async def take(name: str) -> None:
            await turns.wait(soon())
            order.append(name)
            await asyncio.sleep(0)
            turns.give_back()

        waiting = [asyncio.create_task(take(name)) for name in "abc"]
        await asyncio.sleep(0)
        turns.give_back()
        assert not turns.take(), "it belongs to the first who waits, though that one has not run yet"
        await asyncio.gather(*waiting)
        assert turns.take()
        return order

    assert asyncio.run(play()) == ["a", "b", "c"]


def test_a_turn_that_is_handed_to_somebody_who_is_cancelled_at_that_moment_goes_to_the_next():
    async def play() -> None:
        turns = Turns(1)
        assert turns.take()
        first, second = (asyncio.create_task(turns.wait(soon())) for _ in range(2))
        await asyncio.sleep(0)
        turns.give_back()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await second
        turns.give_back()
        assert turns.take()

    asyncio.run(play())


def test_at_the_deadline_waiting_ends_and_the_turn_is_the_next_one_s():
    async def play() -> None:
        turns = Turns(2)
        assert turns.take()
        assert turns.take()
        with pytest.raises(TimeoutError):
            await turns.wait(soon(0.01))
        assert not turns._waiters, "however many give up, nothing is kept of them"
        turns.give_back()
        assert turns.take(), "whoever gave up is not waited for"
        assert not turns.take()

    asyncio.run(play())

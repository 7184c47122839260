"""One question for all who ask at the same time, and never an answer that is older than the asking."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from controller.api.together import Together


class Source:
    """Answers with how often it was asked; each answer waits for `go`."""

    def __init__(self) -> None:
        self.asked = 0
        self.go = asyncio.Event()
        self.problem: Exception | None = None

    async def ask(self) -> int:
        self.asked += 1
        number = self.asked
        await self.go.wait()
        if self.problem is not None:
            raise self.problem
        return number


async def under_way(source: Source, together: Together[int], number: int) -> asyncio.Task[int]:
    """Return somebody's asking, when the question of this number is on its way."""
    asking = asyncio.create_task(together.answer())
    async with asyncio.timeout(5):
        while source.asked < number:
            await asyncio.sleep(0)
    return asking


def test_those_who_come_while_a_question_is_on_its_way_share_the_next_one():
    async def play() -> None:
        source = Source()
        together = Together(source.ask)
        first = await under_way(source, together, 1)
        later = [asyncio.create_task(together.answer()) for _ in range(100)]
        await asyncio.sleep(0)
        assert source.asked == 1, "one at a time"
        source.go.set()
        assert await first == 1
        assert await asyncio.gather(*later) == [2] * 100
        assert await together.answer() == 3

    asyncio.run(play())


def test_a_failure_is_everybodys_and_the_next_question_is_a_new_one():
    async def play() -> None:
        source = Source()
        together = Together(source.ask)
        asking = [asyncio.create_task(together.answer()) for _ in range(3)]
        source.problem = OSError("gone")
        source.go.set()
        assert [str(e) for e in await asyncio.gather(*asking, return_exceptions=True)] == ["gone"] * 3
        source.problem = None
        assert await together.answer() == 2

    asyncio.run(play())


def test_one_who_waits_no_longer_takes_nothing_from_the_others():
    complaints: list[dict[str, Any]] = []

    async def play() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))
        source = Source()
        together = Together(source.ask)
        gone = await under_way(source, together, 1)
        stays = asyncio.create_task(together.answer())
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        source.go.set()
        assert await stays == 2
        # And where nobody is left to hear of a failure, nothing complains of it.
        source.go.clear()
        source.problem = OSError("gone")
        last = await under_way(source, together, 3)
        last.cancel()
        source.go.set()
        await asyncio.sleep(0.01)
        gc.collect()

    asyncio.run(play())
    assert complaints == []

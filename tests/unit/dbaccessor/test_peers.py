"""The watch over the others: what "asked anew" means, and what is news."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, ClassVar, cast

import pytest

from dbaccessor import peers, timing
from dbaccessor.dial import DialError
from dbaccessor.peers import PeerWatch
from dbaccessor.preamble import Answer


class Watch(PeerWatch):
    """Each of its rounds lasts until it is let go."""

    def __init__(self) -> None:
        super().__init__(cast(Any, None), timing.for_latency(10), dict, lambda: None)
        self.begun = 0
        self.goes_on = asyncio.Semaphore(0)

    async def round(self) -> bool:
        self.begun += 1
        return await self.goes_on.acquire()


def test_asked_anew_is_a_round_that_began_afterwards_and_comes_at_once():
    async def play() -> None:
        watch = Watch()
        running = asyncio.create_task(watch.run())
        await asyncio.sleep(0)
        anew = asyncio.create_task(watch.anew())
        also = asyncio.create_task(watch.anew())
        assert watch.begun == 1, "under way before anybody asked"
        loop = asyncio.get_running_loop()
        before = loop.time()
        watch.goes_on.release()
        while watch.begun < 2:
            assert loop.time() < before + 10
            await asyncio.sleep(0.001)
        assert not anew.done() and not also.done(), "that one may have had its answers earlier"
        assert loop.time() - before < watch.timing.watch_seconds, "nobody waits for the next turn"
        watch.goes_on.release()
        async with asyncio.timeout(5):
            await asyncio.gather(anew, also)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(play())


class Scripted:
    """A conversation with the controller at one address. What it says next stands in `says`, by address."""

    says: ClassVar[dict[str, Answer | DialError]] = {}

    def __init__(self, _: object, ip: str) -> None:
        self.ip = ip

    async def ask(self) -> Answer:
        said = self.says[self.ip]
        if isinstance(said, DialError):
            raise said
        return said

    def close(self) -> None:
        pass


def said(generation: int = 1) -> Answer:
    return Answer(accepted=True, controller_id="1", generation=generation)


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> dict[str, Answer | DialError]:
    monkeypatch.setattr(peers, "Conversation", Scripted)
    monkeypatch.setattr(Scripted, "says", {"10.0.0.1": said(), "10.0.0.2": said()})
    return Scripted.says


def watch(targets: dict[str, str], on_news: Callable[[], None] = lambda: None) -> PeerWatch:
    return PeerWatch(cast(Any, None), timing.for_latency(10), lambda: targets, on_news)


def test_a_round_that_brings_the_same_answers_is_no_news(says: dict[str, Answer | DialError]):
    async def play() -> list[bool]:
        made = watch({"1": "10.0.0.1"})
        return [await made.round() for _ in range(3)]

    assert asyncio.run(play()) == [True, False, False]


def test_another_answer_another_address_and_another_controller_are_news(says: dict[str, Answer | DialError]):
    async def play() -> list[bool]:
        targets = {"1": "10.0.0.1"}
        made = watch(targets)
        found = [await made.round()]
        says["10.0.0.1"] = said(generation=2)
        found += [await made.round(), await made.round()]
        targets["1"] = "10.0.0.2"
        found += [await made.round(), await made.round()]
        del targets["1"]
        return [*found, await made.round(), await made.round()]

    assert asyncio.run(play()) == [True, True, False, True, False, True, False]


def test_as_long_as_one_does_not_answer_each_round_is_news_and_so_is_its_return(says: dict[str, Answer | DialError]):
    async def play() -> list[bool]:
        made = watch({"1": "10.0.0.1"})
        found = [await made.round()]
        says["10.0.0.1"] = DialError("gone")
        found += [await made.round(), await made.round()]
        says["10.0.0.1"] = said()
        return [*found, await made.round(), await made.round()]

    assert asyncio.run(play()) == [True, True, True, True, False]


def test_an_answer_that_had_become_too_old_is_news_when_it_comes_again(says: dict[str, Answer | DialError]):
    async def play() -> bool:
        made = watch({"1": "10.0.0.1"})
        await made.round()
        made._records["1"].answered_at -= 60
        assert made.answers() == {}
        return await made.round()

    assert asyncio.run(play())


def test_news_are_told_as_soon_as_the_round_is_over(says: dict[str, Answer | DialError]):
    async def play() -> None:
        told = asyncio.Event()
        made = watch({"1": "10.0.0.1"}, told.set)
        running = asyncio.create_task(made.run())
        async with asyncio.timeout(5):
            await told.wait()
            told.clear()
            await made.anew()
            assert not told.is_set(), "it said the same again"
            says["10.0.0.1"] = said(generation=2)
            await made.anew()
            assert told.is_set()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(play())


def test_the_call_of_a_silent_one_is_heard_on_any_thread(says: dict[str, Answer | DialError]):
    async def play() -> None:
        made = watch({"1": "10.0.0.1"})
        says["10.0.0.1"] = DialError("gone")
        for _ in range(3):
            await made.round()
        record = made._records["1"]
        record.silent_since = time.monotonic() - 60
        await asyncio.to_thread(made.heard, "1")
        await asyncio.sleep(0)
        assert made.peers("u")[0].silent_seconds == 0

    asyncio.run(play())

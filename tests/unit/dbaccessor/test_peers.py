"""The watch over the others: what "asked anew" means."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from dbaccessor import timing
from dbaccessor.peers import PeerWatch


class Watch(PeerWatch):
    """Each of its rounds lasts until it is let go."""

    def __init__(self) -> None:
        super().__init__(cast(Any, None), timing.for_latency(10), dict, lambda: None)
        self.begun = 0
        self.goes_on = asyncio.Semaphore(0)

    async def round(self) -> None:
        self.begun += 1
        await self.goes_on.acquire()


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

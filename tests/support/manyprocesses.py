"""Several processes in one: each with an event loop and clocks of its own, in one world whose time jumps.

A process can be paused (nothing of it runs, its clocks go on), suspended (its monotonic clock stands still as well),
or killed. Clocks run at rates of their own. All of it is private to one thread and the same for the same orders.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

_RESOLUTION = 1e-6


class World:
    """True time, and what happens at which moment of it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.processes: list[Process] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, seconds: float, what: Callable[[], None]) -> None:
        """Let this happen so much later."""
        heapq.heappush(self._events, (self.now + seconds, next(self._order), what))

    def run(self, seconds: float) -> None:
        """Let everybody run for so long."""
        end = self.now + seconds
        while True:
            for process in self.processes:
                process.run_what_is_ready()
            moments = [process.next_moment() for process in self.processes]
            if self._events:
                moments.append(self._events[0][0])
            self.now = max(self.now, min([end, *moments]))
            if self.now >= end:
                return
            while self._events and self._events[0][0] <= self.now:
                heapq.heappop(self._events)[2]()

    def close(self) -> None:
        """End every loop, after a moment in which what was cancelled can end."""
        for process in self.processes:
            process.begin_to_close()
        self.run(60)
        for process in self.processes:
            process.loop.close()


class Process:
    """One process. `rate`: how fast its clocks go."""

    def __init__(self, world: World, rate: float = 1.0, offset: float = 0.0) -> None:
        self.world = world
        self.loop = _Loop(self)
        self.paused = False
        self.dead = False
        self._rate = rate
        self._offset = offset
        self._suspended = 0.0
        self._suspended_at: float | None = None
        world.processes.append(self)

    def boottime(self) -> float:
        return self._offset + self.world.now * self._rate

    def monotonic(self) -> float:
        asleep = self._suspended + (0 if self._suspended_at is None else self.world.now - self._suspended_at)
        return 7 * self._offset + (self.world.now - asleep) * self._rate

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self.loop.create_task(work)

    def pause(self, *, suspended: bool = False) -> None:
        self.paused = True
        if suspended and self._suspended_at is None:
            self._suspended_at = self.world.now

    def go_on(self) -> None:
        self.paused = False
        if self._suspended_at is not None:
            self._suspended += self.world.now - self._suspended_at
            self._suspended_at = None

    def run_what_is_ready(self) -> None:
        while not self.paused and not self.dead and self._is_something_due():
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    def next_moment(self) -> float:
        """When it wants to run next, in true time."""
        if self.paused or self.dead:
            return float("inf")
        return self.world.now + max(self._delay() / self._rate, _RESOLUTION / 2)

    def begin_to_close(self) -> None:
        self.go_on()
        self.dead = False
        for task in asyncio.all_tasks(self.loop):
            self.loop.call_soon(task.cancel)

    def _is_something_due(self) -> bool:
        """As asyncio reckons, to the last bit: a timer that it does not run would be waited for for ever."""
        end = self.loop.time() + _RESOLUTION
        return bool(self.loop._ready) or any(t.when() < end for t in self.loop._scheduled if not t.cancelled())

    def _delay(self) -> float:
        if self.loop._ready:
            return 0.0
        timers = [timer for timer in self.loop._scheduled if not timer.cancelled()]
        return min((timer.when() for timer in timers), default=float("inf")) - self.loop.time()


class _Selector(selectors.SelectSelector):
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return []


class _Loop(asyncio.SelectorEventLoop):
    _ready: list[Any]
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, process: Process) -> None:
        self._process = process
        super().__init__(_Selector())
        self._clock_resolution = _RESOLUTION

    def time(self) -> float:
        # asyncio's clock is the monotonic one.
        return self._process.monotonic() if hasattr(self._process, "_suspended_at") else 0.0

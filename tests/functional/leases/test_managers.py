"""Claim, extend, revoke and wait, in any order from five managers at once, while the database's leader dies under them.

Every holding is written down with the moments between which its check passed. Those of one lease never meet.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from dataclasses import dataclass, field

import leaseholder
from controller.leases import Denied, Key, Lost, Manager, Responsibility, Token
from controller.leases import store as lease_store
from controller.leases import timing as timings
from controller.leases.store import LeaseStore
from dbaccessor import errors
from dbaccessor.database import Database
from dbaccessor.identity import Epoch
from dqlitenodes import LATENCY_MS, Processes

TIMING = timings.for_latency(LATENCY_MS)
SECONDS = 2.0
KEYS = [Key("singular-controller", f"m{n}", f"m{n}") for n in range(12)]


@dataclass
class Holding:
    token: Token
    since: float
    until: float


@dataclass
class History:
    holdings: dict[Key, list[Holding]] = field(default_factory=lambda: {key: [] for key in KEYS})
    done: dict[str, int] = field(default_factory=dict)

    def count(self, what: str) -> None:
        self.done[what] = self.done.get(what, 0) + 1

    def judge(self) -> None:
        for key, holdings in self.holdings.items():
            holdings.sort(key=lambda holding: holding.token)
            for before, after in itertools.pairwise(holdings):
                assert before.token < after.token, f"{key}: {before.token} was given out twice"
                assert before.until <= after.since, f"{key}: {before} meets {after}"


class Caller:
    """Does one thing after another with one lease through one manager."""

    def __init__(self, manager: Manager, key: Key, history: History, dice: random.Random) -> None:
        self._manager = manager
        self._key = key
        self._history = history
        self._dice = dice

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                if self._dice.random() < 0.5:
                    async with asyncio.timeout(4 * SECONDS):
                        await self._manager.wait_until_free(self._key)
                    self._history.count("waited")
                await self._hold(await self._manager.claim(self._key, SECONDS), stop)
            except Denied:
                self._history.count("denied")
                await asyncio.sleep(self._dice.uniform(0, 0.5))
            except TimeoutError:
                self._history.count("waited in vain")
            except errors.DbAccessorError as error:
                self._history.count(type(error).__name__)

    async def _hold(self, mine: Responsibility, stop: asyncio.Event) -> None:
        """Hold it for a while, extend it perhaps, and give it up, or let it be lost."""
        holding = Holding(mine.token, time.monotonic(), 0.0)
        self._history.holdings[self._key].append(holding)
        self._history.count("granted")
        again = mine
        try:
            for _ in range(self._dice.randrange(5)):
                mine.check()
                await asyncio.sleep(self._dice.uniform(0, 1))
                if self._dice.random() < 0.3 and not stop.is_set():
                    again = await self._manager.claim(self._key, self._dice.choice([SECONDS, 2 * SECONDS]))
                    if again is not mine:
                        break
                    self._history.count("extended")
        except Lost:
            self._history.count("lost")
        finally:
            # It held until now, and no longer than its own clock says.
            left = mine.deadline - time.clock_gettime(time.CLOCK_BOOTTIME)
            holding.until = time.monotonic() + min(0.0, left)
        if again is not mine:
            await self._hold(again, stop)
        else:
            await self._manager.revoke(self._key)
            self._history.count("revoked")


def test_holdings_of_one_lease_never_meet_while_leaders_die(three: Processes):
    async def play() -> None:
        await three.grow()
        await three.wait_for_roles(3, 0)
        await leaseholder.create(three)
        history, stop = History(), asyncio.Event()
        databases = [Database(three, lease_store.DATABASE) for _ in range(5)]
        managers = [
            Manager(LeaseStore(database), str(n), lambda: Epoch(0, ""), timing=TIMING)
            for n, database in enumerate(databases)
        ]
        running = [asyncio.create_task(manager.run()) for manager in managers]
        callers = [
            asyncio.create_task(Caller(manager, key, history, random.Random(f"{n} {key}")).run(stop))
            for n, manager in enumerate(managers)
            for key in KEYS
        ]
        for _ in range(3):
            before = history.done.get("granted", 0)
            while history.done.get("granted", 0) < before + 40:
                await asyncio.sleep(0.05)
                failed = [task for task in [*running, *callers] if task.done()]
                assert not failed, failed
            leader = await three.wait_for_leader()
            await asyncio.to_thread(three.kill, leader)
            await three.wait_for_leader(other_than=leader)
            await asyncio.to_thread(three.start, leader)
            await three.wait_for_roles(3, 0)
        stop.set()
        await asyncio.gather(*callers)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        history.judge()
        print(history.done)
        assert {"granted", "extended", "revoked", "waited", "denied"} <= history.done.keys()
        rows = (await databases[0].read("SELECT holder FROM lease")).rows
        # Everything was given up at the end.
        assert {row[0] for row in rows} == {""}
        for database in databases:
            database.close()

    asyncio.run(play())

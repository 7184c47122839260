"""controllerd with work of its own under leases: `actingcontrollerd.py FOLDER PLAN ARGUMENTS…`.

The plan is JSON: `managers`, the ids of those that take part; `seconds`, of the lease `act`; `keys`, so many leases
that callers fight for; `wall`, by how much the managers' wall clocks are ahead.

Whoever holds `act` acts every few milliseconds: it appends a line to a file of its process, with the moment before it
checked its responsibility, and inserts a row through its fence. Callers claim, extend, revoke and wait in any order,
and write down each moment at which their check passed. They have had enough when FOLDER/enough exists.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

from controller import daemon, manifolds
from controller.engine import Getter, Manifold, Manifolds, Worker
from controller.leases import Denied, Key, Lost, Manager, Responsibility, Singular, is_responsible, singular
from controller.leases import manager as manager_module
from controller.leases.clock import Clock
from controller.node import Databases
from dbaccessor import errors
from dbaccessor.schema import Patch, parse

NAMESPACE = "trial"
ACT = Key(NAMESPACE, "act", "act")
DATABASE = "acts"
PATCHES: tuple[Patch, ...] = (
    parse(
        "0001-act.sql",
        "CREATE TABLE act (id INTEGER PRIMARY KEY AUTOINCREMENT, epoch INTEGER NOT NULL, count INTEGER NOT NULL,"
        " holder TEXT NOT NULL);",
    ),
)
ACT_SECONDS = 0.01
CALLER_SECONDS = 2.0


class Anybody:
    """The secretary of the namespace."""

    def check(self, key: Key, holder: str, duration_seconds: float) -> None:
        pass


class History:
    """What this process did, one line each, written before anything follows from it."""

    def __init__(self, folder: Path, own: str) -> None:
        self._file = (folder / f"done-{own}-{os.getpid()}.jsonl").open("a", buffering=1)

    def act(self, at: float, mine: Responsibility) -> None:
        self._tell(at=at, key=mine.key.name, holder=mine.holder, token=[mine.token.epoch, mine.token.count])

    def count(self, what: str) -> None:
        self._tell(at=time.monotonic(), what=what)

    def _tell(self, **facts: Any) -> None:
        self._file.write(json.dumps(facts) + "\n")


class Actor:
    def __init__(self, responsibility: Responsibility, databases: Databases, history: History) -> None:
        self._mine = responsibility
        self._databases = databases
        self._history = history

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._act())
            group.create_task(self._write())

    async def _act(self) -> None:
        while True:
            before = time.monotonic()
            self._mine.check()
            self._history.act(before, self._mine)
            await asyncio.sleep(ACT_SECONDS)

    async def _write(self) -> None:
        fenced = None
        while True:
            try:
                if fenced is None:
                    await self._databases.create(DATABASE, PATCHES)
                    fenced = self._mine.fenced(self._databases.database(DATABASE))
                await fenced.run(self._insert, deadline_seconds=1)
                self._history.count("written")
            except errors.DbAccessorError:
                self._history.count("unwritten")
            await asyncio.sleep(ACT_SECONDS)

    async def _insert(self, tx: Any) -> None:
        token = self._mine.token
        await tx.execute(
            "INSERT INTO act (epoch, count, holder) VALUES (?, ?, ?)", (token.epoch, token.count, self._mine.holder)
        )


class Callers:
    """One for each key: does one thing after another with it."""

    def __init__(self, manager: Manager, count: int, history: History, enough: Path) -> None:
        self._manager = manager
        self._keys = [Key(NAMESPACE, f"key-{n}", f"key-{n}") for n in range(count)]
        self._history = history
        self._enough = enough

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for key in self._keys:
                group.create_task(self._call(key, random.Random(f"{self._manager.incarnation} {key}")))
        await asyncio.Event().wait()

    async def _call(self, key: Key, dice: random.Random) -> None:
        while not self._enough.exists():
            try:
                if dice.random() < 0.5:
                    async with asyncio.timeout(4 * CALLER_SECONDS):
                        await self._manager.wait_until_free(key)
                    self._history.count("waited")
                await self._hold(await self._manager.claim(key, CALLER_SECONDS), dice)
            except Denied:
                self._history.count("denied")
                await asyncio.sleep(dice.uniform(0, 0.5))
            except TimeoutError:
                self._history.count("waited in vain")
            except errors.DbAccessorError as error:
                self._history.count(type(error).__name__)
                await asyncio.sleep(0.1)

    async def _hold(self, mine: Responsibility, dice: random.Random) -> None:
        """Act under it for a while, extend it perhaps, and give it up, or let it be lost."""
        self._history.count("claimed")
        try:
            for _ in range(dice.randrange(1, 40)):
                before = time.monotonic()
                mine.check()
                self._history.act(before, mine)
                await asyncio.sleep(dice.uniform(0.01, 0.05))
                if dice.random() < 0.05:
                    again = await self._manager.claim(mine.key, dice.choice([CALLER_SECONDS, 2 * CALLER_SECONDS]))
                    if again is not mine:
                        await self._hold(again, dice)
                        return
                    self._history.count("extended")
        except Lost:
            self._history.count("lost")
        await self._manager.revoke(mine.key)
        self._history.count("revoked")


def manager_of(get: Getter) -> Manager:
    manager = get(manifolds.LEASES, Manager)
    with contextlib.suppress(ValueError):  # Known already, since this manifold was started before.
        manager.register(NAMESPACE, Anybody())
    return manager


def with_work(table: Manifolds, plan: dict[str, Any], history: History, enough: Path) -> Manifolds:
    """Return the table with the trial's manifolds."""

    def flag(get: Getter) -> Worker:
        manager_of(get)
        return singular(manifolds.LEASES, ACT, plan["seconds"]).start(get)

    def actor(get: Getter) -> Worker:
        mine = get("trial-flag", Singular).responsibility  # type: ignore[type-abstract]
        assert mine is not None
        return Actor(mine, get("domain-schema", Databases), history)

    def callers(get: Getter) -> Worker:
        return Callers(manager_of(get), plan["keys"], history, enough)

    return {
        **table,
        "trial-flag": Manifold(flag, (manifolds.LEASES,)),
        "trial-actor": is_responsible("trial-flag")(Manifold(actor, ("domain-schema",))),
        "trial-callers": Manifold(callers, (manifolds.LEASES,)),
    }


def main() -> int:
    folder, plan = Path(sys.argv[1]), json.loads(sys.argv[2])
    own = Path(sys.argv[sys.argv.index("--state-dir") + 1]).name
    if own in plan["managers"]:
        history, real = History(folder, own), manifolds.controller_manifolds
        ahead = plan["wall"].get(own, 0.0)
        manager_module.Clock = lambda: Clock(wall=lambda: time.time() + ahead)  # type: ignore[attr-defined,misc,assignment]
        manifolds.controller_manifolds = lambda *given: with_work(real(*given), plan, history, folder / "enough")
    return daemon.main(sys.argv[3:])


if __name__ == "__main__":
    raise SystemExit(main())

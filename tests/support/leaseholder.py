"""Processes that hold leases on a real Dqlite cluster, beside its nodes: can be killed, paused and told to stop.

Run as a program (`leaseholder.py JSON`) this is one of them: the real lease manager, flag and engine, with a worker
that acts every few milliseconds as long as it is responsible. It acts twice each time: it appends a line to a file,
with the moment before it checked its responsibility, and it inserts a row through its fence.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import freezing
from bystander import Bystander
from controller.engine import Engine, Getter, Manifold, Worker
from controller.leases import Key, Manager, Responsibility, Singular, Token, is_responsible, singular
from controller.leases import store as lease_store
from controller.leases import timing as timings
from controller.leases.clock import Clock
from controller.leases.store import LeaseStore
from dbaccessor import errors
from dbaccessor.database import Database, Transaction
from dbaccessor.identity import Epoch
from dqlitenodes import DEADLINE_SECONDS, LATENCY_MS, Processes
from lossyway import LossyWay

KEY = Key("singular-controller", "m", "m")
MODEL = "model-m"
ACT_SECONDS = 0.01
# What moves the wall clock of a running holder, and how far.
JUMPS = {signal.SIGUSR1: 3600.0, signal.SIGUSR2: -3600.0}


@dataclasses.dataclass(frozen=True)
class Act:
    """`at` is of the clock that all processes of a machine share, taken before the responsibility was checked."""

    at: float
    holder: str
    token: Token


class Holders:
    """Numbered processes on the cluster of `nodes`. A context manager that ends what it started."""

    def __init__(self, nodes: Processes, seconds: float) -> None:
        self.nodes = nodes
        self.seconds = seconds
        self.children: dict[int, subprocess.Popen[bytes]] = {}
        self.bystander = Bystander(nodes.from_outside(), KEY)
        self._ways: dict[int, LossyWay] = {}
        self._stack = contextlib.ExitStack()
        self._file = nodes.folder / "acts"
        self._file.touch()

    def __enter__(self) -> Holders:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.children.values():
            child.send_signal(signal.SIGCONT)
            child.kill()
            child.wait(DEADLINE_SECONDS)
        self._stack.close()

    def way(self, n: int) -> LossyWay:
        """Return the way of this one to the cluster's nodes."""
        if n not in self._ways:
            self._ways[n] = self._stack.enter_context(LossyWay(self.nodes.ports))
        return self._ways[n]

    def start(self, *numbers: int, wall_offset: float = 0.0, more_leases: int = 0) -> None:
        """`more_leases`: each claims so many of its own as well."""
        for n in numbers:
            described = {
                "ids": self.nodes.ids,
                "ports": self.way(n).ports,
                "holder": str(n),
                "seconds": self.seconds,
                "acts": str(self._file),
                "wall-offset": wall_offset,
                "more-leases": more_leases,
            }
            with (self.nodes.folder / f"holder-{n}.log").open("ab") as log:
                self.children[n] = subprocess.Popen(
                    ["setpriv", "--pdeathsig", "KILL", "--", sys.executable, __file__, json.dumps(described)],
                    stderr=log,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                )

    def kill(self, n: int) -> None:
        self.children[n].kill()
        self.children[n].wait(DEADLINE_SECONDS)

    def freeze(self, n: int) -> None:
        """SIGSTOP, and wait until every thread has stopped."""
        freezing.freeze(self.children[n])

    def thaw(self, n: int) -> None:
        self.children[n].send_signal(signal.SIGCONT)

    def move_wall(self, n: int, jump: signal.Signals) -> None:
        """Move the wall clock of this one by one of JUMPS while it runs, and return when it has moved."""
        file = self.nodes.folder / f"acts.wall-{n}"
        self.wait(lambda _: file.exists(), f"{n} lets its wall clock be moved")
        before = file.stat().st_size
        self.children[n].send_signal(jump)
        self.wait(lambda _: file.stat().st_size > before, f"the wall clock of {n} has moved")

    def terminate(self, n: int) -> int:
        """SIGTERM; return the exit status."""
        self.children[n].terminate()
        return self.children[n].wait(DEADLINE_SECONDS)

    def acts(self) -> list[Act]:
        """All acts so far, in the order of their moments."""
        found = []
        for line in self._file.read_text().splitlines():
            at, holder, epoch, count = line.split()
            found.append(Act(float(at), holder, Token(int(epoch), int(count))))
        return sorted(found, key=lambda act: act.at)

    def wait(self, fact: Callable[[list[Act]], Any], what: str, seconds: float = DEADLINE_SECONDS) -> Any:
        """Poll the acts until something is true of them, and return it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := fact(self.acts()):
                return found
            time.sleep(0.02)
        raise AssertionError(f"not within {seconds:g} s: {what}; the last act is {self.acts()[-1:]}; {self.logs()}")

    def wait_for_other(self, than: str | None, after: float, seconds: float = DEADLINE_SECONDS) -> Act:
        """Return the first act of another holder after that moment."""

        def other(acts: list[Act]) -> Act | None:
            return next((act for act in acts if act.at > after and act.holder != than), None)

        found = self.wait(other, f"somebody else than {than} acts", seconds)
        assert isinstance(found, Act)
        return found

    def report(self, n: int) -> dict[str, Any]:
        """Return what the manager of this one reported last."""
        found: dict[str, Any] = json.loads((self.nodes.folder / f"acts.{n}").read_text())
        return found

    def logs(self) -> str:
        return "\n".join(path.read_text()[-2000:] for path in sorted(self.nodes.folder.glob("holder-*.log")))


def judge(acts: list[Act]) -> None:
    """Raise AssertionError unless at most one holder acted at any time: tokens rise, and each has one holder."""
    for before, after in itertools.pairwise(acts):
        assert before.token <= after.token, f"{after} after {before}"
        assert before.token != after.token or before.holder == after.holder, f"{after} shares its token with {before}"


class _More:
    """Claims leases of this holder's own, and writes the manager's report down again and again."""

    def __init__(self, manager: Manager, described: dict[str, Any]) -> None:
        self._manager = manager
        self._file = Path(f"{described['acts']}.{described['holder']}")
        names = [f"{described['holder']}-{n}" for n in range(described["more-leases"])]
        self._keys = [Key(KEY.namespace, name, name) for name in names]
        self._seconds = float(described["seconds"])

    async def run(self) -> None:
        await asyncio.gather(*(self._manager.claim(key, self._seconds) for key in self._keys))
        while True:
            report = {**self._manager.report(), "leases": None}
            held = sum(self._manager.held(key) is not None for key in self._keys)
            temporary = self._file.with_name(f"{self._file.name}.new")
            temporary.write_text(json.dumps({**report, "more-held": held}))
            temporary.rename(self._file)
            await asyncio.sleep(0.5)


class _Actor:
    def __init__(self, responsibility: Responsibility, database: Database, file: Path) -> None:
        self._responsibility = responsibility
        self._fenced = responsibility.fenced(database)
        self._file = file

    async def run(self) -> None:
        mine = self._responsibility
        with self._file.open("a") as file:
            while True:
                before = time.monotonic()
                mine.check()
                file.write(f"{before} {mine.holder} {mine.token.epoch} {mine.token.count}\n")
                file.flush()
                try:
                    await self._fenced.run(self._act, deadline_seconds=1)
                except errors.DbAccessorError as error:
                    print(f"an act was not written: {error!r}", file=sys.stderr)
                await asyncio.sleep(ACT_SECONDS)

    async def _act(self, tx: Transaction) -> None:
        mine = self._responsibility
        await tx.execute("INSERT INTO act (epoch, count, holder) VALUES (?, ?, ?)", (*_pair(mine.token), mine.holder))


def _pair(token: Token) -> tuple[int, int]:
    return token.epoch, token.count


async def create(nodes: Processes) -> None:
    """Make the tables that the holders use."""
    leases, model = Database(nodes, lease_store.DATABASE), Database(nodes, MODEL)

    async def make_leases(tx: Transaction) -> None:
        for patch in lease_store.patches():
            for statement in patch.statements:
                await tx.execute(statement)

    async def make_model(tx: Transaction) -> None:
        await tx.execute(
            "CREATE TABLE act (id INTEGER PRIMARY KEY AUTOINCREMENT, epoch INTEGER NOT NULL, count INTEGER NOT NULL,"
            " holder TEXT NOT NULL)"
        )

    await leases.run(make_leases, deadline_seconds=30)
    await model.run(make_model, deadline_seconds=30)
    leases.close()
    model.close()


async def written(nodes: Processes) -> list[Act]:
    """Return what was written through fences, in the order of the commits; `at` is that order."""
    database = Database(nodes, MODEL)
    rows = (await database.read("SELECT id, epoch, count, holder FROM act ORDER BY id", deadline_seconds=30)).rows
    database.close()
    return [Act(float(str(i)), str(h), Token(int(str(e)), int(str(c)))) for i, e, c, h in rows]


def play(three: Processes, count: int, story: Callable[[Holders], None], seconds: float) -> None:
    """Found the cluster, start so many holders, play the story when one of them acts, and judge all acts."""

    async def found() -> None:
        await three.grow()
        await three.wait_for_roles(3, 0)
        await create(three)

    asyncio.run(found())
    with Holders(three, seconds) as holders, holders.bystander:
        holders.start(*range(count))
        holders.wait_for_other(None, 0)
        story(holders)
        judge(holders.acts())
    judge(asyncio.run(written(three)))


def _make_wall_movable(file: Path) -> None:
    """Have each of JUMPS move `time.time` for all of this process, and note in the file what it says from then on."""
    true, offset = time.time, 0.0
    time.time = lambda: true() + offset

    def move(jump: float) -> None:
        nonlocal offset
        offset += jump
        with file.open("a") as noted:
            noted.write(f"{time.time() - true():.0f}\n")

    for number, jump in JUMPS.items():
        asyncio.get_running_loop().add_signal_handler(number, move, jump)
    file.touch()


async def _live(described: dict[str, Any]) -> None:
    numbered = ({int(index): number for index, number in described[what].items()} for what in ("ids", "ports"))
    nodes = Processes.elsewhere(*numbered)
    _make_wall_movable(Path(f"{described['acts']}.wall-{described['holder']}"))
    leases, model = Database(nodes, lease_store.DATABASE), Database(nodes, MODEL)
    store = LeaseStore(leases)
    seconds = float(described["seconds"])
    clock = Clock(wall=lambda: time.time() + described["wall-offset"])

    def manage(_: Getter) -> Worker:
        return Manager(
            store, described["holder"], lambda: Epoch(0, ""), timing=timings.for_latency(LATENCY_MS), clock=clock
        )

    def act(get: Getter) -> Worker:
        found = get("is-responsible", Singular).responsibility  # type: ignore[type-abstract]
        assert found is not None
        return _Actor(found, model, Path(described["acts"]))

    engine = Engine(
        {
            "lease-manager": Manifold(manage),
            "is-responsible": singular("lease-manager", KEY, seconds),
            "actor": is_responsible()(Manifold(act)),
            "more": Manifold(lambda get: _More(get("lease-manager", Manager), described), inputs=("lease-manager",)),
        }
    )
    running = asyncio.create_task(engine.run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    await asyncio.wait([running])
    leases.close()
    model.close()


if __name__ == "__main__":
    import logging

    logging.basicConfig(level="INFO", format="%(relativeCreated)d %(levelname)s %(name)s: %(message)s")
    asyncio.run(_live(json.loads(sys.argv[1])))

"""localjuju's real model and agents over hosts that are not there, on a loop whose time jumps: dozens of runs a second.

Every hook is in short the pulse charm's: whoever leads writes down whom it sees, and asks whether it leads at some
moment while the hook lasts. A host can lose its power at any moment, and takes its time to boot and to be buried.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, cast
from unittest import mock

from localjuju import agent as agents
from localjuju import hookrun, toolwire
from localjuju.agent import Agent
from localjuju.charmfiles import Charm
from localjuju.hookcontext import HookContext
from localjuju.host import Host
from localjuju.model import Model, ModelSettings, Unit
from localjuju.verbs import Verbs

APP = "controller"
_TICK_SECONDS = 0.2
_LEASE_SECONDS = 3.0
_CUT = -9


class NoHost:
    """What an agent asks of a host."""

    def __init__(self, machine: int, dice: random.Random, folder: Path) -> None:
        self.charm_folder = self.agent_socket = folder
        self.charm_inside = ""
        self.pid = 0
        self._machine = machine
        self._dice = dice
        self._down: asyncio.Future[None] | None = None

    async def boot(self) -> None:
        await asyncio.sleep(self._dice.uniform(0.1, 5))
        self.pid = 100 + self._machine
        self._down = asyncio.get_running_loop().create_future()

    async def wait_down(self) -> None:
        assert self._down is not None
        await asyncio.shield(self._down)
        await asyncio.sleep(self._dice.choice((0, 0.01, 0.3)))

    async def kill(self) -> None:
        self.pid = 0
        self.cut()

    def cut(self) -> None:
        if self._down is not None and not self._down.done():
            self._down.set_result(None)

    @property
    def dead(self) -> bool:
        return self._down is None or self._down.done()

    def enter(self, argv: list[str], folder: str = "") -> list[str]:
        return argv


class Run:
    """One model with an agent for each unit. `failing` names a hook that fails at its end."""

    def __init__(self, dice: random.Random, folder: Path) -> None:
        self._dice = dice
        self._folder = folder
        (folder / "dispatch").touch()
        self.model = Model("run", ModelSettings(lease_seconds=_LEASE_SECONDS), asyncio.get_running_loop().time)
        self.app = self.model.add_app(APP, _charm(), {}, {})
        self.failing = ""
        self.begun: list[str] = []  # Every hook, as it began: "unit name".
        self._agents: dict[str, Agent] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.model.on_change = self._poke

    @property
    def members(self) -> list[str]:
        """What stands in the app bag."""
        (relation,) = self.model.relations.values()
        found: list[str] = json.loads(relation.app_bag.content.get("members", "[]"))
        return found

    def busy(self) -> dict[str, str]:
        """As the verb says it."""
        try:
            Verbs(mock.Mock(model=self.model)).do_busy().send(None)
        except StopIteration as done:
            return cast(dict[str, str], done.value)
        raise AssertionError("busy is answered at once")

    async def settle(self, seconds: float = 600) -> None:
        async with asyncio.timeout(seconds):
            while self.busy():
                await asyncio.sleep(0.05)

    def add(self) -> None:
        unit = self.model.add_unit(self.app, [])
        host = cast(Host, NoHost(unit.machine, self._dice, self._folder))
        self._agents[unit.name] = Agent(self.model, unit, host, mock.Mock())
        self._tasks[unit.name] = asyncio.create_task(self._look_after(self._agents[unit.name]))

    async def force(self, unit: Unit) -> None:
        agent, task = self._agents.pop(unit.name, None), self._tasks.pop(unit.name, None)
        if agent is None or task is None:
            return
        cast(NoHost, agent.host).cut()
        await agents.stop(task)
        self.model.remove_unit(unit, orderly=False)

    def cut_power(self, units: Sequence[str] = ()) -> None:
        """Of these, or of all."""
        for name in units or tuple(self._agents):
            if name in self._agents:
                cast(NoHost, self._agents[name].host).cut()
                self._agents[name].unit.alive = False
                self._agents[name].unit.agent = self.model.status("lost")
        self.model.touch()

    async def _look_after(self, agent: Agent) -> None:
        await agent.run()
        await asyncio.sleep(self._dice.uniform(0, 8))  # Its disk is removed, on a machine with other work.
        self._agents.pop(agent.unit.name, None)
        self._tasks.pop(agent.unit.name, None)
        self.model.remove_unit(agent.unit, orderly=True)

    def _poke(self) -> None:
        for agent in self._agents.values():
            agent.poke()

    async def _tick(self) -> None:
        while True:
            self.model.tick_leases(asyncio.get_running_loop().time())
            await asyncio.sleep(_TICK_SECONDS)

    async def _hook(self, agent: Agent, context: HookContext) -> int:
        host = cast(NoHost, agent.host)
        if context.hook is not None:
            self.begun.append(f"{agent.unit.name} {context.hook.name}")
        for writes in (True, False):
            for _ in range(10):
                await asyncio.sleep(self._dice.uniform(0, 0.08))
                if host.dead:
                    return _CUT
            if writes and context.hook is not None and context.hook.kind != "relation-broken":
                for number, members in context.members.items():
                    if context.is_leader():
                        names = json.dumps(sorted([agent.unit.name, *members]))
                        context.write_bag(self.model.relations[number], {"members": names}, app=True)
        return int(context.hook is not None and context.hook.name == self.failing)

    @contextlib.contextmanager
    def going(self) -> Iterator[None]:
        """While this lasts, agents run hooks of this run, and leases have their clock."""

        async def run(argv: Any, env: dict[str, str], say: Any, seconds: float) -> int:
            agent = self._agents[env["unit"]]
            assert agent._context is not None
            return await self._hook(agent, agent._context)

        async def serve(*_: Any) -> contextlib.AbstractAsyncContextManager[None]:
            await asyncio.sleep(0)
            return _nothing()

        ticking = asyncio.create_task(self._tick())
        with (
            mock.patch.object(hookrun, "run", run),
            mock.patch.object(hookrun, "environment", lambda context, *_: {"unit": context.unit.name}),
            mock.patch.object(toolwire, "serve", serve),
            mock.patch("localjuju.agent.homes.listen"),
        ):
            try:
                yield
            finally:
                for task in (ticking, *self._tasks.values()):
                    task.cancel()


@contextlib.asynccontextmanager
async def _nothing() -> AsyncIterator[None]:
    yield


def _charm() -> Charm:
    charm = mock.Mock(spec=Charm, peers={"db-cluster": "db-cluster"}, options={}, endpoints=(), revision=0)
    charm.name = APP
    return cast(Charm, charm)

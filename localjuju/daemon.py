"""The model's daemon: keeps the truth, runs an agent for each unit, and answers requests on api.socket.

A request is one line of JSON, {"verb", "params"}; the answer is one line, {"ok", "result"} or {"ok", "error"}.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import traceback
from collections.abc import Callable
from typing import Any, Protocol

from localjuju import agent as agents
from localjuju import cloudserver, network, spaces
from localjuju import home as homes
from localjuju.agent import Agent
from localjuju.charmfiles import BadCharm
from localjuju.cloud import Cloud
from localjuju.cloudhosts import HostLauncher
from localjuju.cloudlog import CloudLog
from localjuju.debuglog import DebugLog
from localjuju.host import Host, HostFailed
from localjuju.model import Model, ModelSettings, Refused, Unit

_TICK_SECONDS = 0.2


class Handler(Protocol):
    """Has a method do_<verb> for each verb, and says when the run is to end."""

    wants_end: bool


class Daemon:
    """Owns the agents' tasks. stopping is set by `destroy` and by signals."""

    def __init__(self, home: homes.Home, settings: ModelSettings) -> None:
        self.home = home
        self.log = DebugLog(home.debug_log)
        self.model = Model("local", settings)
        self.network = network.Network(self.model.topology)
        self.agents: dict[str, Agent] = {}
        self.instance_hosts = HostLauncher(home, self.model.topology, self.network)
        self.cloud = Cloud(self.instance_hosts, CloudLog(home.cloud_log))
        self.stopping = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._next_status: dict[str, float] = {}

    async def run(self, make_verbs: Callable[[Daemon], Handler]) -> None:
        """Serve until told to stop. When this process ends, its namespaces and all that runs in them end, too."""
        self.home.machines.mkdir(exist_ok=True)
        self.home.charms.mkdir(exist_ok=True)
        self.model.on_change = self._poke_all
        await self.network.start()
        verbs = make_verbs(self)
        # On every address the run has: any unit reaches it, and nobody outside the run's namespace.
        door = await cloudserver.serve(self.cloud, "0.0.0.0", cloudserver.PORT)
        server = await asyncio.start_unix_server(
            lambda r, w: self._converse(verbs, r, w),
            sock=homes.listen(self.home.path / "api.socket"),
            limit=4 * 1024 * 1024,
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)
        ticking = asyncio.create_task(self._tick())
        stopping = asyncio.create_task(self.stopping.wait())
        await asyncio.wait({ticking, stopping}, return_when=asyncio.FIRST_COMPLETED)
        server.close()
        door.close()
        if ticking.done():
            ticking.result()  # It never ends but by an error, which must be seen.

    # Agents

    def start_agent(self, unit: Unit) -> None:
        agent = Agent(self.model, unit, Host(self.home, unit.machine, unit.name, self.network), self.log)
        self.agents[unit.name] = agent
        self._tasks[unit.name] = asyncio.create_task(self._look_after(agent))

    async def _look_after(self, agent: Agent) -> None:
        """The agent's task: serve the unit, then bury it. An error of ours is shown in the unit's status."""
        unit = agent.unit
        while True:
            try:
                await agent.run()
                break
            except asyncio.CancelledError:
                raise
            except Exception as error:  # noqa: BLE001 - A bug here must become a visible state of that unit, not a silent end.
                text = "".join(traceback.format_exception(error))
                self.log.add(unit.name, "ERROR", "agent", text)
                unit.agent = self.model.status("failed", f"agent: {error!r}")
                self.model.touch()
                await agent.host.kill()
                await asyncio.sleep(2)
        await agent.bury()
        await self.network.disconnect(unit.machine)
        self.agents.pop(unit.name, None)
        self._tasks.pop(unit.name, None)
        self.model.remove_unit(unit, orderly=True)

    async def drop_agent(self, unit: Unit) -> None:
        """--force: no event for the leaver, its host is dead when this returns."""
        agent, task = self.agents.pop(unit.name, None), self._tasks.pop(unit.name, None)
        if agent is None or task is None:
            return  # It is going away already.
        if agent.host.pid:
            # First of all the machine dies, while its agent may be in the middle of a hook.
            with contextlib.suppress(ProcessLookupError):
                os.kill(agent.host.pid, signal.SIGKILL)
        await agents.stop(task)
        self.model.remove_unit(unit, orderly=False)
        await agent.bury()
        await self.network.disconnect(unit.machine)

    def power_cut(self, agents: list[Agent]) -> None:
        """SIGKILL for these hosts in one go; their agents see it and boot them again."""
        up = [a for a in agents if a.host.pid]
        for agent in up:
            with contextlib.suppress(ProcessLookupError):
                os.kill(agent.host.pid, signal.SIGKILL)
        for agent in up:  # Who asks right now is not to be told that all is quiet.
            agent.unit.alive = False
            agent.unit.agent = self.model.status("lost", "its host went down")
        self.model.touch()

    def forget_status_times(self) -> None:
        """The update-status interval changed: count anew."""
        self._next_status.clear()

    def _poke_all(self) -> None:
        for agent in self.agents.values():
            agent.poke()

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            for unit in self.model.units():
                due = self._next_status.setdefault(unit.name, now + self.model.settings.update_status_seconds)
                if unit.seen.started and now >= due:
                    unit.status_updates += 1
                    self._next_status[unit.name] = now + self.model.settings.update_status_seconds
                    self.agents[unit.name].poke() if unit.name in self.agents else None
            self.model.tick_leases(now)
            await asyncio.sleep(_TICK_SECONDS)

    # Requests

    async def _converse(self, verbs: Handler, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(10):
                request = json.loads(await reader.readline())
            answer = await self._handle(verbs, request["verb"], request.get("params", {}))
            writer.write(json.dumps(answer).encode() + b"\n")
            async with asyncio.timeout(10):
                await writer.drain()
        except (TimeoutError, ConnectionError, ValueError, KeyError):
            pass  # The client went away or is not one of ours; it will see its connection close.
        finally:
            writer.close()
        if not self.stopping.is_set() and verbs.wants_end:
            self.stopping.set()

    async def _handle(self, verbs: Handler, verb: str, params: dict[str, Any]) -> dict[str, Any]:
        handler = getattr(verbs, "do_" + verb.replace("-", "_"), None)
        if handler is None:
            return {"ok": False, "error": f"unknown verb {verb!r}"}
        try:
            return {"ok": True, "result": await handler(**params)}
        except (Refused, BadCharm, spaces.BadNetwork, network.NetworkFailed, HostFailed) as error:
            return {"ok": False, "error": str(error)}
        except Exception as error:  # noqa: BLE001 - A bug of ours answers its client; the model lives on.
            self.log.add("", "ERROR", "daemon", traceback.format_exc())
            return {"ok": False, "error": f"localjuju failed: {error!r} (see debug-log)"}

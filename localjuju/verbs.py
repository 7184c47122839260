"""What each verb does to the model and its hosts. One method a verb; parameters and results are plain JSON."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from localjuju import actions, charmfiles, cloudlog, cloudserver, events, network, view
from localjuju import config as configs
from localjuju.agent import Agent, Job
from localjuju.daemon import Daemon
from localjuju.hookcontext import ActionRun
from localjuju.model import Refused, Unit

_SETTINGS = {
    "update-status-hook-interval": "update_status_seconds",
    "leadership-lease": "lease_seconds",
    "hook-timeout": "hook_seconds",
    "retry-most": "retry_most_seconds",
}


class Verbs:
    """The daemon's requests by name: do_<verb>."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._model = daemon.model
        self._operations = 0
        self._revisions = 0
        self.wants_end = False

    async def do_ping(self) -> dict[str, Any]:
        return {"revision": self._model.revision}

    async def do_destroy(self) -> None:
        self.wants_end = True

    # Applications and units

    async def do_deploy(
        self,
        path: str,
        name: str = "",
        units: int = 1,
        bind: dict[str, str] | None = None,
        config: dict[str, str] | None = None,
        extra_address: list[str] | None = None,
    ) -> dict[str, Any]:
        charm = await asyncio.to_thread(self._stage, path)
        app = self._model.add_app(name or charm.name, charm, config or {}, bind or {})
        try:
            added = [self._add_unit(app.name, extra_address or []) for _ in range(units)]
        except Refused:
            if not app.units:
                del self._model.apps[app.name]
            raise
        return {"application": app.name, "units": added}

    def _stage(self, path: str) -> charmfiles.Charm:
        revision, self._revisions = self._revisions, self._revisions + 1
        return charmfiles.stage(Path(path), self._daemon.home.charms / str(revision), revision)

    async def do_refresh(self, app: str, path: str) -> dict[str, Any]:
        charm = await asyncio.to_thread(self._stage, path)
        self._model.refresh(self._model.app(app), charm)
        return {"charm-rev": charm.revision}

    async def do_add_unit(self, app: str, units: int = 1, extra_address: list[str] | None = None) -> dict[str, Any]:
        return {"units": [self._add_unit(app, extra_address or []) for _ in range(units)]}

    def _add_unit(self, app: str, extra: list[str]) -> str:
        unit = self._model.add_unit(self._model.app(app), extra)
        self._daemon.start_agent(unit)
        return unit.name

    async def do_remove_unit(self, units: list[str], force: bool = False) -> dict[str, Any]:
        found = [self._model.unit(name) for name in units]
        if force:
            # All at once: what is killed together must not see each other go one by one.
            await asyncio.gather(*(self._daemon.drop_agent(unit) for unit in found))
        else:
            for unit in found:
                self._model.start_dying(unit)
        return {"units": [u.name for u in found]}

    async def do_resolve(self, unit: str, retry: bool = True) -> None:
        found, agent = self._pair(unit)
        failed = found.seen.failed
        if not found.hook_error or failed is None:
            raise Refused(f'unit "{found.name}" is not in error')
        if found.agent.current == "executing":
            raise Refused(f'unit "{found.name}" is running {failed.name} again just now')
        if retry:
            agent.retry_now()
        else:
            agent.settle(failed, self._model.facts(found))
            self._model.touch()

    def _pair(self, name: str) -> tuple[Unit, Agent]:
        unit = self._model.unit(name)
        if unit.name not in self._daemon.agents:
            raise Refused(f"{unit.name} is going away")
        return unit, self._daemon.agents[unit.name]

    # Settings

    async def do_config(
        self, app: str, changes: dict[str, str] | None = None, reset: list[str] | None = None
    ) -> dict[str, Any]:
        found = self._model.app(app)
        if changes or reset:
            self._model.set_config(found, changes or {}, reset or [])
        effective = configs.effective(found.charm.options, found.settings)
        return {
            "application": app,
            "charm": found.charm.name,
            "settings": {
                key: {
                    "description": spec.get("description", ""),
                    "type": spec.get("type", "string"),
                    "source": "user" if key in found.settings else "default" if key in effective else "unset",
                    **({"value": effective[key]} if key in effective else {}),
                    **({"default": spec["default"]} if "default" in spec else {}),
                }
                for key, spec in found.charm.options.items()
            },
        }

    async def do_model_config(self, changes: dict[str, str] | None = None) -> dict[str, Any]:
        for key, value in (changes or {}).items():
            if key not in _SETTINGS:
                raise Refused(f'unknown key "{key}"; known: {", ".join(_SETTINGS)}')
            try:
                setattr(self._model.settings, _SETTINGS[key], float(value.removesuffix("s")))
            except ValueError:
                raise Refused(f"{key} is a number of seconds, not {value!r}") from None
        for app in self._model.apps.values():
            app.lease.lease_seconds = self._model.settings.lease_seconds
        self._daemon.forget_status_times()
        return {key: getattr(self._model.settings, name) for key, name in _SETTINGS.items()}

    async def do_bind(self, app: str, bindings: dict[str, str], force: bool = False) -> None:
        self._model.bind(self._model.app(app), bindings, force=force)

    async def do_add_space(self, name: str, cidr: str) -> dict[str, str]:
        subnet = self._model.topology.add_subnet(cidr, name)
        await self._daemon.network.sync_subnets()
        self._model.touch()
        return {"space": name, "subnet": str(subnet.cidr)}

    async def do_add_address(self, unit: str, cidr: str) -> dict[str, str]:
        found, agent = self._pair(unit)
        device, address = self._model.topology.add_address(found.machine, cidr)
        if agent.host.pid:
            await self._daemon.network.sync_devices(found.machine, agent.host.pid)
        self._model.touch()
        return {"interface": device.name, "address": str(address), "space": device.subnet.space}

    # Looking

    async def do_status(self) -> dict[str, Any]:
        return view.status(self._model)

    async def do_show_unit(self, unit: str) -> dict[str, Any]:
        return view.show_unit(self._model, self._model.unit(unit))

    async def do_debug_log(
        self, since: int = 0, unit: str = "", level: str = "TRACE", limit: int = 0
    ) -> dict[str, Any]:
        records = list(self._daemon.log.since(since, unit, level.upper()))[-limit:]
        return {"last": records[-1].number if records else since, "lines": [r.line() for r in records]}

    async def do_enter(self, unit: str) -> dict[str, int]:
        """Where `exec` goes: the first process of the unit's host, as numbered inside the run."""
        found, agent = self._pair(unit)
        if not agent.host.pid:
            raise Refused(f"{found.name}'s host is not up (yet)")
        return {"pid": agent.host.pid}

    # The cloud beside the model

    async def do_cloud(self) -> dict[str, Any]:
        """Where the cloud is, as units reach it, and the instances it has."""
        gateway = self._model.topology.subnets[0].gateway.ip
        return {"endpoint": f"http://{gateway}:{cloudserver.PORT}", "instances": self._daemon.cloud.list({})}

    async def do_cloud_log(self) -> list[dict[str, Any]]:
        return list(cloudlog.read(self._daemon.home.cloud_log))

    async def do_enter_instance(self, instance: str) -> dict[str, int]:
        """As `enter`, for an instance by its id."""
        pid = self._daemon.instance_hosts.pid(instance)
        if not pid:
            raise Refused(f"there is no instance {instance}, or its host is not up (yet)")
        return {"pid": pid}

    # Actions

    async def do_run(
        self, unit: str, action: str, params: dict[str, str] | None = None, wait_seconds: float = 60.0
    ) -> dict[str, Any]:
        found, agent = self._pair(unit)
        try:
            values = actions.parameters(self._model.apps[found.app].charm.actions, action, params or {})
        except actions.BadParameters as error:
            raise Refused(str(error)) from None
        self._operations += 1
        run = ActionRun(str(self._operations), action, values)
        done: asyncio.Future[tuple[int, str, str]] = asyncio.get_running_loop().create_future()
        agent.submit(Job(run, "", done))
        try:
            async with asyncio.timeout(wait_seconds):
                code, out, err = await done
        except TimeoutError:
            raise Refused(
                f"action {action} on {found.name} did not end in {wait_seconds:.0f} s; "
                f"the agent is {found.agent.current}: {found.agent.message or 'busy'}"
            ) from None
        failed = run.failure is not None or code != 0
        message = run.failure if run.failure is not None else err.strip()
        return {
            found.name: {
                "id": run.id,
                "unit": found.name,
                "status": "failed" if failed else "completed",
                "results": {**run.results, "return-code": code, **({"stdout": out} if out else {})},
                "log": run.log,
                **({"message": message} if failed else {}),
            }
        }

    # Faults

    async def do_kill(self, unit: str) -> dict[str, list[str]]:
        return {"killed": await self._services(unit, "kill", "--kill-whom=main", "--signal=SIGKILL")}

    async def do_pause(self, unit: str) -> dict[str, list[str]]:
        return {"paused": await self._services(unit, "freeze")}

    async def do_resume(self, unit: str) -> dict[str, list[str]]:
        return {"resumed": await self._services(unit, "thaw")}

    async def _services(self, unit: str, verb: str, *options: str) -> list[str]:
        found, agent = self._pair(unit)
        _, out = await agent.host.systemctl("list-units")
        names = [line.split()[0] for line in out.splitlines() if " running " in line]
        if not names:
            raise Refused(f"no service runs on {found.name}")
        code, text = await agent.host.systemctl(verb, *options, *names)
        if code:
            raise Refused(text)
        return names

    async def do_cut(self, units: list[str], other: str = "", one_way: bool = False) -> None:
        sources = frozenset(self._machine(u) for u in units)
        if not other and one_way:
            raise Refused("--one-way needs --from")
        targets = frozenset({self._machine(other)}) if other else None
        # `--from B --one-way` stops what B sends to A; what A sends still arrives.
        cut = network.Cut(targets, sources, True) if one_way and targets else network.Cut(sources, targets)
        await self._daemon.network.cut(cut)

    async def do_heal(self, units: list[str]) -> None:
        await self._daemon.network.heal({self._machine(u) for u in units} if units else None)

    def _machine(self, name: str) -> int:
        return network.OUTSIDE if name == "outside" else self._model.unit(name).machine

    async def do_restart_all(self) -> None:
        self._daemon.power_cut(list(self._daemon.agents.values()))

    async def do_reboot(self, unit: str) -> None:
        self._daemon.power_cut([self._pair(unit)[1]])

    async def do_update_status(self, unit: str) -> None:
        """Run update-status now: waiting for the interval is no fun by hand."""
        found, agent = self._pair(unit)
        found.status_updates += 1
        agent.poke()

    async def do_busy(self) -> dict[str, str]:
        """The units that have something to do, and what; empty when the model has settled."""
        doing: dict[str, str] = {}
        for app in self._model.apps.values():
            if app.units and app.lease.holder not in app.units:
                # A hook is still to come: leader-elected, when the lease of whoever is gone has run out.
                doing[app.name] = f"nobody leads; the lease of {app.lease.holder or 'nobody'} runs out first"
        for unit in self._model.units():
            hook = events.next_hook(unit.seen, self._model.facts(unit))
            if unit.agent.current != "idle":
                doing[unit.name] = unit.agent.message or unit.agent.current
            elif hook is not None:
                doing[unit.name] = f"{hook.name} is next"
            elif unit.dying:
                # It has no hook left, but if it leads, leader-elected comes elsewhere once it is gone.
                doing[unit.name] = "is being removed"
        return doing

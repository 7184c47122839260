"""What the steps of this suite need of a deployment, and what they see of it. Two backends implement it.

The words and JSON shapes are Juju's, so one implementation on top of Juju's command line serves both: the real one, run
by pytest-operator, and localjuju's. What they cannot do alike is in the backends.
"""

from __future__ import annotations

import abc
import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

APP = "controller"
ENDPOINT = "db-cluster"


class CannotDo(Exception):
    """This deployment lacks what a step needs; the step is skipped with this sentence."""


class CommandFailed(Exception):
    """A command of Juju ended with an error."""


@dataclass(frozen=True)
class Unit:
    name: str
    status: str
    message: str
    agent: str


@dataclass(frozen=True)
class View:
    """`juju status`, as far as the steps look at it."""

    app_status: str
    app_message: str
    version: str
    units: dict[str, Unit]

    @classmethod
    def parse(cls, status: dict[str, Any]) -> View:
        app = status.get("applications", {}).get(APP, {})
        units = {
            name: Unit(
                name,
                unit["workload-status"].get("current", ""),
                unit["workload-status"].get("message", ""),
                unit["juju-status"].get("current", ""),
            )
            for name, unit in (app.get("units") or {}).items()
        }
        current = app.get("application-status", {})
        return cls(current.get("current", ""), current.get("message", ""), app.get("version", ""), units)

    def __str__(self) -> str:
        lines = [f"{APP}: {self.app_status}: {self.app_message}"]
        lines += [f"  {u.name}: {u.status} ({u.agent}): {u.message}" for u in self.units.values()]
        return "\n".join(lines)

    def all_active(self, count: int) -> bool:
        return len(self.units) == count and all(u.status == "active" for u in self.units.values())


class Cluster(abc.ABC):
    """A deployment of the charm. Every call has a deadline."""

    @abc.abstractmethod
    async def juju(self, *arguments: str) -> str:
        """Run one command of Juju and return what it printed. Raises CommandFailed."""

    @abc.abstractmethod
    async def add_unit_with_two_addresses(self) -> str:
        """Add a unit that has an address in a second subnet from birth. Return the space to bind to.

        Raises CannotDo where the deployment has only one subnet.
        """

    @abc.abstractmethod
    async def kill(self, unit: str) -> None:
        """SIGKILL the unit's controllerd; its service manager starts it again."""

    async def deploy(self, charm: Path) -> None:
        await self.juju("deploy", str(charm), APP)

    async def add_units(self, count: int) -> None:
        await self.juju("add-unit", APP, "-n", str(count))

    async def remove_unit(self, unit: str) -> None:
        await self.juju("remove-unit", unit)

    async def bind(self, space: str) -> None:
        await self.juju("bind", APP, f"{ENDPOINT}={space}")

    async def view(self) -> View:
        return View.parse(json.loads(await self.juju("status", "--format", "json")))

    async def get_cluster(self, unit: str) -> dict[str, Any]:
        """The results of the charm's action on this unit; `json` of them is decoded as `status`."""
        (outcome,) = json.loads(await self.juju("run", unit, "get-cluster", "--format", "json")).values()
        if outcome["status"] != "completed":
            raise CommandFailed(f"get-cluster on {unit}: {outcome}")
        return {**outcome["results"], "status": json.loads(outcome["results"]["json"])}

    async def wait(self, predicate: Callable[[View], bool], what: str, timeout_seconds: float = 600) -> View:
        """Return the first view that satisfies the predicate. Raises TimeoutError with the last one."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            view = await self.view()
            if predicate(view):
                return view
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {timeout_seconds:.0f} s: {what}\n{view}")
            await asyncio.sleep(1)


async def run(argv: Sequence[str], timeout_seconds: float = 300) -> str:
    """Run a program and return what it printed. Raises CommandFailed with what it said."""
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        out, error = await asyncio.wait_for(process.communicate(), timeout_seconds)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise CommandFailed(f"{' '.join(argv)}: no end in {timeout_seconds:.0f} s") from None
    if process.returncode:
        raise CommandFailed(f"{' '.join(argv)}: {error.decode(errors='replace').strip()}")
    return out.decode()

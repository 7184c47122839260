"""The stage with everything on it: units of the real charm under localjuju, with hosts and a network of their own."""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from demo import history
from localjuju.client import Client, ClientError

from dbaccessor import confsocket
from faultrun.clients import ROOT, Clients

APP = "controller"
_MOST = 5
_CHANGE_SECONDS = 8

Fault = contextlib.AbstractContextManager[None]


class JujuStage:
    """Controllers are named by their units."""

    def __init__(self, juju: Client, clients: Clients, folder: Path) -> None:
        self._juju = juju
        self._clients = clients
        self._folder = folder
        self._paused: set[str] = set()
        self._cut: set[str] = set()

    def form(self, count: int) -> None:
        self._juju.call("deploy", path=str(ROOT), name=APP, units=count)
        self.until_whole(count)

    def addresses(self) -> dict[str, str]:
        """Return controller id -> IP, as the charm's leader published it."""
        return self._published("db-bind-addresses")

    def certificates(self) -> str:
        """Return the folder of some unit's certificates as a client can reach it: a client shows those of a unit."""
        for unit in self.controllers():
            with contextlib.suppress(ClientError):
                return f"/proc/{self._juju.call('enter', unit=unit)['pid']}/root/var/lib/ha-controller/tls"
        return ""

    def start_clients(self, wanted: Mapping[str, Sequence[str]]) -> None:
        """Start the clients, and return when each has an answer."""
        self._clients.start(self.addresses(), wanted, certificates=self.certificates())
        self._clients.until_asking()

    def read_everything(self) -> None:
        """Write what there is into the history."""
        self._clients.read_everything(self.addresses(), certificates=self.certificates())

    def introduce(self) -> None:
        """Tell clients where the controllers are now."""
        self._clients.introduce(self.addresses(), certificates=self.certificates())

    def controllers(self) -> list[str]:
        units = self._juju.units(APP)
        return sorted(u for u, s in units.items() if s["juju-status"].get("life") != "dying")

    def leader(self) -> str | None:
        names = self._published("units")
        for unit in self.controllers():
            if unit in self._paused | self._cut:
                continue
            section = self.status(unit).get("cluster") or {}
            if section.get("leader") is not None:
                return names.get(str(section["leader"]))
        return None

    def status(self, unit: str) -> dict[str, Any]:
        """Return the status document of the unit's controllerd; {} while nobody answers."""
        run = self._juju.home.read_run()
        assert run is not None, "the run of localjuju has ended"
        try:
            pid = self._juju.call("enter", unit=unit)["pid"]
            folder = Path(f"/proc/{run.init}/root/proc/{pid}/root/var/lib/ha-controller")
            _, body = confsocket.request(folder / confsocket.CONTROL, "GET", "/status", timeout_seconds=1)
        except (ClientError, OSError, confsocket.NoSocket, confsocket.SocketTimeout):
            return {}
        document: dict[str, Any] = json.loads(body)
        return document

    def on(self, unit: str, program: str, *words: str) -> str:
        """Run a program on the unit's host, its arguments one line; return what it printed."""
        done = self._juju.exec(unit, [program, "; ".join(words)])
        assert done.returncode == 0, f"{program} on {unit}: {done.stderr}"
        return done.stdout

    def tell(self, event: str, **facts: object) -> None:
        with (self._folder / "faults.jsonl").open("ab") as out:
            out.write(history.line(event, **facts))

    def faults(self) -> dict[str, Callable[[random.Random, str], Fault]]:
        offered: dict[str, Callable[[random.Random, str], Fault]] = {
            "kill": self._kill,
            "pause": self._pause,
            "power cut": self._power_cut,
            "reboot": self._reboot,
        }
        if len(self.controllers()) > 1:
            offered |= {"cut": self._cut_off, "one-way cut": self._one_way}
        return offered

    def changes(self) -> dict[str, Callable[[random.Random, str], None]]:
        offered: dict[str, Callable[[random.Random, str], None]] = {}
        count = len(self.controllers())
        if count < _MOST:
            offered["add"] = self.add
        if count > 1:
            offered["remove"] = self.remove
        return offered

    def mend(self) -> float:
        """Undo every cut, wake everybody, and wait until the cluster is whole; return the seconds that took."""
        self._juju.call("heal", units=[])
        for unit in self.controllers():
            with contextlib.suppress(ClientError):  # Nothing runs there, so nothing is stopped.
                self._juju.call("resume", unit=unit)
        return self.until_whole(len(self.controllers()))

    def until_whole(self, count: int, timeout_seconds: float = 240) -> float:
        """Wait until `count` units are active, serve, and have the roles that so many should have."""
        started = time.monotonic()
        seen: list[Any] = []
        while time.monotonic() - started < timeout_seconds:
            units = self._juju.units(APP)
            documents = [self.status(unit) for unit in units]
            roles = (
                [m["role"] for m in (documents[0].get("cluster") or {"members": []})["members"]] if documents else []
            )
            states = [d.get("state") for d in documents]
            work = [s["workload-status"] for s in units.values()]
            seen = [sorted(units), states, sorted(roles), work]
            if (
                len(units) == count
                and states == ["serving"] * count
                and sorted(roles) == ["stand-by"] * max(0, count - 3) + ["voter"] * min(3, count)
                and [w["current"] for w in work] == ["active"] * count
            ):
                self.introduce()
                return time.monotonic() - started
            time.sleep(0.2)
        raise AssertionError(f"not whole within {timeout_seconds} s: {seen}")

    # Faults

    def _kill(self, dice: random.Random, victim: str) -> Fault:
        self._try("kill", unit=victim)
        return contextlib.nullcontext()

    def _reboot(self, dice: random.Random, victim: str) -> Fault:
        self._try("reboot", unit=victim)
        return contextlib.nullcontext()

    def _power_cut(self, dice: random.Random, victim: str) -> Fault:
        self._juju.call("restart-all")
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def _pause(self, dice: random.Random, victim: str) -> Iterator[None]:
        self._try("pause", unit=victim)
        self._paused.add(victim)
        try:
            yield
        finally:
            self._try("resume", unit=victim)
            self._paused.discard(victim)

    @contextlib.contextmanager
    def _cut_off(self, dice: random.Random, victim: str) -> Iterator[None]:
        """A part without the others: one, or one with another. Clients outside still reach everybody."""
        others = [u for u in self.controllers() if u != victim]
        part = [victim, *dice.sample(others, dice.randint(0, max(0, len(others) - 1) // 2))]
        yield from self._apart({"units": part}, part)

    @contextlib.contextmanager
    def _one_way(self, dice: random.Random, victim: str) -> Iterator[None]:
        """What one sends to another is lost; what the other sends arrives."""
        deaf = dice.choice([u for u in self.controllers() if u != victim])
        yield from self._apart({"units": [deaf], "other": victim, "one_way": True}, [victim, deaf])

    def _apart(self, cut: dict[str, Any], touched: list[str]) -> Iterator[None]:
        self._try("cut", **cut)
        self._cut |= set(touched)
        try:
            yield
        finally:
            there = [u for u in touched if u in self._juju.units(APP)]
            if there:
                self._try("heal", units=there)
            self._cut -= set(touched)

    def _try(self, verb: str, **parameters: Any) -> None:
        """Do it if it can be done now: a unit may be on its way out, and a service may be starting."""
        with contextlib.suppress(ClientError):
            self._juju.call(verb, **parameters)

    # What an operator does

    def add(self, dice: random.Random, victim: str) -> None:
        """One more unit; its hooks may still run when this returns."""
        (new,) = self._juju.call("add-unit", app=APP)["units"]
        self._wait(lambda: self.status(new).get("state") == "serving")

    def remove(self, dice: random.Random, victim: str) -> None:
        """An orderly remove-unit. A leaver whose goodbye is refused stays until it can say it."""
        self._juju.call("remove-unit", units=[victim])
        self._wait(lambda: victim not in self._juju.units(APP))

    def resize(self, dice: random.Random, count: int) -> None:
        """Add or remove as many units at once as it takes; all of it is still under way when this returns."""
        units = self.controllers()
        if len(units) < count:
            self._juju.call("add-unit", app=APP, units=count - len(units))
        elif len(units) > count:
            self._juju.call("remove-unit", units=dice.sample(units, len(units) - count))

    def _wait(self, fact: Callable[[], bool]) -> None:
        until = time.monotonic() + _CHANGE_SECONDS
        while not fact() and time.monotonic() < until:
            time.sleep(0.2)
        with contextlib.suppress(ClientError):
            self.introduce()

    def _published(self, key: str) -> dict[str, str]:
        for unit in self.controllers():
            with contextlib.suppress(ClientError):
                for relation in self._juju.call("show-unit", unit=unit)[unit].get("relation-info", []):
                    if relation["endpoint"] == "db-cluster":
                        found: dict[str, str] = json.loads(relation.get("application-data", {}).get(key, "{}"))
                        return found
        return {}

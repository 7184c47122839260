"""A run of localjuju with the pulse charm, for one test; it ends with a check that nothing at all is left of it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localjuju.client import Client

CHARM = Path(__file__).parent / "charms" / "pulse"
APP = "controller"


@dataclass
class PulseRun:
    client: Client

    def deploy(self, units: int = 1, **options: Any) -> None:
        self.client.call("deploy", path=str(CHARM), name=APP, units=units, **options)
        self.settle()

    def add_unit(self, units: int = 1, **options: Any) -> None:
        self.client.call("add-unit", app=APP, units=units, **options)
        self.settle()

    def settle(self) -> None:
        self.client.wait_settled(60)

    def disk(self, number: int) -> Path:
        return self.client.home.machines / str(number)

    def hooks(self, number: int) -> list[dict[str, Any]]:
        """What the charm of this unit wrote down, hook by hook."""
        path = self.disk(number) / "var/lib/pulse/hooks"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def told(self, number: int, skip: int = 0) -> list[str]:
        """The hooks in short: the name, and the remote unit's number behind it."""
        short = []
        for line in self.hooks(number)[skip:]:
            name = line["hook"].removeprefix("db-cluster-relation-")
            short.append(f"{name} {line['remote'].partition('/')[2]}".strip())
        return short

    def bags(self, number: int) -> dict[str, Any]:
        unit = f"{APP}/{number}"
        relation = self.client.call("show-unit", unit=unit)[unit]["relation-info"][0]
        return {"app": relation["application-data"], "unit": relation["local-unit"]["data"]}

    def hold(self, number: int, hook: str) -> None:
        """The next hook of this name stops after its writes, before it ends."""
        folder = self.disk(number) / "var/lib/pulse"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "hold").write_text(hook)

    def wait_held(self, number: int) -> int:
        """Wait until a hook is held. Returns its pid inside the unit."""
        held = self.disk(number) / "var/lib/pulse/held"
        # It is there a moment before the number is in it.
        until(lambda: held.exists() and bool(held.read_text()), 20, f"a held hook on unit {number}")
        pid = int(held.read_text())
        held.unlink()
        return pid

    def let_go(self, number: int) -> None:
        (self.disk(number) / "var/lib/pulse/hold").unlink()

    def workload(self, number: int) -> tuple[str, str]:
        status = self.client.units(APP)[f"{APP}/{number}"]["workload-status"]
        return status["current"], status.get("message", "")

    def leader(self) -> str:
        return next((u for u, s in self.client.units(APP).items() if s.get("leader")), "")

    def exec(self, number: int, *argv: str) -> str:
        done = self.client.exec(f"{APP}/{number}", argv)
        assert done.returncode == 0, done
        return done.stdout


def until(fact: Callable[[], Any], timeout_seconds: float, what: str) -> None:
    """Wait for a fact, or fail with its name."""
    deadline = time.monotonic() + timeout_seconds
    while not fact():
        assert time.monotonic() < deadline, f"not within {timeout_seconds} s: {what}"
        select.select([], [], [], 0.02)


@contextlib.contextmanager
def pulse_run(folder: Path, **options: Any) -> Iterator[PulseRun]:
    """A run in a home of its own. Afterwards its namespaces, processes, mounts and files must all be gone."""
    client = Client(folder / "home")
    client.bootstrap(**{"update_status_interval": 3600.0, "lease_seconds": 1.0, **options})
    try:
        yield PulseRun(client)
    finally:
        spaces = namespaces_of(client)
        client.destroy()
        assert_nothing_left(client, spaces)


class Spaces:
    """All namespaces of a run, by which its processes are known. Valid for as long as this object lives.

    It holds each one open: the kernel gives the number of a freed namespace to the next one made, which may be that of
    another test's run. Mount namespaces are left out, since holding one would hold its mounts; no process of a run has
    only that one to itself.
    """

    _KINDS = ("net", "pid", "uts", "ipc")

    def __init__(self) -> None:
        self._pins: list[int] = []
        self._own = {self._name(Path("/proc/self"), kind) for kind in self._KINDS}
        self._names: set[str] = set()
        weakref.finalize(self, _close, self._pins)

    def add(self, process: Path) -> None:
        """Take in the namespaces of a process, unless they are ours as well or it has ended."""
        for kind in self._KINDS:
            with contextlib.suppress(OSError):
                pin = os.open(process / "ns" / kind, os.O_RDONLY | os.O_CLOEXEC)
                name = self._name(Path("/proc/self/fd"), str(pin), "")
                if name in self._names | self._own:
                    os.close(pin)
                else:
                    self._pins.append(pin)
                    self._names.add(name)

    def __len__(self) -> int:
        return len(self._names)

    def holders(self) -> list[int]:
        """Processes of this machine that live in one of them."""
        return [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and self._lives_here(p)]

    def _lives_here(self, process: Path) -> bool:
        for kind in self._KINDS:
            with contextlib.suppress(OSError):
                if self._name(process, kind) in self._names:
                    return True
        return False

    @staticmethod
    def _name(folder: Path, kind: str, between: str = "ns") -> str:
        return str((folder / between / kind).readlink())


def _close(pins: list[int]) -> None:
    for pin in pins:
        os.close(pin)


def namespaces_of(client: Client) -> Spaces:
    """All namespaces that belong to a run: its own, and its units'."""
    found = Spaces()
    run = client.home.read_run()
    # Units' processes are the descendants of the run's first process.
    todo = [run.init] if run is not None else []
    while todo:
        pid = todo.pop()
        found.add(Path(f"/proc/{pid}"))
        with contextlib.suppress(OSError):
            todo += [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return found


def assert_nothing_left(client: Client, spaces: Spaces) -> None:
    # What was killed needs a moment to go.
    until(lambda: not spaces.holders(), 10, "all processes of the run to end")
    assert str(client.home.path) not in Path("/proc/self/mountinfo").read_text()
    assert not client.home.path.exists(), sorted(client.home.path.rglob("*"))[:10]

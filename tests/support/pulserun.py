"""A run of localjuju with the pulse charm, for one test; it ends with a check that nothing at all is left of it."""

from __future__ import annotations

import contextlib
import json
import select
import time
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
        until(held.exists, 20, f"a held hook on unit {number}")
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


def namespaces_of(client: Client) -> set[str]:
    """All namespaces that belong to a run: its own, and its units'."""
    run = client.home.read_run()
    if run is None:
        return set()
    own = _spaces(Path(f"/proc/{run.init}"))
    found = set(own)
    # Units' processes are the descendants of the run's first process.
    todo = [run.init]
    while todo:
        pid = todo.pop()
        found |= _spaces(Path(f"/proc/{pid}"))
        with contextlib.suppress(OSError):
            todo += [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return found - _spaces(Path("/proc/self"))


def _spaces(process: Path) -> set[str]:
    found = set()
    for kind in ("net", "mnt", "pid", "uts", "ipc"):
        with contextlib.suppress(OSError):
            found.add(str((process / "ns" / kind).readlink()))
    return found


def holders(spaces: set[str]) -> list[int]:
    """Processes of this machine that live in one of these namespaces."""
    return [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and _spaces(p) & spaces]


def assert_nothing_left(client: Client, spaces: set[str]) -> None:
    # What was killed needs a moment to go, and the number of a freed namespace may be given to somebody else's.
    deadline = time.monotonic() + 10
    while holders(spaces) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert holders(spaces) == []
    assert str(client.home.path) not in Path("/proc/self/mountinfo").read_text()
    assert not client.home.path.exists(), sorted(client.home.path.rglob("*"))[:10]

"""The stage of runs that make machines: units of the real charm, and localjuju's cloud beside them."""

from __future__ import annotations

import contextlib
import functools
import json
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from localjuju import cloudlog
from localjuju.client import Client, ClientError

from dbaccessor import confsocket
from faultrun.onlocaljuju import Fault, JujuStage

MakeFault = Callable[[random.Random, str], Fault]

_ASK_SECONDS = 8.0
_LEASE_SECONDS = 6.0


class MachineStage(JujuStage):
    """Controllers are killed, paused, and cut off from each other or from the cloud; none comes or goes."""

    def ask(self, unit: str, target: str, document: Any) -> Any:
        """Return what the unit's controllerd answers, None when it does not or says no."""
        run = self._juju.home.read_run()
        assert run is not None, "the run of localjuju has ended"
        try:
            pid = self._juju.call("enter", unit=unit)["pid"]
            path = Path(f"/proc/{run.init}/root/proc/{pid}/root/var/lib/ha-controller") / confsocket.CONTROL
            status, body = confsocket.request(path, "POST", target, json.dumps(document).encode(), _ASK_SECONDS)
        except (ClientError, OSError, confsocket.NoSocket, confsocket.SocketTimeout):
            return None
        return json.loads(body) if status == 200 else None

    def log(self) -> list[dict[str, Any]]:
        return list(cloudlog.read(self._juju.home.cloud_log))

    def machines(self) -> list[dict[str, Any]]:
        """Return the rows, as whoever answers shows them; [] when nobody does."""
        for unit in self.controllers():
            if (answer := self.ask(unit, "/machines", {})) is not None:
                return list(answer["machines"])
        return []

    def leader(self) -> str | None:
        """Return whose provisioner spoke to the cloud last: the one whose loss is felt most here."""
        spoke = [e["by"] for e in self.log() if e["event"].startswith("asked")]
        return self._published("units").get(spoke[-1].split()[1].rstrip(",")) if spoke else super().leader()

    @contextlib.contextmanager
    def _lasting(self, fault: MakeFault, dice: random.Random, victim: str) -> Iterator[None]:
        """Every other fault outlasts a lease, so that somebody else is responsible before it is over."""
        with fault(dice, victim):
            yield
            time.sleep(dice.choice((0.0, _LEASE_SECONDS)))

    def faults(self) -> dict[str, Callable[[random.Random, str], Fault]]:
        offered = super().faults()
        return {
            "kill": offered["kill"],
            **{
                name: functools.partial(self._lasting, offered[name])
                for name in ("pause", "cut", "one-way cut")
                if name in offered
            },
            "cut from the cloud": self._from_the_cloud,
        }

    def changes(self) -> dict[str, Callable[[random.Random, str], None]]:
        return {}

    @contextlib.contextmanager
    def _from_the_cloud(self, dice: random.Random, victim: str) -> Iterator[None]:
        yield from self._apart({"units": [victim], "other": "outside"}, [victim])


class Operator:
    """Adds machines and removes some of them, at whichever controller, asking again until there is no doubt left."""

    def __init__(self, stage: MachineStage, seed: int, count: int, remove: int) -> None:
        self._stage = stage
        self._dice = random.Random(f"{seed} operator")
        self._count = count
        self._remove = remove
        self.added: list[str] = []
        self._thread = threading.Thread(target=self._work, name="operator")
        self._failure: BaseException | None = None

    def __enter__(self) -> Operator:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()

    def finish(self, timeout_seconds: float) -> None:
        """Return when everything was acknowledged. Fails when it is not in time."""
        self._thread.join(timeout_seconds)
        assert not self._thread.is_alive(), f"{len(self.added)} of {self._count} machines are added"
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        try:
            self._add()
            self._take_away()
        except BaseException as error:
            self._failure = error

    def _add(self) -> None:
        while len(self.added) < self._count:
            some = [str(uuid.uuid4()) for _ in range(min(self._dice.randint(1, 6), self._count - len(self.added)))]
            self._until_done("/machines/add", {"uuids": some})
            self.added += some
            time.sleep(self._dice.uniform(0.0, 1.5))

    def _take_away(self) -> None:
        for number in self._dice.sample(range(self._count), self._remove):
            self._until_done("/machines/remove", {"numbers": [number]})

    def _until_done(self, target: str, document: Any) -> None:
        deadline = time.monotonic() + 120
        while self._stage.ask(self._dice.choice(self._units()), target, document) is None:
            assert time.monotonic() < deadline, f"nobody does {target} {document}"
            time.sleep(0.1)

    def _units(self) -> Sequence[str]:
        return self._stage.controllers()


def until_settled(stage: MachineStage, count: int, timeout_seconds: float) -> list[dict[str, Any]]:
    """Return the rows once each machine has started or stopped. Whatever is there at the deadline is returned too."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        rows = stage.machines()
        settled = len(rows) == count and all(row["state"] in ("started", "stopped") for row in rows)
        if settled or time.monotonic() > deadline:
            return rows
        time.sleep(0.3)


def set_provider(juju: Client, stage: MachineStage, timeout_seconds: float = 60) -> None:
    """Tell the controllers where the cloud is."""
    setting = {"key": "local-provider", "value": juju.call("cloud")["endpoint"]}
    deadline = time.monotonic() + timeout_seconds
    while all(stage.ask(unit, "/controller-config", setting) is None for unit in stage.controllers()):
        assert time.monotonic() < deadline, "nobody takes the provider's address"
        time.sleep(0.2)

"""What the story stands on: one run of localjuju, the outsider in it, and waits that end with a fact or a reason."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Self

import msgspec
from localjuju.client import Client, ClientError

from controller import statusview
from dbaccessor import confsocket
from dbaccessor.dqlite import nodedir
from demo import history
from demo.telling import Teller
from demo.visitors import Visitors

ROOT = Path(__file__).parents[1]
APP = "controller"

_SERVICE = "ha-controller.service"

_POLL_SECONDS = 0.2
_VERB_SECONDS = 60.0


class Failed(Exception):
    """Something the story needs did not happen. The text says what, and what was there instead."""


# A fact that is looked at again and again: (is it so?, what is there instead).
Fact = Callable[[], tuple[bool, str]]


class Stage:
    """A context manager: leaving it, or the death of this process, leaves nothing behind.

    The outsider's events go to a file without a name, which ends with the last process that has it open.
    """

    def __init__(self, teller: Teller) -> None:
        self._teller = teller
        # Only named here: bootstrap makes it, and whoever ends the run removes it.
        self._home = Path(tempfile.gettempdir()) / f"ha-controller-demo-{secrets.token_hex(4)}"
        self._client = Client(self._home)
        self._outsider: subprocess.Popen[bytes] | None = None
        self.visitors = Visitors(self._home / "visitors", self._client.inside)
        self._events_file: IO[bytes] | None = None
        self._events: dict[str, list[dict[str, Any]]] = {}
        self._events_read = 0
        self._known_addresses: dict[str, str] = {}

    def __enter__(self) -> Self:
        try:
            # Bound to this process: should it be killed, the run and its files go with it.
            self.juju("bootstrap", "--die-with", str(os.getpid()))
            self._start_outsider()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        # A second Ctrl-C must not interrupt the cleaning up that the first one began.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        self.visitors.end()
        if self._outsider is not None:
            self._outsider.kill()
            self._outsider.wait()
        with contextlib.suppress(ClientError):
            self._client.destroy()
        if self._events_file is not None:
            self._events_file.close()
        shutil.rmtree(self._home, ignore_errors=True)

    # Juju's words

    def juju(self, *words: str) -> str:
        """Type one verb as a person would and return what it printed. Raises Failed."""
        self._teller.typed(f"scripts/localjuju {' '.join(words)}")
        # What that script does, without looking at the machine's packages again.
        return self._run([sys.executable, "-m", "localjuju.cli", "--home", str(self._home), *words], words[0])

    def _run(self, line: list[str], what: str) -> str:
        try:
            done = subprocess.run(
                line,
                capture_output=True,
                text=True,
                timeout=_VERB_SECONDS,
                check=False,
                cwd=ROOT,
                start_new_session=True,  # Ctrl-C is for the demo alone, which then undoes what it did.
            )
        except subprocess.TimeoutExpired as error:
            raise Failed(f"{what} did not end within {_VERB_SECONDS:g} s") from error
        if done.returncode:
            raise Failed(f"{what} failed: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def _ask(self, verb: str, **parameters: Any) -> Any:
        try:
            return self._client.call(verb, **parameters)
        except ClientError as error:
            raise Failed(f"localjuju {verb}: {error}") from error

    def units(self) -> dict[str, dict[str, Any]]:
        """Return the application's units as `juju status --format json` shows them."""
        status = self._ask("status")
        units = status["applications"].get(APP, {}).get("units") or {}
        addresses = {name: unit.get("public-address", "") for name, unit in units.items()}
        if addresses != self._known_addresses:
            self._introduce(addresses)
        return dict(units)

    def hactl(self, unit: str) -> statusview.Status | None:
        """Return what `hactl status` shows on `unit`, or None while nobody answers there."""
        try:
            _, body = confsocket.request(self._state_dir(unit) / confsocket.CONTROL, "GET", "/status")
            return statusview.parse(body)
        except (confsocket.NoSocket, confsocket.SocketTimeout, statusview.BadStatus):
            return None

    def cloud(self) -> str:
        """Return the endpoint of the cloud beside the model, as units reach it."""
        return str(self._ask("cloud")["endpoint"])

    def cloud_log(self) -> list[dict[str, Any]]:
        """Return what the cloud did so far."""
        return list(self._ask("cloud-log"))

    def machines(self, unit: str) -> list[dict[str, Any]]:
        """Return the machines as the unit's controllerd shows them; [] while it cannot."""
        path = self._state_dir(unit) / confsocket.CONTROL
        try:
            status, body = confsocket.request(path, "POST", "/machines", b"{}", 20.0)
        except (confsocket.NoSocket, confsocket.SocketTimeout):
            return []
        return list(json.loads(body)["machines"]) if status == 200 else []

    def add_agent(self, unit: str) -> int:
        """Add a machine that is brought by hand, and start its agent beside the units. Return its number."""
        added = json.loads(self._on(unit, "hactl", "add-machine", "--manual", "--format", "json"))
        number = int(added["machines"][0]["number"])
        self.visitors.add_agent(self._on(unit, "hactl", "enrol-machine", str(number)))
        return number

    def register_client(self, unit: str) -> None:
        """Let the client beside the units register. Raises Failed."""
        problem = self.visitors.register(self._on(unit, "hactl", "registration"), secrets.token_urlsafe(12))
        if problem:
            raise Failed(f"the client is not registered: {problem}")

    def service_started(self, unit: str) -> float:
        """Return when the process of the unit's service was started, on CLOCK_MONOTONIC."""
        asked = self._on(unit, "systemctl", "show", "-p", "MainPID", "--value", _SERVICE)
        stat = self._on(unit, "cat", f"/proc/{asked.strip()}/stat")
        ticks = int(stat.rpartition(")")[2].split()[19])
        asleep = time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
        return ticks / os.sysconf("SC_CLK_TCK") - asleep

    def last_index(self, unit: str) -> int:
        """Return how far the raft log on the unit's disk reaches."""
        return nodedir.last_index_on_disk(self._state_dir(unit) / "dqlite")

    def _state_dir(self, unit: str) -> Path:
        """Return the unit's state folder as this process can reach it.

        A process started on the unit for each look would cost more than what is looked at.
        """
        run = self._client.home.read_run()
        if run is None:
            raise Failed("the run of localjuju has ended")
        pid = self._ask("enter", unit=unit)["pid"]
        return Path(f"/proc/{run.init}/root/proc/{pid}/root/var/lib/ha-controller")

    def _on(self, unit: str, *words: str) -> str:
        try:
            return self._run(self._client.on_unit(unit, words), f"{words[0]} on {unit}")
        except ClientError as error:
            raise Failed(f"{words[0]} on {unit}: {error}") from error

    # The outsider

    def _start_outsider(self) -> None:
        self._events_file = tempfile.TemporaryFile()  # noqa: SIM115 (closed by __exit__)
        self._outsider = subprocess.Popen(
            self._client.inside(["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "demo.outsider"]),
            stdin=subprocess.PIPE,
            stdout=self._events_file,
            cwd=ROOT,
            start_new_session=True,
        )

    def outsider(self, do: str, **facts: Any) -> None:
        """Give the outsider one command. Raises Failed if it is gone."""
        assert self._outsider is not None
        assert self._outsider.stdin is not None
        try:
            self._outsider.stdin.write(msgspec.json.encode({"do": do, **facts}) + b"\n")
            self._outsider.stdin.flush()
        except OSError as error:
            raise Failed(f"the writer is gone (exit code {self._outsider.poll()})") from error

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return what the outsider told so far, of one kind."""
        assert self._events_file is not None
        fd = self._events_file.fileno()
        new = os.pread(fd, os.fstat(fd).st_size - self._events_read, self._events_read)
        self._events_read += new.rfind(b"\n") + 1
        for event in history.parse(new):
            self._events.setdefault(event["event"], []).append(event)
        return self._events.get(kind, [])

    def attempts(self) -> list[history.Attempt]:
        return history.attempts(self.events("write"))

    def history(self) -> bytes:
        """Return all that the outsider told, as it told it."""
        assert self._events_file is not None
        fd = self._events_file.fileno()
        return os.pread(fd, os.fstat(fd).st_size, 0)

    def leader(self) -> str | None:
        """Return the controller id of the leader as the outsider last saw it."""
        seen = self.events("members")
        return seen[-1]["leader"] if seen else None

    def roles(self) -> dict[str, str]:
        """Return controller id -> role as the outsider last saw them."""
        seen = self.events("members")
        return dict(seen[-1]["roles"]) if seen else {}

    def _introduce(self, addresses: dict[str, str]) -> None:
        """Tell the outsider where controllers are, as the charm's leader published it."""
        try:
            book = self._published(next(iter(addresses), ""), "db-bind-addresses")
        except Failed:
            return  # The unit that was asked has just gone; the next look asks another.
        self.outsider("addresses", map=book, certificates=self._certificates(addresses))
        # Known only when all are in it: one that has not published yet will be soon.
        if len(book) == len(addresses):
            self._known_addresses = addresses

    def _certificates(self, units: Iterable[str]) -> str:
        """Return the folder of a unit's certificates, as the outsider can reach it; "" while no unit is up."""
        for unit in units:
            with contextlib.suppress(Failed):
                return f"/proc/{self._ask('enter', unit=unit)['pid']}/root/var/lib/ha-controller/tls"
        return ""

    def unit_of(self, controller_id: str) -> str:
        """Return the name of the unit that is this controller; ids and unit numbers need not be the same."""
        units = self._published(next(iter(self.units()), ""), "units")
        if controller_id not in units:
            raise Failed(f"the charm names no unit for controller {controller_id}")
        return units[controller_id]

    def _published(self, unit: str, key: str) -> dict[str, str]:
        """Return a map that the charm's leader keeps in the application's databag, as `unit` reads it."""
        if not unit:
            return {}
        shown = self._ask("show-unit", unit=unit)
        for relation in shown[unit].get("relation-info", []):
            if relation["endpoint"] == "db-cluster":
                return dict(json.loads(relation.get("application-data", {}).get(key, "{}")))
        return {}

    # Waiting

    def until(self, what: str, fact: Fact, timeout_seconds: float) -> None:
        """Wait until `fact` holds. Raises Failed with what was there instead."""
        deadline = time.monotonic() + timeout_seconds
        with self._teller.waiting(what) as progress:
            while True:
                holds, instead = fact()
                if holds:
                    return
                if self._outsider is not None and self._outsider.poll() is not None:
                    raise Failed(f"the writer ended with exit code {self._outsider.returncode}")
                if time.monotonic() > deadline:
                    raise Failed(f"{what}: not within {timeout_seconds:g} s; {instead}")
                progress.now(instead)
                time.sleep(_POLL_SECONDS)

    def evidence(self) -> Iterator[str]:
        """Yield what a person would look at first when something did not happen. Never raises."""
        with contextlib.suppress(Failed, ValueError, KeyError):
            for name, unit in self.units().items():
                workload = unit["workload-status"]
                yield f"{name}: {workload['current']}: {workload.get('message', '')}"
                yield from self._on(name, "sh", "-c", "hactl status 2>&1 || true").splitlines()
                yield from self._on(name, "journalctl", "-u", _SERVICE, "-n", "10").splitlines()
        with contextlib.suppress(Failed):
            yield from self.juju("debug-log", "--limit", "40").splitlines()
        yield from (f"refused: {a.reason}" for a in self.attempts()[-3:] if a.reason)

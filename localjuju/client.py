"""Talk to a run from Python: start it, call verbs, wait for facts, run things on units. The CLI and tests use this."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from localjuju import home as homes
from localjuju import host

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ClientError(Exception):
    """The request was refused, or there is nobody to ask; the text says why."""


class NotRunning(ClientError):
    """No run lives in this home."""


class WaitTimeout(ClientError):
    """What was waited for did not happen in time; the text says how things stood."""


class Client:
    """One home. Every call has a deadline."""

    def __init__(self, home: Path | str | None = None) -> None:
        self.home = homes.Home(Path(home).absolute() if home else homes.default_path())

    def bootstrap(
        self,
        *,
        die_with: int = 0,
        update_status_interval: float = 60.0,
        lease_seconds: float = 3.0,
        keep_logs: Path | None = None,
        timeout_seconds: float = 20.0,
    ) -> None:
        """Start a run in this home and return when it answers. Raises ClientError with the reason if it does not."""
        if os.geteuid() != 0:
            raise ClientError("localjuju makes namespaces and needs root: run it with sudo")
        if self.home.is_locked():
            raise ClientError(f"a run already lives in {self.home.path}; `localjuju destroy` ends it")
        self.home.remove()  # What a killed watcher left.
        try:
            self.home.prepare()
        except homes.BadHome as error:
            raise ClientError(str(error)) from None
        argv = [sys.executable, "-m", "localjuju.watcher", "--home", str(self.home.path)]
        if die_with:
            argv += ["--die-with", str(die_with)]
        if keep_logs:
            argv += ["--keep-logs", str(Path(keep_logs).absolute())]
        argv += ["--", "--update-status-interval", str(update_status_interval), "--lease-seconds", str(lease_seconds)]
        environment = {
            "PATH": f"{_PATH}:{os.environ.get('PATH', '')}",
            "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
            "LANG": "C.UTF-8",
        }
        with self.home.log.open("ab") as log:
            watcher = subprocess.Popen(
                argv, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
            )
        deadline = time.monotonic() + timeout_seconds
        while True:
            with contextlib.suppress(ClientError):
                self.call("ping", deadline_seconds=2)
                watcher.returncode = 0  # It lives on without us; Popen must not warn about it.
                return
            if watcher.poll() is not None or time.monotonic() > deadline:
                said = self.home.log.read_text(errors="replace")[-2000:] if self.home.log.exists() else ""
                with contextlib.suppress(ProcessLookupError):
                    watcher.terminate()
                raise ClientError(f"the run did not come up: {said.strip() or 'it said nothing'}")
            select.select([], [], [], 0.02)

    def destroy(self, timeout_seconds: float = 15.0) -> bool:
        """End the run and remove every trace of it. False if there was none."""
        was_there = self.home.is_locked() or self.home.path.joinpath(".localjuju").exists()
        with contextlib.suppress(ClientError):
            self.call("destroy", deadline_seconds=3)
        deadline = time.monotonic() + timeout_seconds
        killed = False
        while self.home.is_locked():
            run = self.home.read_run()
            late = time.monotonic() > deadline - timeout_seconds + 3
            if run and late and not killed:  # The daemon does not obey: its first process takes all with it.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(run.init, signal.SIGKILL)
                killed = True
            if time.monotonic() > deadline:
                raise ClientError(f"the run in {self.home.path} did not end in {timeout_seconds:.0f} s")
            select.select([], [], [], 0.02)
        self.home.remove()
        return was_there

    def call(self, verb: str, *, deadline_seconds: float = 30.0, **params: Any) -> Any:
        """The verb's result. Raises ClientError with the daemon's reason, NotRunning if there is no daemon."""
        try:
            with homes.connect(self.home.path / "api.socket", deadline_seconds) as connection:
                connection.sendall(json.dumps({"verb": verb, "params": params}).encode() + b"\n")
                answer = connection.makefile("rb").readline()
        except TimeoutError:
            raise ClientError(f"{verb}: no answer in {deadline_seconds:.0f} s") from None
        except OSError as error:
            raise NotRunning(
                f"no run in {self.home.path} ({error.strerror}); `localjuju bootstrap` starts one"
            ) from None
        if not answer:
            raise NotRunning(f"{verb}: the run ended before it answered")
        decoded = json.loads(answer)
        if not decoded["ok"]:
            raise ClientError(decoded["error"])
        return decoded["result"]

    def status(self) -> dict[str, Any]:
        """As `juju status --format json`."""
        shape: dict[str, Any] = self.call("status")
        return shape

    def units(self, app: str) -> dict[str, Any]:
        """The units' part of status."""
        units: dict[str, Any] = self.status()["applications"].get(app, {}).get("units", {})
        return units

    def wait(self, predicate: Callable[[dict[str, Any]], bool], timeout_seconds: float, what: str) -> dict[str, Any]:
        """Return the first status that satisfies the predicate. Raises WaitTimeout saying what was waited for."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            status = self.status()
            if predicate(status):
                return status
            if time.monotonic() > deadline:
                from localjuju import view

                raise WaitTimeout(f"not within {timeout_seconds:.0f} s: {what}\n{view.text(status)}")
            select.select([], [], [], 0.1)

    def wait_settled(self, timeout_seconds: float = 60.0) -> None:
        """Return when no unit has a hook to run."""
        deadline = time.monotonic() + timeout_seconds
        while doing := self.call("busy"):
            if time.monotonic() > deadline:
                raise WaitTimeout(f"not settled within {timeout_seconds:.0f} s: {doing}")
            select.select([], [], [], 0.05)

    def inside(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs *argv* in the run's own namespaces, from where every unit can be reached."""
        run = self.home.read_run()
        if run is None:
            raise NotRunning(f"no run in {self.home.path}; `localjuju bootstrap` starts one")
        return [*host.enter_pid(run.init), *argv]

    def on_unit(self, unit: str, argv: Sequence[str], folder: str = "/root") -> list[str]:
        """The command line that runs *argv* on a unit's host."""
        pid = self.call("enter", unit=unit)["pid"]
        return self.inside([*host.enter_pid(pid), "env", "-C", folder, *argv])

    def on_instance(self, instance: str, argv: Sequence[str], folder: str = "/root") -> list[str]:
        """The command line that runs *argv* on the host of an instance of the cloud."""
        pid = self.call("enter-instance", instance=instance)["pid"]
        return self.inside([*host.enter_pid(pid), "env", "-C", folder, *argv])

    def exec(self, unit: str, argv: Sequence[str], timeout_seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command on a unit's host and collect what it prints. Raises subprocess.TimeoutExpired."""
        line = self.on_unit(unit, argv)
        return subprocess.run(line, capture_output=True, text=True, timeout=timeout_seconds, check=False)

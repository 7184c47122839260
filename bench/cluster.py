"""Three members of a bench on loopback, each a process of its own that can be killed and frozen."""

from __future__ import annotations

import datetime
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

import signing
from dbaccessor import tlsfiles

ROOT = Path(__file__).parents[1]
_COUNT = 3


class BenchError(RuntimeError):
    """The bench cannot go on; the message says why."""


class Cluster:
    """A context manager that ends what it started. Members are numbered from 0.

    `tls`: each gets a certificate of an authority of the bench's own, and nothing goes in clear.
    """

    def __init__(self, folder: Path, *, tls: bool = False) -> None:
        self._folder = folder / ("tls" if tls else "clear")
        self._folder.mkdir()
        self._now = datetime.datetime.now(datetime.UTC)
        self._authority = signing.found(self._now) if tls else None
        self._processes: dict[int, subprocess.Popen[str]] = {}

    def __enter__(self) -> Cluster:
        for n in range(_COUNT):
            self._configure(n, generation=1, bootstrapped=False)
            self._certify(n)
            self.start(n, wait=False)
        for n in range(_COUNT):
            self._answer(n)
            self._configure(n, generation=2, bootstrapped=True)
        self.ask(0, do="prepare")
        deadline = time.monotonic() + 30
        while list(self.ask(0, do="status")["roles"].values()) != ["voter"] * _COUNT:
            if time.monotonic() > deadline:
                raise BenchError("the three members did not become voters")
            time.sleep(0.2)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.communicate()

    def _configure(self, n: int, *, generation: int, bootstrapped: bool) -> None:
        state_dir = self._folder / str(n)
        state_dir.mkdir(mode=0o700, exist_ok=True)
        conf = {
            "schema": 1,
            "controller-id": str(n),
            "cluster-uuid": "bench",
            "bootstrap-controller": "0",
            "bootstrapped": bootstrapped,
            "generation": generation,
            "db-bind-addresses": {str(i): self._address(i) for i in range(_COUNT)},
            "tls": "off" if self._authority is None else "required",
        }
        new = state_dir / ".new"
        new.write_text(yaml.safe_dump(conf))
        new.replace(state_dir / "controller.conf")

    def _address(self, n: int) -> str:
        block = 84 if self._authority is None else 86
        return f"127.{block}.{os.getpid() % 250}.{10 + n}"

    def _certify(self, n: int) -> None:
        if self._authority is None:
            return
        key = signing.new_key()
        leaf = signing.sign(self._authority, signing.request(key), str(n), self._now)
        folder = self._folder / str(n) / tlsfiles.DIRECTORY
        folder.mkdir(mode=0o700)
        for name, text in (
            (tlsfiles.CA, self._authority.certificate),
            (tlsfiles.CERTIFICATE, leaf),
            (tlsfiles.KEY, key),
            (tlsfiles.RETIRED, ""),
        ):
            (folder / name).touch(mode=0o600)
            (folder / name).write_text(text)

    def start(self, n: int, *, wait: bool = True) -> None:
        with (self._folder / f"{n}.log").open("ab") as log:
            self._processes[n] = subprocess.Popen(
                [sys.executable, "-m", "bench.member", str(self._folder / str(n))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'lib'}"},
            )
        if wait:
            self._answer(n)

    def ask(self, n: int, **command: Any) -> dict[str, Any]:
        return self.ask_all({n: command})[n]

    def ask_all(self, commands: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
        """Send each member its command, all before any answer is read."""
        self.tell(commands)
        return {n: self._answer(n) for n in commands}

    def tell(self, commands: dict[int, dict[str, Any]]) -> None:
        for n, command in commands.items():
            stdin = self._processes[n].stdin
            assert stdin is not None
            stdin.write(json.dumps(command) + "\n")
            stdin.flush()

    def answer(self, n: int) -> dict[str, Any]:
        return self._answer(n)

    def leader(self, asked: int = 0) -> int:
        """Return who leads, as that member sees it."""
        deadline = time.monotonic() + 30
        while (found := self.ask(asked, do="status")["leader"]) is None:
            if time.monotonic() > deadline:
                raise BenchError("nobody leads")
            time.sleep(0.05)
        return int(found)

    def stop(self, n: int) -> None:
        """Let it end in order, as a service that is told to stop does."""
        process = self._processes[n]
        process.communicate(timeout=60)
        if process.returncode:
            raise BenchError(f"member {n} did not stop in order: {(self._folder / f'{n}.log').read_text()[-2000:]}")

    def kill(self, n: int) -> None:
        self._processes[n].kill()
        self._processes[n].communicate()

    def signal(self, n: int, number: signal.Signals) -> None:
        self._processes[n].send_signal(number)

    def _answer(self, n: int) -> dict[str, Any]:
        stdout = self._processes[n].stdout
        assert stdout is not None
        line = stdout.readline()
        if not line:
            raise BenchError(f"member {n} ended: {(self._folder / f'{n}.log').read_text()[-2000:]}")
        said: dict[str, Any] = json.loads(line)
        if "error" in said:
            raise BenchError(f"member {n}: {said['error']}")
        return said

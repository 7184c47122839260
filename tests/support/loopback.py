"""Several real controllerd processes on loopback addresses, without a charm: the test writes their configuration."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import freezing
from dbaccessor import confsocket, tlsfiles
from dbaccessor.leader import OutsideConnector
from dbaccessor.tls import Keyring

if TYPE_CHECKING:
    from testauthority import TestAuthority

LIB = Path(__file__).parents[2] / "lib"
CRASHING = Path(__file__).parent / "crashing_controllerd.py"


class Cluster:
    """Controllers by number: n has 127.<block>.<by process>.<10+n>. A context manager that ends what it started.

    `tls`: each gets a certificate of the test's own authority, and nothing goes in clear.
    """

    def __init__(self, root: Path, block: int = 77, *, tls: bool = False) -> None:
        self.root = root
        self.authority: TestAuthority | None = None
        if tls:
            # Here, because it needs the charm's modules, which not every program that uses this has at hand.
            from testauthority import TestAuthority

            self.authority = TestAuthority()
        self._block = block
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._hosts: dict[int, int] = {}
        self.generation = 0
        # What every configuration says besides.
        self.settings: dict[str, Any] = {}
        # What is started, and where its modules are found.
        self.program = ["-m", "controller.daemon"]
        self.paths = [LIB]
        # The command that the program is run by, as `nice -n 5`.
        self.before: list[str] = []

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait()

    def address(self, n: int) -> str:
        # Two runs of the suite on one machine must not meet.
        return f"127.{self._block}.{os.getpid() % 250}.{self._hosts.get(n, 10 + n)}"

    def move(self, *numbers: int) -> None:
        """Give these controllers other addresses, from the next configuration on."""
        for n in numbers:
            self._hosts[n] = max(99, *self._hosts.values(), 99) + 1

    def swap(self, one: int, other: int) -> None:
        """Give each of two controllers the other's address, from the next configuration on."""
        self._hosts[one], self._hosts[other] = self._hosts.get(other, 10 + other), self._hosts.get(one, 10 + one)

    def state_dir(self, n: int) -> Path:
        return self.root / str(n)

    def configure(self, named: Iterable[int], told: Iterable[int] | None = None, **changes: Any) -> None:
        """Publish the next generation, which names `named`, to the controllers `told` (default: those named)."""
        named = list(named)
        self.generation += 1
        for n in named if told is None else told:
            document = {
                "schema": 1,
                "controller-id": str(n),
                "cluster-uuid": "loopback",
                "bootstrap-controller": "0",
                "bootstrapped": self.generation > 1,
                "generation": self.generation,
                "db-bind-addresses": {str(i): self.address(i) for i in named},
                "tls": "off" if self.authority is None else "required",
                **self.settings,
                **changes,
            }
            self.state_dir(n).mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.authority is not None and not (self.state_dir(n) / tlsfiles.DIRECTORY).exists():
                self.certify(n)
            self.write_conf(n, yaml.safe_dump(document))

    def certify(self, n: int) -> None:
        """Give a controller a new key and a certificate of the authority as it is now."""
        assert self.authority is not None
        self.authority.write(self.state_dir(n) / tlsfiles.DIRECTORY, str(n))

    def connector(self, *numbers: int) -> OutsideConnector:
        """What a program beside these controllers connects with; under TLS it shows the certificate of the first."""
        shown = self.state_dir(numbers[0]) / tlsfiles.DIRECTORY
        keyring = None if self.authority is None else Keyring(shown)
        return OutsideConnector(lambda: {str(n): self.address(n) for n in numbers}, keyring=keyring)

    def write_conf(self, n: int, text: str) -> None:
        temporary = self.state_dir(n) / ".controller.conf.new"
        temporary.write_text(text)
        temporary.rename(self.state_dir(n) / "controller.conf")
        confsocket.reload(self.state_dir(n))

    def start(self, *numbers: int, crash: tuple[str, int] | None = None) -> None:
        """Start controllers. `crash`: SIGKILL itself at that durable step after that file (crashing_controllerd)."""
        program = [str(CRASHING), crash[0], str(crash[1])] if crash is not None else self.program
        for n in numbers:
            self.state_dir(n).mkdir(mode=0o700, parents=True, exist_ok=True)
            with (self.root / f"{n}.log").open("ab") as log:
                self._processes[n] = subprocess.Popen(
                    [*_dies_with_us(), *self.enter(n), sys.executable, *program, "--state-dir", str(self.state_dir(n))],
                    stderr=log,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, self.paths))},
                )

    def enter(self, n: int) -> list[str]:
        """What a controller's command begins with; more where controllers have hosts of their own."""
        return self.before

    def kill(self, *numbers: int) -> None:
        """SIGKILL, all of them before any is waited for."""
        for n in numbers:
            self._processes[n].kill()
        for n in numbers:
            self._processes[n].wait()

    def signal(self, n: int, number: int) -> None:
        self._processes[n].send_signal(number)

    def freeze(self, n: int) -> None:
        """SIGSTOP, and wait until every thread has stopped."""
        freezing.freeze(self._processes[n])

    def terminate(self, n: int) -> int:
        """SIGTERM; return the exit status."""
        self._processes[n].terminate()
        return self._processes[n].wait(timeout=40)

    def pid(self, n: int) -> int:
        return self._processes[n].pid

    def alive(self, n: int) -> bool:
        return self._processes[n].poll() is None

    def status(self, n: int) -> dict[str, Any]:
        """The status document; {} when there is no daemon."""
        try:
            _, body = confsocket.request(self.state_dir(n) / confsocket.CONTROL, "GET", "/status")
        except (confsocket.NoSocket, confsocket.SocketTimeout):
            return {}
        document: dict[str, Any] = json.loads(body)
        return document

    def state(self, n: int) -> str:
        return str(self.status(n).get("state", ""))

    def roles(self, n: int) -> dict[int, str]:
        section = self.status(n).get("cluster") or {"members": []}
        return {int(m["controller-id"]): m["role"] for m in section["members"]}

    def role_counts(self, n: int) -> tuple[int, int, int]:
        found = list(self.roles(n).values())
        return found.count("voter"), found.count("stand-by"), found.count("spare")

    def leader(self, n: int) -> int | None:
        section = self.status(n).get("cluster") or {}
        return None if section.get("leader") is None else int(section["leader"])

    def epoch(self, n: int) -> int:
        section = self.status(n).get("cluster") or {"epoch": {"number": 0}}
        return int(section["epoch"]["number"])

    def request(
        self, n: int, method: str, target: str, timeout_seconds: float = 5, document: Any = None
    ) -> tuple[int, Any]:
        content = b"" if document is None else json.dumps(document).encode()
        status, body = confsocket.request(
            self.state_dir(n) / confsocket.CONTROL, method, target, content, timeout_seconds=timeout_seconds
        )
        return status, json.loads(body)

    def wait(self, fact: Callable[[], object], what: str, timeout_seconds: float = 20) -> float:
        """Poll until the fact is true; return the seconds it took. Fails with everybody's status."""
        started = time.monotonic()
        while time.monotonic() - started < timeout_seconds:
            if fact():
                return time.monotonic() - started
            time.sleep(0.05)
        told = "\n".join(f"{n}: {json.dumps(self.status(n))}\n{self._log_tail(n)}" for n in self._processes)
        raise AssertionError(f"not within {timeout_seconds} s: {what}\n{told}")

    def serving(self, *numbers: int) -> bool:
        return all(self.state(n) == "serving" for n in numbers)

    def settled(self, count: int) -> None:
        """Wait until all of so many have been serving, with as many voters as there may be, for a while.

        A leader that was deposed may start anew just after that, and have no vote for a moment.
        """
        numbers, since = range(count), 0.0

        def settled() -> bool:
            nonlocal since
            now = time.monotonic()
            if not self.serving(*numbers) or any(self.role_counts(n)[0] != min(3, count) for n in numbers):
                since = now
            return now - since >= 1.5

        since = time.monotonic()
        self.wait(settled, "all serve, and keep their roles", 40)

    def form(self, count: int) -> None:
        """Bring up `count` controllers with min(3, count) voters."""
        self.configure([0])
        self.start(0)
        self.wait(lambda: self.serving(0), "the first one serves")
        if count > 1:
            self.configure(range(count))
            self.start(*range(1, count))
            target = (min(3, count), max(0, min(3, count - 3)), max(0, count - 6))
            self.wait(lambda: self.role_counts(0) == target, f"roles {target}", 60)
            self.wait(lambda: self.serving(*range(count)), "all serve")

    def _log_tail(self, n: int) -> str:
        try:
            return "\n".join((self.root / f"{n}.log").read_text().splitlines()[-15:])
        except FileNotFoundError:
            return ""


def _dies_with_us() -> list[str]:
    """What makes a child end with these tests, however they end. The kernel counts the thread that makes the child."""
    if threading.current_thread() is not threading.main_thread():
        return []
    return ["setpriv", "--pdeathsig", "KILL", "--"]

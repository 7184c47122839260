"""The stage of most fault runs: controllerd processes on loopback, whose configuration the stage writes."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from demo import history

from dbaccessor import tlsfiles
from faultrun.clients import PATHS, Clients
from loopback import Cluster

LOADED = Path(__file__).parent / "loadedcontrollerd.py"
_MOST = 5
_LEAVE_SECONDS = 30


class LoopbackStage:
    """Controllers are named by their numbers."""

    def __init__(self, cluster: Cluster, clients: Clients, folder: Path) -> None:
        self._cluster = cluster
        self._clients = clients
        self._folder = folder
        self._named: list[int] = []
        self._departed: list[str] = []
        self._paused: set[int] = set()
        self._lock = threading.RLock()  # The operator's work and a fault come from two threads.

    def form(self, count: int) -> None:
        self._cluster.form(count)
        self._named = list(range(count))

    def addresses(self) -> dict[str, str]:
        return {str(n): self._cluster.address(n) for n in self._named}

    def certificates(self) -> str:
        """Return the folder of the first controller's certificates, "" when nothing is under TLS."""
        return "" if self._cluster.authority is None else str(self._cluster.state_dir(0) / tlsfiles.DIRECTORY)

    def start_clients(self) -> None:
        """Start the clients outside, and return when each kind has an answer."""
        self._clients.start(self.addresses(), certificates=self.certificates())
        self._clients.until_asking()

    def read_everything(self) -> None:
        """Write what there is into the history."""
        self._clients.read_everything(self.addresses(), certificates=self.certificates())

    def controllers(self) -> list[str]:
        return [str(n) for n in self._named]

    def leader(self) -> str | None:
        for n in self._named:
            if n not in self._paused and self._cluster.alive(n):
                leader = self._cluster.leader(n)
                if leader is not None:
                    return str(leader)
        return None

    def tell(self, event: str, **facts: object) -> None:
        with (self._folder / "faults.jsonl").open("ab") as out:
            out.write(history.line(event, **facts))

    def faults(self) -> dict[str, Callable[[random.Random, str], contextlib.AbstractContextManager[None]]]:
        return {
            "kill": self._kill,
            "kill two": self._kill_two,
            "pause": self._pause,
            "pause two": self._pause_two,
            "restart": self._restart,
            "power cut": self._power_cut,
        }

    def changes(self) -> dict[str, Callable[[random.Random, str], None]]:
        offered: dict[str, Callable[[random.Random, str], None]] = {}
        if len(self._named) < _MOST:
            offered["add"] = self.add
        if len(self._named) > 1:
            offered["remove"] = self.remove
        return offered

    def load(self, seed: int) -> None:
        """Let every controller that is started from now on have clients inside."""
        self._cluster.program = [str(LOADED), str(self._folder), str(seed)]
        self._cluster.paths += PATHS

    def quiet(self) -> None:
        """Let the clients inside end what they asked. Call it when nothing is disturbed any more."""
        (self._folder / "enough").touch()
        alive = {self._cluster.pid(n) for n in self._named}
        self._cluster.wait(
            lambda: alive <= {e["pid"] for e in self._clients.events() if e["event"] == "ended"},
            "the clients inside end what they asked",
        )

    def mend(self) -> float:
        """Let everybody live, and wait until the cluster is whole; return the seconds that took."""
        count = len(self._named)
        target = (min(3, count), max(0, count - 3), 0)
        first = self._named[0]
        return self._cluster.wait(
            lambda: self._cluster.serving(*self._named) and self._cluster.role_counts(first) == target,
            f"{count} members serve, with roles {target}",
            60,
        )

    # Faults

    @contextlib.contextmanager
    def _killed(self, *numbers: int) -> Iterator[None]:
        with self._lock:
            killed = [n for n in numbers if self._cluster.alive(n)]
            self._cluster.kill(*killed)
            self._paused -= set(killed)
        try:
            yield
        finally:
            with self._lock:
                self._cluster.start(*(n for n in killed if n in self._named and not self._cluster.alive(n)))

    @contextlib.contextmanager
    def _stopped(self, *numbers: int) -> Iterator[None]:
        with self._lock:
            for n in numbers:
                self._cluster.signal(n, signal.SIGSTOP)
            self._paused |= set(numbers)
        try:
            yield
        finally:
            with self._lock:
                for n in numbers:
                    self._cluster.signal(n, signal.SIGCONT)
                self._paused -= set(numbers)

    def _kill(self, dice: random.Random, victim: str) -> contextlib.AbstractContextManager[None]:
        return self._killed(int(victim))

    def _kill_two(self, dice: random.Random, victim: str) -> contextlib.AbstractContextManager[None]:
        return self._killed(*self._two(dice, victim))

    def _pause(self, dice: random.Random, victim: str) -> contextlib.AbstractContextManager[None]:
        return self._stopped(int(victim))

    def _pause_two(self, dice: random.Random, victim: str) -> contextlib.AbstractContextManager[None]:
        return self._stopped(*self._two(dice, victim))

    def _power_cut(self, dice: random.Random, victim: str) -> contextlib.AbstractContextManager[None]:
        return self._killed(*self._named)

    @contextlib.contextmanager
    def _restart(self, dice: random.Random, victim: str) -> Iterator[None]:
        """A planned stop and start; if it cannot say goodbye in time it is killed, as systemd would."""
        n = int(victim)
        if self._cluster.alive(n) and n not in self._paused:
            self._cluster.terminate(n)
        with self._killed(n):
            yield
        with self._lock:
            if not self._cluster.alive(n) and n in self._named:
                self._cluster.start(n)

    def _two(self, dice: random.Random, victim: str) -> list[int]:
        others = [n for n in self._named if n != int(victim)]
        return [int(victim), *dice.sample(others, min(1, len(others)))]

    # What an operator does

    def add(self, dice: random.Random, victim: str) -> None:
        """A new controller, with a number that was never used."""
        with self._lock:
            new = max([*self._named, *map(int, self._departed)]) + 1
            self._cluster.start(new)  # It waits for its configuration, and may be killed from now on.
            self._named.append(new)
            self._publish()
            self._clients.introduce(self.addresses(), certificates=self.certificates())
        until = time.monotonic() + 10
        while not self._cluster.serving(new) and time.monotonic() < until:
            time.sleep(0.1)

    def remove(self, dice: random.Random, victim: str) -> None:
        """An orderly goodbye. What cannot say it in time stays a member: nothing is forced here."""
        n = int(victim)
        try:
            _, answer = self._cluster.request(n, "POST", "/leave", timeout_seconds=_LEAVE_SECONDS)
        except Exception as error:  # It was killed, or is stopped: it did not leave.
            self.tell("refused", name="remove", victim=victim, reason=str(error), at=time.monotonic())
            return
        if not answer.get("left"):
            self.tell("refused", name="remove", victim=victim, reason=str(answer), at=time.monotonic())
            return
        with self._lock:
            self._named.remove(n)
            self._departed.append(victim)
            self._publish()
            self._clients.introduce(self.addresses(), certificates=self.certificates())
        if self._cluster.alive(n):
            self._cluster.terminate(n)

    def _publish(self) -> None:
        self._cluster.configure(self._named, departed=list(self._departed))

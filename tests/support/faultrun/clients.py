"""The processes that ask, as seen from the test: started, told where the controllers are, ended, and read."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from demo import history

from faultrun import verdict

ROOT = Path(__file__).parents[3]
PATHS = (ROOT, ROOT / "lib", ROOT / "tests" / "support")

# Enough to overlap, few enough not to be the load that the run is about.
DEFAULT = {
    "one": ("append=2", "count=1", "register=1", "bank=1"),
    "two": ("append=1", "register=2", "late=4", "bank=1"),
}

OPS = {"append", "count", "read", "write", "transfer", "balances"}


class Clients:
    """A context manager. `inside` turns a command line into one that runs where the controllers can be reached."""

    def __init__(self, folder: Path, seed: int, inside: Any = None) -> None:
        self._folder = folder
        self._seed = seed
        self._inside = inside or (lambda line: line)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._told: dict[str, Any] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()
            assert process.stdin is not None
            with contextlib.suppress(OSError):
                process.stdin.close()

    def start(
        self, addresses: Mapping[str, str], wanted: Mapping[str, Sequence[str]] = DEFAULT, *, certificates: str = ""
    ) -> None:
        """Start the named processes, each with its kinds of clients."""
        self._told = {"map": dict(addresses), "certificates": certificates}
        for name, kinds in wanted.items():
            with (self._folder / f"{name}.jsonl").open("ab") as out, (self._folder / f"{name}.log").open("ab") as log:
                process = subprocess.Popen(
                    self._inside(
                        [
                            "env",
                            f"PYTHONPATH={os.pathsep.join(map(str, PATHS))}",
                            *(sys.executable, "-m", "faultrun.client", name, str(self._seed), *kinds),
                        ]
                    ),
                    stdin=subprocess.PIPE,
                    stdout=out,
                    stderr=log,
                    cwd=ROOT,
                )
            self._processes[name] = process
            self._say(process)

    def until_asking(self, timeout_seconds: float = 60) -> None:
        """Wait until every process has an answer to each kind of question, so that faults meet clients in full flow."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            asked = {d.op for d in verdict.pair(self.events()) if d.outcome == "acknowledged"}
            if asked >= OPS:
                return
            assert time.monotonic() < deadline, f"nobody has asked {sorted(OPS - asked)} yet"
            time.sleep(0.1)

    def introduce(self, addresses: Mapping[str, str], *, certificates: str = "") -> None:
        """Tell everybody where the controllers are now."""
        told = {"map": dict(addresses), "certificates": certificates}
        if told == self._told:
            return
        self._told = told
        for process in self._processes.values():
            self._say(process)

    def finish(self, timeout_seconds: float = 30) -> None:
        """Let every client end what it asked. Fails if one died on its way."""
        for process in self._processes.values():
            assert process.stdin is not None
            process.stdin.close()
        for name, process in self._processes.items():
            code = process.wait(timeout_seconds)
            assert code == 0, f"client {name} ended with {code}: {(self._folder / f'{name}.log').read_text()[-2000:]}"
        self._processes.clear()

    def read_everything(self, addresses: Mapping[str, str], *, certificates: str = "") -> None:
        """Write what there is into the history."""
        self.start(addresses, {"last": ("last=1",)}, certificates=certificates)
        process = self._processes["last"]
        process.wait(timeout=90)
        self.finish()

    def events(self) -> list[dict[str, Any]]:
        """Return what everybody wrote down so far."""
        return [e for path in sorted(self._folder.glob("*.jsonl")) for e in history.parse(path.read_bytes())]

    def _say(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # It died; finish() says so.
            process.stdin.write(json.dumps(self._told).encode() + b"\n")
            process.stdin.flush()

"""Three members of etcd on loopback, and its own load: what ours is compared with, where the machine has it.

`etcdctl check perf` is etcd's own measure, with its own Go client. It knows loads, not numbers of clients, so etcd gets
more clients than ours (500 and 1000), which only helps its throughput; a load's rate is also its ceiling.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from bench.cluster import BenchError

# Load of `check perf` -> its clients and its ceiling in puts a second.
LOADS = {"l": (500, 8000), "xl": (1000, 15000)}
_START_SECONDS = 20


def available() -> str | None:
    """Say why etcd cannot be measured here, or return None when it can."""
    missing = [program for program in ("etcd", "etcdctl") if shutil.which(program) is None]
    return f"{' and '.join(missing)} not found: scripts/setup --bench installs them" if missing else None


class Etcd:
    """A context manager that ends what it started."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self._endpoints = [f"http://127.85.{os.getpid() % 250}.{10 + n}:2379" for n in range(3)]

    def __enter__(self) -> Etcd:
        peers = [endpoint.replace(":2379", ":2380") for endpoint in self._endpoints]
        for n, (client, peer) in enumerate(zip(self._endpoints, peers, strict=True)):
            with (self._folder / f"etcd-{n}.log").open("wb") as log:
                self._processes.append(
                    subprocess.Popen(
                        [
                            *("etcd", "--name", str(n), "--data-dir", str(self._folder / f"etcd-{n}")),
                            *("--listen-client-urls", client, "--advertise-client-urls", client),
                            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                            *("--initial-cluster", ",".join(f"{i}={p}" for i, p in enumerate(peers))),
                        ],
                        stdout=log,
                        stderr=log,
                    )
                )
        deadline = time.monotonic() + _START_SECONDS
        while self._ctl("endpoint", "health").returncode != 0:
            if time.monotonic() > deadline:
                raise BenchError("etcd does not become healthy")
            time.sleep(0.2)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def puts_per_second(self, load: str) -> float:
        """Run one load (about a minute) and return the puts that were done per second."""
        done = self._ctl("check", "perf", f"--load={load}", "--auto-compact", "--prefix", f"/bench-{load}/")
        said = done.stdout + done.stderr
        found = re.search(r"Throughput (?:is|too low:) (\d+) writes/s", said)
        if found is None:
            *_, last = said.strip().splitlines() or ["nothing"]
            raise BenchError(f"etcdctl gives no throughput; it says: {last}")
        return float(found[1])

    def _ctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["etcdctl", f"--endpoints={','.join(self._endpoints)}", *words],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "ETCDCTL_API": "3"},
        )

"""Nothing happens to leases, for long: with every core busy none of a thousand is lost."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.leases import timing as timings
from dqlitenodes import LATENCY_MS, Processes
from leaseholder import Holders, play

SECONDS = float(os.environ.get("HA_CONTROLLER_SOAK_SECONDS", "600"))
# Of each of three holders.
LEASES = int(os.environ.get("HA_CONTROLLER_SOAK_LEASES", "300"))
LEASE_SECONDS = timings.for_latency(LATENCY_MS).duration_seconds


@contextlib.contextmanager
def busy_cores() -> Iterator[None]:
    """One process for each core that never rests, at the priority of everybody else."""
    program = ["setpriv", "--pdeathsig", "KILL", "--", sys.executable, "-c", "while True: pass"]
    spinning = [subprocess.Popen(program) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


@pytest.mark.timeout(SECONDS + 300)
def test_busy_cores_alone_lose_no_lease(tmp_path: Path):
    def story(holders: Holders) -> None:
        for n in range(3):
            holders.kill(n)
        holders.start(*range(3), more_leases=LEASES)
        first = holders.wait_for_other(None, time.monotonic())
        with busy_cores():
            time.sleep(SECONDS)
        reports = [holders.report(n) for n in range(3)]
        print(f"{SECONDS:g} s, load {os.getloadavg()}, leases of {LEASE_SECONDS:g} s")
        for report in reports:
            print({key: report.get(key) for key in ("counters", "least-seconds-left", "more-held")})
        assert holders.acts()[-1].token == first.token
        assert [report["more-held"] for report in reports] == [LEASES] * 3
        assert not any(report["counters"].get("lost") for report in reports)

    with contextlib.closing(Processes(tmp_path, 3)) as three:
        play(three, 3, story, LEASE_SECONDS)

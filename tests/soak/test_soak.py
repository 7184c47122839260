"""Nothing happens, for long: with every core busy there is no leader change and no demotion without a fault."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faultrun import client, verdict
from faultrun.clients import Clients
from loopback import Cluster

SECONDS = float(os.environ.get("HA_CONTROLLER_SOAK_SECONDS", "600"))
# What every installation has unless it says otherwise is what must hold. Another value can be tried before it becomes
# the default; the lower it is, the sooner a fail-over, and the sooner a stall is taken for a death.
LATENCY_MS = os.environ.get("HA_CONTROLLER_SOAK_LATENCY_MS")
_LOOK_SECONDS = 0.25
_SERVICE = Path(__file__).parents[2] / "src" / "templates" / "ha-controller.service.j2"


@contextlib.contextmanager
def busy_cores() -> Iterator[None]:
    """One process for each core that never rests, at the priority that programs have unless they say otherwise."""
    count = os.cpu_count() or 1
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def service_nice() -> str:
    """Return the priority that the charm's service gives controllerd."""
    (line,) = (line for line in _SERVICE.read_text().splitlines() if line.startswith("Nice="))
    return line.removeprefix("Nice=")


@pytest.mark.timeout(SECONDS + 300)
def test_busy_cores_alone_change_no_leader_and_demote_nobody(tmp_path: Path):
    seen: list[tuple[float, Any, Any]] = []
    with Cluster(tmp_path, block=67) as cluster, Clients(tmp_path / "history", 0) as clients:
        if LATENCY_MS is not None:
            cluster.settings = {"network-latency-ms": int(LATENCY_MS)}
        cluster.before = ["nice", "-n", service_nice()]
        cluster.form(3)
        # Each hears of a new role in its own time.
        cluster.wait(
            lambda: all(list(cluster.roles(n).values()) == ["voter"] * 3 for n in range(3)), "all know the roles"
        )
        clients.start({str(n): cluster.address(n) for n in range(3)})
        with busy_cores():
            started = time.monotonic()
            leaders_before = cluster.status(0).get("leader-changes")
            while time.monotonic() - started < SECONDS:
                for n in range(3):
                    now = (cluster.leader(n), cluster.roles(n))
                    if not seen or now != seen[-1][1:]:
                        seen.append((round(time.monotonic() - started, 1), *now))
                time.sleep(_LOOK_SECONDS)
            leaders_after = cluster.status(0).get("leader-changes")
        clients.finish()
        clients.read_everything({str(n): cluster.address(n) for n in range(3)})
        result = verdict.judge(clients.events(), client.ACCOUNTS * client.BALANCE)

    print(f"{SECONDS:g} s, latency setting {LATENCY_MS or 'as by default'}, load {os.getloadavg()}\n{result}")
    # A status that did not come in time says nothing; what was said must always have been the same.
    said = [s for s in seen if s[2]]
    assert {tuple(sorted(roles.items())) for _, _, roles in said} == {((0, "voter"), (1, "voter"), (2, "voter"))}, said
    assert len({leader for _, leader, _ in said}) == 1, said
    assert leaders_before == leaders_after
    assert not result.problems, str(result)
    assert result.acknowledged("append") > SECONDS

"""60 machines added while controllers are killed, paused and cut off, judged by the log of who ran the instances."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from localjuju.client import Client

from faultrun import machineverdict, nemesis, onmachines
from faultrun.clients import Clients
from faultrun.onmachines import MachineStage, Operator

SEEDS = [int(seed) for seed in os.environ.get("HA_CONTROLLER_SEEDS", "").split()] or [1, 2, 3]
SECONDS = float(os.environ.get("HA_CONTROLLER_FAULT_SECONDS", "20"))
MACHINES = 60
REMOVED = 8


@pytest.fixture
def juju(tmp_path: Path):
    juju = Client(tmp_path / "run")
    juju.bootstrap(die_with=os.getpid(), update_status_interval=600, keep_logs=tmp_path / "logs")
    yield juju
    juju.destroy(timeout_seconds=60)  # The kernel takes its time for so many network namespaces.


@pytest.mark.timeout(500 + 2 * SECONDS)
@pytest.mark.parametrize("seed", SEEDS)
def test_every_machine_has_one_instance_and_none_is_leaked(tmp_path: Path, juju: Client, seed: int):
    again = f"HA_CONTROLLER_SEEDS={seed} python -m pytest {__file__}; logs in {tmp_path}"
    with Clients(tmp_path / "history", seed, juju.inside) as clients:
        stage = MachineStage(juju, clients, tmp_path / "history")
        begun = time.monotonic()
        stage.form(3)
        onmachines.set_provider(juju, stage)
        formed = time.monotonic()
        with Operator(stage, seed, MACHINES, REMOVED) as operator:
            nemesis.torment(stage, seed, SECONDS)
            healed = stage.mend()
            operator.finish(150)
        rows = onmachines.until_settled(stage, MACHINES, 120)
        settled = time.monotonic()

        verdict = machineverdict.judge(stage.log(), operator.added, rows)
        print(
            f"seed {seed}: formed in {formed - begun:.1f} s, healed {healed:.1f} s after the last fault, "
            f"settled {settled - formed - SECONDS:.1f} s after it\n{verdict}"
        )
        assert not verdict.problems, f"{again}\n{verdict}"
        assert len(rows) == MACHINES
        assert sum(row["state"] == "stopped" for row in rows) == REMOVED
        # Nobody's word but the kernel's: so many hosts there are.
        assert len([f for f in juju.home.machines.iterdir() if int(f.name) >= 1000]) == MACHINES - REMOVED
        assert len(verdict.askers) > 1, f"one holder did it all: the run proves nothing; {again}"

"""Real faults by a seed, and a history that is judged afterwards. HA_CONTROLLER_SEEDS="7 8 9" runs other seeds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from faultrun import client, nemesis, verdict
from faultrun.clients import OPS, Clients
from faultrun.onloopback import LoopbackStage
from loopback import Cluster

# One in clear in every run of the suite, beside those on units (test_charm_faults.py), which are under TLS; the others
# with `tox -e long`, and whichever are asked for.
_LONG = [pytest.param(seed, marks=pytest.mark.long) for seed in (2, 3, 4, 5, 6)]
SEEDS = [int(seed) for seed in os.environ.get("HA_CONTROLLER_SEEDS", "").split()] or [1, *_LONG]
SECONDS = float(os.environ.get("HA_CONTROLLER_FAULT_SECONDS", "12"))


@pytest.mark.timeout(180 + 2 * SECONDS)
@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_acknowledged_is_lost_and_no_read_is_stale(tmp_path: Path, seed: int):
    again = f"HA_CONTROLLER_SEEDS={seed} python -m pytest tests/cluster/test_random_faults.py; history in {tmp_path}"
    # Half of the runs are under TLS, as units always are.
    with Cluster(tmp_path, block=60, tls=seed % 2 == 0) as cluster, Clients(tmp_path / "history", seed) as clients:
        stage = LoopbackStage(cluster, clients, tmp_path / "history")
        stage.load(seed)
        stage.form(3)
        stage.start_clients()
        nemesis.torment(stage, seed, SECONDS)
        healed = stage.mend()
        clients.finish()
        stage.quiet()
        stage.read_everything()
        result = verdict.judge(clients.events(), client.ACCOUNTS * client.BALANCE)

    print(f"seed {seed}: whole again after {healed:.1f} s\n{result}")
    assert not result.problems, f"{again}\n{result}"
    for op in OPS:
        assert result.acknowledged(op) > 1, f"the run proves nothing about {op}: {result}; {again}"

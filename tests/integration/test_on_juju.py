"""The same steps on a real Juju. They have never met one where this project was written: see the README."""

from pathlib import Path

import pytest
import steps
from cluster import CannotDo
from juju_cluster import JujuCluster
from pytest_operator.plugin import OpsTest


@pytest.mark.parametrize("step", steps.ALL, ids=[step.__name__ for step in steps.ALL])
async def test_on_juju(step: steps.Step, ops_test: OpsTest, charm_file: Path) -> None:
    try:
        await step(JujuCluster(ops_test), charm_file)
    except CannotDo as why:
        pytest.skip(str(why))

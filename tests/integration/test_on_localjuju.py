"""The steps on localjuju: always, on this machine, with the packed charm."""

import asyncio
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import steps
from cluster import CannotDo, Cluster
from localjuju_cluster import LocalJujuCluster

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="localjuju makes namespaces and needs root")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="ha-integration-") as folder:
        cluster = LocalJujuCluster(Path(folder) / "home")
        asyncio.run(cluster.juju("bootstrap", "--die-with", str(os.getpid())))
        try:
            yield cluster
        finally:
            asyncio.run(cluster.juju("destroy"))


@pytest.mark.parametrize("step", steps.ALL, ids=[step.__name__ for step in steps.ALL])
async def test_on_localjuju(step: steps.Step, cluster: Cluster, charm_file: Path) -> None:
    try:
        await step(cluster, charm_file)
    except CannotDo as why:
        pytest.skip(str(why))

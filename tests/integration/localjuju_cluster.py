"""The backend that always runs: units as hosts of their own on this machine, without Juju."""

from __future__ import annotations

import sys
from pathlib import Path

from cluster import APP, Cluster, run

ROOT = Path(__file__).parents[2]


class LocalJujuCluster(Cluster):
    def __init__(self, home: Path) -> None:
        self._home = home

    async def juju(self, *arguments: str) -> str:
        # Beside this interpreter, so that a run does not go through scripts/setup for every command.
        python = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "localjuju.cli", "--home", str(self._home)]
        return await run([*python, *arguments])

    async def add_unit_with_two_addresses(self) -> str:
        await self.juju("add-space", "internal", "10.77.0.0/24")
        await self.juju("add-space", "storage", "10.78.0.0/24")
        await self.juju("add-unit", APP, "--extra-address", "10.78.0.50/24")
        return "internal"

    async def kill(self, unit: str) -> None:
        await self.juju("kill", unit)

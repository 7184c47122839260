"""The backend on a real Juju (3.6, LXD), through pytest-operator's ops_test."""

from __future__ import annotations

import json

from cluster import APP, CannotDo, Cluster, CommandFailed
from pytest_operator.plugin import OpsTest

SERVICE = "ha-controller.service"


class JujuCluster(Cluster):
    def __init__(self, ops_test: OpsTest) -> None:
        self._ops_test = ops_test

    async def juju(self, *arguments: str) -> str:
        code, out, error = await self._ops_test.juju(*arguments)
        if code:
            raise CommandFailed(f"juju {' '.join(arguments)}: {error.strip()}")
        return out

    async def add_unit_with_two_addresses(self) -> str:
        spaces = json.loads(await self.juju("spaces", "--format", "json"))["spaces"]
        with_subnets = [space["name"] for space in spaces if space.get("subnets")]
        if len(with_subnets) < 2:
            raise CannotDo("a second address needs two spaces with a subnet each; this model has " + str(with_subnets))
        first, second = sorted(with_subnets, key=lambda name: name != "alpha")[:2]
        await self.juju("set-constraints", APP, f"spaces={first},{second}")
        await self.juju("add-unit", APP)
        return first

    async def kill(self, unit: str) -> None:
        await self.juju("ssh", unit, "sudo", "systemctl", "kill", "--kill-whom=main", "--signal=KILL", SERVICE)

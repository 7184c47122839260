"""A cluster whose controllers have hosts of their own, which can be cut off from each other by DROP."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

from localjuju import spaces
from localjuju.network import Cut, Network

from loopback import Cluster

_SUBNET = "10.88.0.0/24"


class CutCluster(Cluster):
    """A cluster whose controllers have hosts of their own on one bridge. To be used in a fresh network namespace."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, tls=True)
        self._hosted: dict[int, subprocess.Popen[str]] = {}
        self._topology = spaces.Topology()
        self._topology.add_subnet(_SUBNET, spaces.ALPHA)
        self._network = Network(self._topology)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        asyncio.run(self._network.start())

    def __exit__(self, *why: object) -> None:
        super().__exit__(*why)
        for host in self._hosted.values():
            host.kill()
            host.communicate()

    def address(self, n: int) -> str:
        return f"10.88.0.{10 + n}"

    def enter(self, n: int) -> list[str]:
        if n not in self._hosted:
            self._boot(n)
        return ["nsenter", "--target", str(self._hosted[n].pid), "--net", "--"]

    def _boot(self, n: int) -> None:
        script = "ip link set lo up && echo up && exec sleep infinity"
        host = self._hosted[n] = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", "unshare", "--net", "sh", "-c", script],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert host.stdout is not None
        assert host.stdout.readline() == "up\n", f"the host of controller {n} did not come up"
        self._topology.add_address(n, f"{self.address(n)}/24")
        asyncio.run(self._network.connect(n, host.pid))

    def cut(self, n: int, way: str) -> None:
        """Cut n off from all other hosts: `both` ways, or only what goes `out` of it, or `in`."""
        others = frozenset(self._hosted) - {n}
        cut = Cut(others, frozenset({n}), one_way=True) if way == "in" else Cut(frozenset({n}), others, way == "out")
        asyncio.run(self._network.cut(cut))

    def heal(self) -> None:
        asyncio.run(self._network.heal(None))

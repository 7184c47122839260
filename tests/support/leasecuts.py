"""Leases of real controllers, each in a network namespace of its own, whose holder is cut off by DROP.

`unshare --net python leasecuts.py FOLDER PLAN`: in a network of its own, with no way out of it. Under TLS. For each cut
of the plan the holder's host is cut off from all others, in both directions or in one, until another one acts; then it
is healed. Judged is what was written down: the acts under each lease in the order of their moments, and those through
the fence in the order of their commits, have tokens that only rise.

How soon another acts is counted from the last change of the row, as a bystander saw it: it reads the row again and
again from outside of every cut (bystander.py).
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PATHS = [ROOT, ROOT / "src", ROOT / "lib", ROOT / "tests" / "support"]
sys.path[:0] = [str(path) for path in PATHS]

from localjuju import spaces  # noqa: E402
from localjuju.network import Cut, Network  # noqa: E402

from actingcontrollerd import ACT, DATABASE  # noqa: E402
from bystander import Bystander  # noqa: E402
from controller.leases import Token  # noqa: E402
from controller.leases import timing as timings  # noqa: E402
from dbaccessor.database import Database  # noqa: E402
from leaseholder import Act, judge  # noqa: E402
from loopback import Cluster  # noqa: E402

SUBNET = "10.88.0.0/24"
TIMING = timings.for_latency(10)
# For what was on its way when the cut came, and for looking.
SOON_SECONDS = 0.3
SLACK_SECONDS = 10.0


class CutCluster(Cluster):
    """A cluster whose controllers have hosts of their own on one bridge. To be used in a fresh network namespace."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, tls=True)
        self._hosted: dict[int, subprocess.Popen[str]] = {}
        self._topology = spaces.Topology()
        self._topology.add_subnet(SUBNET, spaces.ALPHA)
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


class Acts:
    """What all controllers wrote down, read on from where it was read to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        self.of: dict[str, list[Act]] = {}
        self.done: list[tuple[float, str]] = []

    def read_on(self) -> None:
        for path in self._folder.glob("done-*.jsonl"):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                lines = file.read().rpartition(b"\n")[0]
            self._read[path] = self._read.get(path, 0) + (len(lines) + 1 if lines else 0)
            for line in lines.splitlines():
                told = json.loads(line)
                if "what" in told:
                    self.done.append((told["at"], told["what"]))
                else:
                    act = Act(told["at"], told["holder"], Token(*told["token"]))
                    self.of.setdefault(told["key"], []).append(act)

    def latest(self) -> Act | None:
        """Return the latest act under the lease `act`."""
        self.read_on()
        return max(self.of.get(ACT.name, []), key=lambda act: act.at, default=None)

    def counted(self, since: float = 0.0, until: float = float("inf")) -> Counter[str]:
        self.read_on()
        return Counter(what for at, what in self.done if since <= at <= until)

    def judge(self) -> None:
        self.read_on()
        for acts in self.of.values():
            judge(sorted(acts, key=lambda act: act.at))


def wait(fact: Any, what: str, seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := fact():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds:g} s: {what}")


def play(cluster: CutCluster, acts: Acts, bystander: Bystander, way: str, seconds: float, busy: bool) -> None:
    """One cut of whoever holds the lease now, and its end."""
    first = acts.latest()
    assert first is not None
    holder, leads = int(first.holder), cluster.leader(int(first.holder)) == int(first.holder)
    cut = time.monotonic()
    cluster.cut(holder, way)

    def another() -> Act | None:
        found = acts.latest()
        return found if found is not None and found.holder != first.holder else None

    other = wait(another, f"somebody else than {first.holder} acts", seconds + 30)
    other = min((a for a in acts.of[ACT.name] if a.token == other.token), key=lambda act: act.at)
    waited = bystander.longest_wait(cut, other.at)
    change = bystander.last_change_by(first.holder, other.at)
    last = max(act.at for act in acts.of[ACT.name] if act.holder == first.holder and act.token <= first.token)
    print(
        f"{seconds:g} s, cut {way}{', it leads' if leads else ''}: it acted for {last - cut:.2f} s, its last renewal"
        f" was seen after {change - cut:.2f} s, another acted after {other.at - cut:.2f} s; a bystander waited"
        f" {waited:.2f} s"
    )
    assert last < other.at
    assert other.at <= change + seconds + 1 + waited
    # Whose answers alone are lost has one renewal more. What a leader had sent to others is committed by the next one.
    more = (TIMING.renew_seconds(seconds) if way == "in" else 0.0) + (TIMING.failover_seconds if leads else 0.0)
    assert change <= cut + more + SOON_SECONDS + waited
    # Theirs last up to four seconds, and the holder may have had all of them.
    wait(lambda: acts.counted(cut)["claimed"] or not busy, "others are granted leases meanwhile", 4 + SLACK_SECONDS)
    cluster.heal()
    cluster.wait(lambda: cluster.status(holder)["cluster"]["leader"] is not None, "the healed one is back", 30)
    healed = time.monotonic()
    wait(lambda: (now := acts.latest()) and now.at > healed + 0.5, "acts go on", 20)


async def written(cluster: CutCluster, count: int) -> list[Act]:
    """Return what was written through fences, in the order of the commits."""
    database = Database(cluster.connector(*range(count)), DATABASE)
    rows = (await database.read("SELECT id, epoch, count, holder FROM act ORDER BY id", deadline_seconds=30)).rows
    database.close()
    return [Act(float(str(i)), str(h), Token(int(str(e)), int(str(c)))) for i, e, c, h in rows]


def main(folder: Path, plan: dict[str, Any]) -> None:
    """`controllers` of which the first `managers` take part, a lease of `seconds`, and `cuts`, one after another."""
    count, seconds = plan["controllers"], plan["seconds"]
    inside = {"managers": [str(n) for n in range(plan["managers"])], "seconds": seconds, "keys": plan["keys"]}
    with CutCluster(folder) as cluster:
        cluster.program = [str(Path(__file__).with_name("actingcontrollerd.py")), str(folder), json.dumps(inside)]
        cluster.paths = PATHS
        cluster.form(count)
        acts = Acts(folder)
        wait(acts.latest, "somebody acts", 30)
        with Bystander(cluster.connector(*range(count)), ACT) as bystander:
            wait(lambda: bystander.sees_it, "the bystander sees the lease", 10)
            for way in plan["cuts"]:
                play(cluster, acts, bystander, way, seconds, plan["keys"] > 0)
        (folder / "enough").touch()
        acts.judge()
        through = asyncio.run(written(cluster, count))
        judge(through)
        counted = acts.counted()
        print(f"{sum(map(len, acts.of.values()))} acts, {len(through)} through the fence; {dict(counted)}")
        assert not plan["keys"] or {"claimed", "extended", "revoked", "waited", "denied"} <= counted.keys()
        assert len({act.holder for act in through}) > 1
        print("told")


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))

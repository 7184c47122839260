"""Leases of real controllers, each in a network namespace of its own, whose holder is cut off by DROP, or worse.

`unshare --net python leasecuts.py FOLDER PLAN`: in a network of its own, with no way out of it. Under TLS. Each fault
of the plan meets whoever holds the lease `act` then, until another one acts:

| fault | what it is |
|---|---|
| both, out, in | its host is cut off from all others: both ways, or only what goes out of it, or only what comes in |
| pause, kill | SIGSTOP past the duration, and SIGCONT; SIGKILL, and another start |
| leader | the database's leader is killed in the midst of everybody's claims |
| restart | all controllers are killed and started |
| remove | its unit is removed by force, for good |

Judged is what was written down: the acts under each lease in the order of their moments, and those through the fence in
the order of their commits, have tokens that only rise.

How soon another acts is counted from the last change of the row, as a bystander saw it: it reads the row again and
again from outside of every cut (bystander.py).
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PATHS = [ROOT, ROOT / "src", ROOT / "lib", ROOT / "tests" / "support"]
sys.path[:0] = [str(path) for path in PATHS]

from actingcontrollerd import ACT, DATABASE  # noqa: E402
from bystander import Bystander  # noqa: E402
from controller.leases import Token  # noqa: E402
from controller.leases import timing as timings  # noqa: E402
from cutcluster import CutCluster  # noqa: E402
from dbaccessor.database import Database  # noqa: E402
from dbaccessor.leader import OutsideConnector  # noqa: E402
from leaseholder import Act, judge  # noqa: E402

TIMING = timings.for_latency(10)
# For what was on its way when the cut came, and for looking.
SOON_SECONDS = 0.3
SLACK_SECONDS = 10.0
# Dqlite's own role management may be stuck until the leader changes, which the watchdog brings about once a minute.
ROLES_SECONDS = 150.0


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


class Story:
    """One fault after another, each met by whoever holds the lease then, and what must come of it."""

    def __init__(self, cluster: CutCluster, acts: Acts, bystander: Bystander, plan: dict[str, Any]) -> None:
        self._cluster = cluster
        self._acts = acts
        self._bystander = bystander
        self.numbers = list(range(plan["controllers"]))
        self._seconds: float = plan["seconds"]
        self._busy = plan["keys"] > 0

    def play(self, fault: str) -> None:
        first = self._acts.latest()
        assert first is not None
        holder = int(first.holder)
        match fault:
            case "both" | "out" | "in":
                self._another_acts(fault, first, lambda: self._cluster.cut(holder, fault))
                self._cluster.heal()
            case "pause":
                self._another_acts(fault, first, lambda: self._cluster.freeze(holder))
                self._cluster.signal(holder, signal.SIGCONT)
            case "kill":
                self._another_acts(fault, first, lambda: self._cluster.kill(holder))
                self._cluster.start(holder)
            case "leader":
                self._leader_dies(first)
            case "restart":
                self._all_start_anew(first)
            case "remove":
                self._another_acts(fault, first, lambda: self._remove(holder))
            case _:
                raise ValueError(fault)
        self._all_is_well()

    def _another_acts(self, fault: str, first: Act, begin: Callable[[], object]) -> None:
        cluster, bystander, seconds = self._cluster, self._bystander, self._seconds
        leads = cluster.leader(int(first.holder)) == int(first.holder)
        began = time.monotonic()
        begin()
        other = self._first_act_by_another(first)
        waited = bystander.longest_wait(began, other.at)
        change = bystander.last_change_by(first.holder, other.at)
        # What a paused one did before it looked at the clock again would be here, too.
        last = max(act.at for act in self._acts.of[ACT.name] if act.token == first.token)
        print(
            f"{seconds:g} s, {fault}{', it leads' if leads else ''}: it acted for {last - began:.2f} s, its last"
            f" renewal was seen after {change - began:.2f} s, another acted after {other.at - began:.2f} s; a bystander"
            f" waited {waited:.2f} s"
        )
        assert last < other.at
        # Who hears nothing of a leader that hears everything learns of the next one by a request that hangs.
        hung = TIMING.failover_seconds if leads and fault == "out" else 0.0
        assert other.at <= change + seconds + 1 + hung + waited
        # Whose answers alone are lost has one renewal more. What a leader had sent is committed by the next one.
        more = (TIMING.renew_seconds(seconds) if fault == "in" else 0.0) + (TIMING.failover_seconds if leads else 0.0)
        assert change <= began + more + SOON_SECONDS + waited
        # Callers' leases last up to four seconds, and the holder may have had all of them.
        granted = lambda: self._acts.counted(began)["claimed"]  # noqa: E731
        wait(lambda: granted() or not self._busy, "others are granted leases meanwhile", 4 + SLACK_SECONDS)

    def _leader_dies(self, first: Act) -> None:
        """In the midst of everybody's claims; the holder is another one, or goes with it."""
        leader = self._cluster.leader(int(first.holder))
        assert leader is not None
        if leader == int(first.holder):
            self._another_acts("leader", first, lambda: self._cluster.kill(leader))
        else:
            killed = time.monotonic()
            self._cluster.kill(leader)
            granted = lambda: self._acts.counted(killed)["claimed"]  # noqa: E731
            wait(lambda: granted() or not self._busy, "leases are granted by the next leader", 4 + SLACK_SECONDS)
            wait(lambda: self._acts_since(killed + self._seconds), "acts go on", self._seconds + SLACK_SECONDS)
            latest = self._acts.latest()
            assert latest is not None and latest.token == first.token, "a leader's death takes no lease from anybody"
        self._cluster.start(leader)

    def _all_start_anew(self, first: Act) -> None:
        self._cluster.kill(*self.numbers)
        self._cluster.start(*self.numbers)
        began = time.monotonic()
        self._cluster.wait(lambda: self._cluster.serving(*self.numbers), "all serve", 40)
        serving = time.monotonic()
        other = self._first_act_by_another(first)
        waited = self._bystander.longest_wait(serving, max(serving, other.at))
        served, acted = serving - began, other.at - began
        print(f"{self._seconds:g} s, restart: they served after {served:.2f} s, one acted after {acted:.2f} s")
        assert other.at <= serving + self._seconds + 1 + waited

    def _remove(self, holder: int) -> None:
        self._cluster.kill(holder)
        self.numbers.remove(holder)
        self._cluster.configure(self.numbers, departed=[str(holder)])

    def _first_act_by_another(self, first: Act) -> Act:
        def another() -> Act | None:
            found = self._acts.latest()
            return found if found is not None and found.token > first.token else None

        other: Act = wait(another, f"somebody else than {first.holder} acts", self._seconds + 30)
        return min((act for act in self._acts.of[ACT.name] if act.token == other.token), key=lambda act: act.at)

    def _acts_since(self, moment: float) -> bool:
        latest = self._acts.latest()
        return latest is not None and latest.at > moment

    def _all_is_well(self) -> None:
        """Return when the next fault meets a whole cluster."""
        count = len(self.numbers)
        target = (min(3, count), max(0, count - 3), 0)
        there = lambda n: self._cluster.serving(n) and self._cluster.role_counts(n) == target  # noqa: E731
        self._cluster.wait(lambda: all(map(there, self.numbers)), f"all serve, with roles {target}", ROLES_SECONDS)
        now = time.monotonic()
        wait(lambda: self._acts_since(now + 0.5), "acts go on", self._seconds + SLACK_SECONDS)
        # One of a few seconds may have been cut off before it had found the next leader, and made its tables there.
        written = lambda: self._acts.counted(now)["written"]  # noqa: E731
        wait(written, "who acts writes through its fence as well", SLACK_SECONDS)


async def written(connector: OutsideConnector) -> list[Act]:
    """Return what was written through fences, in the order of the commits."""
    database = Database(connector, DATABASE)
    rows = (await database.read("SELECT id, epoch, count, holder FROM act ORDER BY id", deadline_seconds=30)).rows
    database.close()
    return [Act(float(str(i)), str(h), Token(int(str(e)), int(str(c)))) for i, e, c, h in rows]


def main(folder: Path, plan: dict[str, Any]) -> None:
    """`controllers` of which the first `managers` take part, a lease of `seconds`, `keys` that callers fight for, and
    `faults`, one after another. One manager's wall clock is an hour ahead, and another's an hour behind."""
    count = plan["controllers"]
    inside = {
        "managers": [str(n) for n in range(plan["managers"])],
        "seconds": plan["seconds"],
        "keys": plan["keys"],
        "wall": {"0": 3600.0, "1": -3600.0},
    }
    with CutCluster(folder) as cluster:
        cluster.program = [str(Path(__file__).with_name("actingcontrollerd.py")), str(folder), json.dumps(inside)]
        cluster.paths = PATHS
        cluster.form(count)
        acts = Acts(folder)
        wait(acts.latest, "somebody acts", 30)
        # Under TLS an outsider shows the certificate of the first one it is given, and low numbers act first.
        with Bystander(cluster.connector(*reversed(range(count))), ACT) as bystander:
            wait(lambda: bystander.sees_it, "the bystander sees the lease", 10)
            story = Story(cluster, acts, bystander, plan)
            for fault in plan["faults"]:
                story.play(fault)
        (folder / "enough").touch()
        acts.judge()
        through = asyncio.run(written(cluster.connector(*reversed(story.numbers))))
        judge(through)
        assert len({act.holder for act in through}) > 1
        counted = acts.counted()
        print(f"{sum(map(len, acts.of.values()))} acts, {len(through)} through the fence; {dict(counted)}")
        assert not plan["keys"] or {"claimed", "extended", "revoked", "waited", "denied"} <= counted.keys()
        print("told")


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))

"""What faults cost, as numbers: `python -m faultrun.measure [--runs N] [NAME…]` prints one JSON document.

    planned-stop   ms between two committed writes while the leader is stopped in order
    scale-to-one   s from the file that names one controller, after two died at once, to the first committed write
    frozen-peer    ms a write takes, in the median, before one follower is stopped and while it is
    black-holed-peer   the same with one that is cut off by DROP, on hosts of their own
    black-holed-leader   ms between two committed writes when the leader is cut off from the others by DROP

Each number comes from this machine as it is at this moment: the load average stands beside it.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from demo import history

from cutcluster import CutCluster
from faultrun.writer import Writer
from loopback import Cluster

_FROZEN_SECONDS = 25.0  # Role management queues a question a second on a pool of four: it shows after sixteen.
_NORMAL_SECONDS = 5.0


def planned_stop(folder: Path, runs: int) -> dict[str, Any]:
    """Stop whoever leads, again and again, under one writer that never rests."""
    gaps = []
    with Cluster(folder, block=64) as cluster:
        cluster.form(3)
        writer = Writer(cluster, range(3))
        with writer.writing():
            cluster.wait(writer.acknowledged, "the writer writes")
            for _ in range(runs):
                leader = cluster.leader(0)
                assert leader is not None
                begun = time.monotonic()
                assert cluster.terminate(leader) == 0
                cluster.wait(lambda begun=begun: writer.acknowledged(begun), "the writer goes on")
                cluster.start(leader)
                cluster.wait(lambda: whole(cluster), "three voters again", 40)
                gap = history.gap_ms(writer.attempts, history.Outage(begun, time.monotonic()))
                assert gap is not None
                gaps.append(gap)
        failed = sum(a.outcome != "acknowledged" for a in writer.attempts)
    return summary(gaps, "ms") | {"failed-writes": failed}


def scale_to_one(folder: Path, runs: int) -> dict[str, Any]:
    """Two of three die at once, and the configuration that names the third is there at that moment."""
    took = []
    for run in range(runs):
        (folder / str(run)).mkdir(parents=True)
        with Cluster(folder / str(run), block=65) as cluster:
            cluster.form(3)
            writer = Writer(cluster, [0], pause_seconds=0.01)
            with writer.writing():
                took.append(_lose_two(cluster, writer))
    return summary(took, "s")


def _lose_two(cluster: Cluster, writer: Writer) -> float:
    cluster.kill(1, 2)
    published = time.monotonic()
    cluster.configure([0], departed=["1", "2"])
    cluster.wait(lambda: cluster.epoch(0) == 2, "it goes on alone", 60)
    cluster.wait(lambda: writer.acknowledged(published), "and is writable", 60)
    first = history.first_acknowledged(writer.attempts, published)
    assert first is not None
    return round(first - published, 2)


def frozen_peer(folder: Path, runs: int) -> dict[str, Any]:
    """One follower of three is stopped for longer than any queue needs to fill."""
    with Cluster(folder, block=66) as cluster:
        cluster.form(3)
        return _slowed(
            cluster, runs, lambda n: cluster.signal(n, signal.SIGSTOP), lambda n: cluster.signal(n, signal.SIGCONT)
        )


def _black_hole(name: str, folder: Path, runs: int) -> dict[str, Any]:
    """One of three is cut off by DROP, in a network of its own."""
    command = ["unshare", "--net", sys.executable, "-m", "faultrun.measure", "--black-hole", str(folder), name]
    done = subprocess.run([*command, "--runs", str(runs)], stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _cut_off_peer(folder: Path, runs: int) -> dict[str, Any]:
    with CutCluster(folder) as cluster:
        cluster.form(3)
        return _slowed(cluster, runs, lambda n: cluster.cut(n, "both"), lambda _: cluster.heal())


def _cut_off_leader(folder: Path, runs: int) -> dict[str, Any]:
    """The writer is outside of the cut, so it reaches the old leader still, which cannot commit."""
    gaps = []
    with CutCluster(folder) as cluster:
        cluster.form(3)
        writer = Writer(cluster, range(3), pause_seconds=0.005)
        with writer.writing():
            cluster.wait(writer.acknowledged, "the writer writes")
            for _ in range(runs):
                leader = _leader_of_all(cluster)
                begun = time.monotonic()
                cluster.cut(leader, "both")
                another = (leader + 1) % 3
                cluster.wait(lambda: cluster.leader(another) not in (None, leader), "another leads")  # noqa: B023
                # What came just before the cut may be told after it.
                cluster.wait(lambda: writer.acknowledged(time.monotonic() - 0.05), "the writer goes on")
                cluster.heal()
                cluster.wait(lambda: whole(cluster), "three voters again", 150)
                gap = history.gap_ms(writer.attempts, history.Outage(begun, time.monotonic()))
                assert gap is not None
                gaps.append(gap)
    return summary(gaps, "ms")


def _leader_of_all(cluster: Cluster) -> int:
    told: set[int | None] = set()

    def agreed() -> bool:
        told.clear()
        told.update(cluster.leader(n) for n in range(3))
        return len(told) == 1 and None not in told

    cluster.wait(agreed, "all follow one leader")
    leader = told.pop()
    assert leader is not None
    return leader


_IN_A_NETWORK_OF_ITS_OWN = {"black-holed-peer": _cut_off_peer, "black-holed-leader": _cut_off_leader}


def _slowed(
    cluster: Cluster, runs: int, begin: Callable[[int], object], end: Callable[[int], object]
) -> dict[str, Any]:
    """What a write takes before something happens to one follower, and half of the time into it."""
    normal, slowed = [], []
    for _ in range(runs):
        leader = cluster.leader(0)
        peer = next(n for n in range(3) if n != leader)
        writer = Writer(cluster, [n for n in range(3) if n != peer], pause_seconds=0.005)
        with writer.writing():
            time.sleep(_NORMAL_SECONDS)
            began = time.monotonic()
            begin(peer)
            time.sleep(_FROZEN_SECONDS)
            ended = time.monotonic()
            end(peer)
        done = writer.acknowledged()
        normal += [a.done - a.sent for a in done if a.done < began]
        slowed += [a.done - a.sent for a in done if began + _FROZEN_SECONDS / 2 < a.sent and a.done < ended]
        cluster.wait(lambda: whole(cluster), "three voters again", 40)
    before, during = statistics.median(normal) * 1000, statistics.median(slowed) * 1000
    return {"unit": "ms", "normal": round(before, 2), "slowed": round(during, 2), "ratio": round(during / before, 2)}


MEASURES: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "planned-stop": planned_stop,
    "scale-to-one": scale_to_one,
    "frozen-peer": frozen_peer,
    **{name: functools.partial(_black_hole, name) for name in _IN_A_NETWORK_OF_ITS_OWN},
}


def whole(cluster: Cluster) -> bool:
    """Whether all three serve and are voters, as each of them sees it."""
    return cluster.serving(0, 1, 2) and all(cluster.role_counts(n) == (3, 0, 0) for n in range(3))


def summary(values: list[float], unit: str) -> dict[str, Any]:
    return {"unit": unit, "median": statistics.median(values), "least": min(values), "most": max(values), "all": values}


def main() -> None:
    parser = argparse.ArgumentParser(prog="faultrun.measure")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--black-hole", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MEASURES))
    wanted = parser.parse_args()
    if wanted.black_hole is not None:
        print(json.dumps(_IN_A_NETWORK_OF_ITS_OWN[wanted.names[0]](wanted.black_hole, wanted.runs)))
        return
    found = {}
    for name in wanted.names or MEASURES:
        with tempfile.TemporaryDirectory(prefix="ha-controller-") as folder:
            found[name] = MEASURES[name](Path(folder), wanted.runs) | {"load": [round(x, 1) for x in os.getloadavg()]}
            print(f"{name}: {found[name]}", file=sys.stderr, flush=True)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()

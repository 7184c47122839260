"""Units of the real charm under real faults: grown and shrunk with a fault at every step, and tormented by a seed."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from localjuju.client import Client

from faultrun import client, nemesis, verdict
from faultrun.clients import OPS, Clients
from faultrun.onlocaljuju import JujuStage

# Five in one run: what costs most are the hooks of new units.
SEEDS = [int(seed) for seed in os.environ.get("HA_CONTROLLER_SEEDS", "11 12 13 14 15").split()]
SECONDS = float(os.environ.get("HA_CONTROLLER_FAULT_SECONDS", "5"))
WANTED = {"one": ("append=2", "count=1", "register=1"), "two": ("register=2", "late=3", "bank=2")}

# Five units and back cost a hundred hooks each.
JOURNEYS = [int(seed) for seed in os.environ.get("HA_CONTROLLER_SEEDS", "4 7 9 15 19").split()]

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
    pytest.mark.timeout(900 + 2 * SECONDS * len(SEEDS)),
]


@contextlib.contextmanager
def stage(folder: Path, seed: int) -> Iterator[tuple[JujuStage, Clients]]:
    """A run of localjuju with clients beside it; its logs stay in the folder."""
    juju = Client(folder / "home")
    juju.bootstrap(die_with=os.getpid(), keep_logs=folder / "logs")
    try:
        with Clients(folder / "history", seed, juju.inside) as clients:
            yield JujuStage(juju, clients, folder / "history"), clients
    finally:
        juju.destroy()


def judge(made: JujuStage, clients: Clients, again: str) -> None:
    """Let everybody live, end the clients, read everything, and judge."""
    healed = made.mend()
    clients.finish()
    made.read_everything()
    result = verdict.judge(clients.events(), client.ACCOUNTS * client.BALANCE)
    print(f"whole again after {healed:.1f} s\n{result}")
    assert not result.problems, f"{again}\n{result}"
    for op in OPS:
        assert result.acknowledged(op) > 1, f"the run proves nothing about {op}: {result}; {again}"


@pytest.mark.long
@pytest.mark.parametrize("seed", JOURNEYS)
def test_from_one_to_five_and_back_with_a_fault_at_each_size(tmp_path: Path, seed: int):
    """A kill, a stop, a cut, a one-way cut and a power cut, in an order by the seed, changes under way among them."""
    again = f"HA_CONTROLLER_SEEDS={seed} python -m pytest tests/cluster/test_charm_faults.py -k each_size"
    with stage(tmp_path, seed) as (made, clients):
        made.form(1)
        made.start_clients(WANTED)
        nemesis.travel(made, seed)
        judge(made, clients, f"{again}; history in {tmp_path}")


def test_units_under_random_faults_keep_every_promise(tmp_path: Path):
    """One seed after another, on one cluster that is whole in between; the history is judged as one."""
    seeds = " ".join(map(str, SEEDS))
    again = f'HA_CONTROLLER_SEEDS="{seeds}" python -m pytest tests/cluster/test_charm_faults.py -k random'
    with stage(tmp_path, SEEDS[0]) as (made, clients):
        made.form(3)
        made.start_clients(WANTED)
        for seed in SEEDS:
            made.tell("seed", seed=seed, at=time.monotonic())
            nemesis.torment(made, seed, SECONDS)
            healed = made.mend()
            made.tell("whole", seed=seed, seconds=healed, at=time.monotonic())
        judge(made, clients, f"{again}; history in {tmp_path}")


# New connections to other controllers are refused here, and established ones work: role management probes anew.
_REFUSE = """
add table inet faults
add chain inet faults out { type filter hook output priority 0; }
add rule inet faults out tcp dport 17666 tcp flags & (syn | ack) == syn counter reject with tcp reset
"""


@pytest.mark.long
def test_a_second_without_new_connections_from_the_leader_demotes_nobody(tmp_path: Path):
    with stage(tmp_path, 0) as (made, clients):
        made.form(3)
        made.start_clients(WANTED)
        leader = made.leader()
        assert leader is not None
        before = made.status(leader)["cluster"]
        refused = 0
        seen = []
        for _ in range(3):
            made.on(leader, "nft", *_REFUSE.strip().splitlines())
            seen += watched(made, 1.0)
            refused += int(made.on(leader, "nft", "list chain inet faults out").partition("packets ")[2].split()[0])
            made.on(leader, "nft", "delete table inet faults")
            seen += watched(made, 2.0)
        judge(made, clients, f"python -m pytest tests/cluster/test_charm_faults.py -k second; history in {tmp_path}")

    assert refused, "no connection was tried, so nothing was proved"
    assert [s for s in seen if s != (before["leader"], ["voter"] * 3)] == []


def watched(made: JujuStage, seconds: float) -> list[tuple[str, list[str]]]:
    """What every controller says for so long: who leads, and the roles."""
    until = time.monotonic() + seconds
    seen = []
    while time.monotonic() < until:
        for unit in made.controllers():
            section = made.status(unit).get("cluster")
            if section is not None:  # One that does not answer in time says nothing.
                seen.append((section["leader"], [m["role"] for m in section["members"]]))
        time.sleep(0.05)
    return seen


@pytest.mark.long
def test_one_to_five_and_back_with_every_fault_at_every_step(tmp_path: Path):
    """1 → 3 → 5 → 3 → 1, orderly; at each size a kill, a stop, a cut, a one-way cut and a power cut."""
    dice = random.Random(0)
    with stage(tmp_path, 0) as (made, clients):
        made.form(1)
        made.start_clients(WANTED)
        for count in (1, 3, 5, 3, 1):
            while len(made.controllers()) < count:
                made.add(dice, "")
            while (size := len(made.controllers())) > count:
                # Whoever leads, as long as somebody does: the leaver that is felt most.
                made.remove(dice, made.leader() or made.controllers()[0])
                made.until_whole(size - 1)
            made.until_whole(count)
            for name in ("kill", "pause", "cut", "one-way cut", "power cut"):
                if name not in made.faults():
                    continue
                victim = made.leader() or made.controllers()[-1]
                with made.faults()[name](dice, victim):
                    made.tell("fault", name=name, victim=victim, size=count, at=time.monotonic())
                    time.sleep(1.5)
                took = made.until_whole(count)
                made.tell("whole", name=name, size=count, seconds=took, at=time.monotonic())
        judge(made, clients, f"python -m pytest tests/cluster/test_charm_faults.py -k five; history in {tmp_path}")

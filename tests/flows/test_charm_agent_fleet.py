"""A hundred real agents, and units of the real charm that are killed, stopped, removed, added and re-addressed.

The agents are tasks of one process in the run's network (tests/support/agentfleet.py), which also watches their files
all the time: none is ever empty, torn, rewritten without a change, or left with dead addresses alone. Here the faults
are made, and each agent has to be connected, with the list that is published, within five seconds of there being one.
"""

from __future__ import annotations

import json
import os
import random
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from localjuju.client import Client

import pulserun
from agentfleet import Fleet

ROOT = Path(__file__).parents[2]
APP = "controller"
PROGRAM = ROOT / "tests/support/agentfleet.py"
LIB = ROOT / "lib"
CONNECTED_SECONDS = 5.0
# An address that is taken away says no goodbye: whoever is connected there notices by the kernel's probes.
SILENCE_SECONDS = 4.0
# Until hooks have run, a node has joined or left, and the list is published.
PUBLISHED_SECONDS = 120.0
MEMBERS = 3

_ENROL = """
import json, sys
from pathlib import Path
from dbaccessor import confsocket
found = []
for number in range(int(sys.argv[1])):
    body = json.dumps({"number": number}).encode()
    status, answer = confsocket.request(
        Path("/var/lib/ha-controller/control.socket"), "POST", "/machines/enrol", body, timeout_seconds=25
    )
    assert status == 200, answer
    found.append(json.loads(answer)["agent-conf"])
print(json.dumps(found))
"""


class Run:
    """The units, the address of each that agents are sent to, and the fleet."""

    def __init__(self, client: Client, folder: Path, count: int, seed: int) -> None:
        self.client = client
        self.folder = folder / "agents"
        self.count = count
        self.dice = random.Random(seed)
        self.addresses: dict[str, str] = {}
        self.dead: set[str] = set()
        self.steps: Counter[str] = Counter()
        self.slowest = 0.0
        # Those whose controller was taken away, and how often they had connected before that.
        self.cut_off: dict[str, int] = {}
        self.ever_cut_off = 0
        self._next_host = 100
        self._process: subprocess.Popen[bytes] | None = None

    def bring_up(self) -> None:
        """Units with a network for agents alone, which they are sent to; and the agents."""
        self.client.call("add-space", name="front", cidr="10.77.0.0/24")
        self.client.call("add-space", name="backend", cidr="10.99.0.0/24")
        network = ["10.99.0.0/24"]
        self.client.call(
            "deploy", path=str(ROOT), name=APP, units=MEMBERS, bind={"db-cluster": "front"}, extra_address=network
        )
        self.addresses = {f"{APP}/{n}": f"10.99.0.{10 + n}" for n in range(MEMBERS)}
        self.client.wait_settled(120)
        pulserun.until(lambda: self.hactl("add-space", "mgmt", *network).returncode == 0, 60, "a leader")
        assert self.hactl("controller-config", "juju-mgmt-space=mgmt").returncode == 0
        self.wait_until_published()
        done = self.hactl("add-machine", "--manual", "-n", str(self.count))
        assert done.returncode == 0, done
        line = ["env", f"PYTHONPATH={LIB}", sys.executable, "-c", _ENROL, str(self.count)]
        done = self.client.exec(self.any(), line, timeout_seconds=120)
        assert done.returncode == 0, done
        for number, text in enumerate(json.loads(done.stdout)):
            conf = self.folder / f"machine-{number}" / "agent.conf"
            conf.parent.mkdir(parents=True)
            conf.touch(mode=0o600)
            conf.write_text(text)
        self.write_dead()
        line = self.client.inside([sys.executable, str(PROGRAM), str(self.folder)])
        self._process = subprocess.Popen(line, env={**os.environ, "PYTHONPATH": str(LIB)})
        self.settled(60)

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def any(self) -> str:
        """The one that is there longest: a new one's host may not be up yet."""
        return next(iter(self.addresses))

    def hactl(self, *words: str, unit: str = "") -> subprocess.CompletedProcess[str]:
        return self.client.exec(unit or self.any(), ["hactl", *words])

    def write_dead(self) -> None:
        new = self.folder / ".dead.json.new"
        new.write_bytes(msgspec.json.encode(sorted(f"{address}:17070" for address in self.dead)))
        new.rename(self.folder / "dead.json")

    def wanted(self) -> set[str]:
        return {f"{address}:17070" for address in self.addresses.values()}

    def wait_until_published(self, unit: str = "") -> None:
        def published() -> bool:
            done = self.hactl("spaces", "--format", "json", unit=unit)
            found = json.loads(done.stdout)["agents"] if done.returncode == 0 else {}
            return {address for group in found.values() for address in group} == self.wanted()

        pulserun.until(published, PUBLISHED_SECONDS, f"{self.wanted()} to be published")

    # What must hold.

    def fleet(self) -> Fleet:
        try:
            return msgspec.json.decode((self.folder / "fleet.json").read_bytes(), type=Fleet)
        except FileNotFoundError:
            return Fleet()

    def settled(self, seconds: float = CONNECTED_SECONDS) -> None:
        """From now on within so many seconds each agent is connected, and has the published list.

        Those that were cut off have to have come in once more: a connection that is shown may be one that is no more.
        """
        began = time.monotonic()
        while late := self.late():
            assert self._process is not None
            assert self._process.poll() is None, "the fleet's process has ended"
            some = dict(list(late.items())[:3])
            assert time.monotonic() - began < seconds, f"{len(late)} are late, wanted is {self.wanted()}: {some}"
            select.select([], [], [], 0.1)
        took = time.monotonic() - began
        print(f"settled after {took:.1f} s, {len(self.cut_off)} had been cut off")
        if seconds == CONNECTED_SECONDS:
            self.slowest = max(self.slowest, took)

    def late(self) -> dict[str, object]:
        fleet, wanted = self.fleet(), self.wanted()
        assert fleet.broken == []
        late: dict[str, object] = {
            tag: msgspec.to_builtins(seen)
            for tag, seen in fleet.agents.items()
            if seen.address not in wanted
            or set(seen.addresses) != wanted
            or seen.connections <= self.cut_off.get(tag, 0)
        }
        return late if fleet.agents else {"all": "not started yet"}

    # Faults.

    def note_cut_off(self, *units: str) -> None:
        places = {f"{self.addresses[unit]}:17070" for unit in units}
        self.cut_off = {tag: seen.connections for tag, seen in self.fleet().agents.items() if seen.address in places}
        self.ever_cut_off += len(self.cut_off)

    def kill_one(self) -> None:
        unit = self.dice.choice(sorted(self.addresses))
        self.note_cut_off(unit)
        self.client.call("kill", unit=unit)

    def lose_the_quorum(self) -> None:
        *stopped, left = self.dice.sample(sorted(self.addresses), MEMBERS)
        self.note_cut_off(*stopped)
        # Killed first: one that stops in order gives its vote away, and then the last one may go on alone.
        kill = "systemctl kill --kill-whom=main --signal=SIGKILL ha-controller; systemctl stop ha-controller"
        for unit in stopped:
            done = self.client.exec(unit, ["sh", "-c", kill])
            assert done.returncode == 0, done
        pulserun.until(lambda: self.hactl("status", unit=left).returncode == 4, 30, "no quorum")
        # What is waited for is an outage of some length: agents are turned away meanwhile.
        select.select([], [], [], self.dice.uniform(1, 6))
        for unit in stopped:
            assert self.client.exec(unit, ["systemctl", "start", "ha-controller"]).returncode == 0
        pulserun.until(lambda: self.hactl("status", unit=left).returncode != 4, 60, "a quorum again")

    def readdress_one(self) -> None:
        unit = self.dice.choice(sorted(self.addresses))
        self.note_cut_off(unit)
        old, new = self.addresses[unit], f"10.99.0.{self._next_host}"
        self._next_host += 1
        card = self.client.call("add-address", unit=unit, cidr=f"{new}/24")["interface"]
        # The kernel takes the later addresses of a subnet along with its first one.
        moved = f"ip address del {old}/24 dev {card} && ip address replace {new}/24 dev {card}"
        assert self.client.exec(unit, ["sh", "-c", moved]).returncode == 0
        self.addresses[unit] = new
        self.dead.add(old)
        self.write_dead()
        self.wait_until_published()
        self.settled(SILENCE_SECONDS + CONNECTED_SECONDS)

    def replace_one(self) -> None:
        leaves = self.dice.choice(sorted(self.addresses))
        (unit,) = self.client.call("add-unit", app=APP, extra_address=["10.99.0.0/24"])["units"]
        self.addresses[unit] = f"10.99.0.{10 + int(unit.rpartition('/')[2])}"
        self.dead.discard(self.addresses[unit])
        self.write_dead()
        self.wait_until_published()
        self.settled()
        self.note_cut_off(leaves)
        self.client.call("remove-unit", units=[leaves])
        gone = self.addresses.pop(leaves)
        self.client.wait(lambda _: leaves not in self.client.units(APP), PUBLISHED_SECONDS, f"{leaves} to be gone")
        self.dead.add(gone)
        self.write_dead()
        self.wait_until_published()

    def play(self, seconds: float) -> None:
        faults: list[Callable[[], None]] = [
            self.kill_one,
            self.lose_the_quorum,
            self.readdress_one,
            self.replace_one,
        ]
        end = time.monotonic() + seconds
        round_: list[Callable[[], None]] = []
        while time.monotonic() < end or round_:
            round_ = round_ or self.dice.sample(faults, len(faults))
            fault = round_.pop()
            self.cut_off = {}
            print(f"{fault.__name__}:")
            fault()
            self.settled()
            self.steps[fault.__name__] += 1


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A hundred machines have a hundred disks; one would have two hundred files to make durable at one moment."""
    with tempfile.TemporaryDirectory(prefix="ha-controller-fleet-", dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("count", "seconds"),
    [pytest.param(12, 1, id="each-fault-once"), pytest.param(100, 300, id="a-hundred-for-five-minutes")],
)
def test_no_agent_is_stranded_by_anything_that_happens_to_units(
    client: Client, in_memory: Path, count: int, seconds: float
):
    seed = int(os.environ.get("HA_CONTROLLER_SEEDS", "17").split()[0])
    run = Run(client, in_memory, count, seed)
    try:
        run.bring_up()
        run.play(seconds)
        fleet = run.fleet()
    finally:
        run.end()
    told = f"{run.ever_cut_off} agents cut off, {fleet.looks} looks, slowest {run.slowest:.1f} s"
    print(f"seed {seed}: {dict(run.steps)}, {told}")
    assert fleet.broken == []
    assert len(run.steps) == 4
    assert run.ever_cut_off > count, "faults that cut nobody off would show nothing"
    for tag, seen in fleet.agents.items():
        # A list is first written beside the old one and then alone, so twice at most; a file that a list changed
        # without a write, or the other way round, would be somebody else's.
        assert 0 < seen.changes <= 2 * (run.steps["readdress_one"] + 2 * run.steps["replace_one"]) + 1, (tag, seen)

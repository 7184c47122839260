"""The management space end to end: real controllers with two networks, agents that follow, a client that does not.

Set, changed, unknown, unset, and without an address on one controller: first by hactl, then by the charm's option and
binding. Agents and client are processes of their own in the run's network, and judged by the files they keep.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from localjuju.client import Client

import pulserun
from agentdprocess import Agentd
from controller.api.agent.agentfile import AgentConfFile
from controller.api.client.store import Store
from outsider import Outsider

ROOT = Path(__file__).parents[2]
APP = "controller"
UNITS = [f"{APP}/{n}" for n in range(2)]
# What is promised from a setting to agents' files. An option of the charm has to go through hooks first.
FOLLOW_SECONDS = 5.0
HOOKS_SECONDS = 30.0
FRONT = ("10.77.0.10", "10.77.0.11")
BACK = ("10.99.0.10", "10.99.0.11")
OUTSIDE = "controller 1 has no address in juju-mgmt-space"


class Run:
    """Two units, of which the first has an address in `backend` too; two agents; a client that has registered."""

    def __init__(self, client: Client, folder: Path, stack: ExitStack) -> None:
        self.client = client
        self.her = Outsider(client, folder / "hers")
        self._store = Store(folder / "hers")
        client.call("add-space", name="front", cidr="10.77.0.0/24")
        client.call("add-space", name="backend", cidr="10.99.0.0/24")
        client.call("deploy", path=str(ROOT), name=APP, units=2, bind={"db-cluster": "front"})
        client.call("add-address", unit=UNITS[0], cidr="10.99.0.0/24")
        self.wait_until_both_are_published()
        text = self.on_unit("registration").stdout
        done = self.her.hactl("register", "--name", "prod", stdin=f"{text.strip()}\ncorrect horse battery\n")
        assert done.returncode == 0, done
        self.agents = [AgentConfFile(self._enrolled(folder, number)) for number in range(2)]
        self._agentds = [stack.enter_context(Agentd(a.path, client.inside([]))) for a in self.agents]
        pulserun.until(lambda: all(a.controller() for a in self._agentds), 30, "both agents are connected")
        self.clients = self.client_list()

    def _enrolled(self, folder: Path, number: int) -> Path:
        assert self.on_unit("add-machine", "--manual").returncode == 0
        conf = folder / f"machine-{number}" / "agent.conf"
        conf.parent.mkdir()
        conf.touch(mode=0o600)
        conf.write_text(self.on_unit("enrol-machine", str(number)).stdout)
        return conf

    def on_unit(self, *words: str, unit: str = UNITS[0]) -> Any:
        return self.client.exec(unit, ["hactl", *words])

    def ask(self, *words: str, unit: str = UNITS[0]) -> Any:
        done = self.on_unit(*words, "--format", "json", unit=unit)
        assert done.stdout, done
        return json.loads(done.stdout)

    def wait_until_both_are_published(self) -> None:
        def both() -> bool:
            done = self.on_unit("spaces", "--format", "json")
            found = json.loads(done.stdout) if done.returncode == 0 else {"agents": {}}
            return {i: len(addresses) for i, addresses in found["agents"].items()} == {"0": 2, "1": 1}

        self.client.wait_settled(120)
        pulserun.until(both, 60, "both controllers in the lists, the first with two addresses")

    def client_list(self) -> list[str]:
        """What she has in her file, after a login that would have brought it up to date."""
        self.her.ask("show-controller")
        entry = self._store.find("prod").entry
        return sorted(entry.api_endpoints)

    def follows(self, wanted: set[str], what: str, seconds: float = FOLLOW_SECONDS) -> None:
        """The files of both agents come to hold exactly these, in time, and the client's stays what it was."""
        at = time.monotonic()
        pulserun.until(lambda: all(self.list_of(agent) == wanted for agent in self.agents), seconds, what)
        print(f"{what}: {time.monotonic() - at:.1f} s")
        assert self.client_list() == self.clients, "clients' lists never move"
        pulserun.until(lambda: all(a.controller() for a in self._agentds), 10, "and both are connected")

    def list_of(self, agent: AgentConfFile) -> set[str]:
        found = {address.host for address in agent.read().apiaddresses}
        assert found, "never empty, not for a moment"
        return found

    def says(self, fact: Callable[[list[str]], bool], what: str) -> None:
        """The status of both controllers, and the one that the client sees from afar, come to say this."""

        def said() -> bool:
            told = [self.ask("status", unit=unit) for unit in UNITS] + [self.her.ask("status")]
            return all(fact(document["address-notes"]) for document in told)

        pulserun.until(said, FOLLOW_SECONDS, what)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """One run for both tests: each begins and ends without a space."""
    folder = tmp_path_factory.mktemp("space")
    client = Client(folder / "run")
    client.bootstrap(die_with=os.getpid(), update_status_interval=600)
    with ExitStack() as stack:
        stack.callback(client.destroy)
        yield Run(client, folder, stack)


def silent(notes: list[str]) -> bool:
    return not notes


def falls_back(notes: list[str]) -> bool:
    return len(notes) == 1 and OUTSIDE in notes[0] and "agents get all of its addresses" in notes[0]


@pytest.mark.slow
@pytest.mark.timeout(290)
def test_agents_follow_the_space_that_an_operator_sets_and_clients_never_do(run: Run):
    everything = {FRONT[0], BACK[0], FRONT[1]}
    run.follows(everything, "no space is set", 30)
    machines = run.ask("machines")["machines"]
    assert [m["state"] for m in machines] == ["started", "started"], "the agents of both have come"

    run.ask("add-space", "mgmt", "10.99.0.0/24")
    run.ask("controller-config", "juju-mgmt-space=mgmt")
    run.follows({BACK[0], FRONT[1]}, "set, and the second controller has no address there")
    run.says(falls_back, "the fallback stands in every status")
    assert OUTSIDE in run.on_unit("status").stdout, "and in its text"
    assert run.on_unit("status").returncode == run.her.hactl("status").returncode

    run.ask("controller-config", "juju-mgmt-space=alpha")
    run.follows({FRONT[0], FRONT[1]}, "changed to another space")
    run.says(silent, "nothing is left to say")

    run.ask("controller-config", "juju-mgmt-space=nowhere")
    run.follows(everything, "an unknown space")
    run.says(lambda notes: ["no space has that name" in n for n in notes] == [True], "it is said")

    run.ask("controller-config", "juju-mgmt-space=mgmt")
    run.follows({BACK[0], FRONT[1]}, "and back")
    run.ask("controller-config", "juju-mgmt-space=")
    run.follows(everything, "unset")
    run.says(silent, "nothing is left to say")
    run.ask("remove-space", "mgmt")


@pytest.mark.slow
@pytest.mark.timeout(290)
def test_the_charm_s_option_sets_the_space_and_nobody_else_may(run: Run):
    everything = {FRONT[0], BACK[0], FRONT[1]}
    run.follows(everything, "no space is set", 30)
    processes = [main_process(run, unit) for unit in UNITS]

    def configure(**changes: str) -> None:
        run.client.call("config", app=APP, changes={key.replace("_", "-"): value for key, value in changes.items()})

    # Only one unit has an answer for the binding; the other says so, and adds nothing.
    run.client.call("bind", app=APP, bindings={"management": "backend"}, force=True)
    configure(juju_mgmt_space="backend")
    run.follows({BACK[0], FRONT[1]}, "the option, with an address on one unit", HOOKS_SECONDS)
    run.says(falls_back, "the fallback stands in every status")
    run.client.wait_settled(60)
    assert workload(run, 1)[0] == "waiting"
    assert 'juju-mgmt-space is backend: network-get failed: ERROR machine "1" has no devices' in workload(run, 1)[1]
    action = run.client.call("run", unit=UNITS[1], action="get-cluster")[UNITS[1]]
    assert OUTSIDE in action["results"]["address-notes"]
    assert run.ask("spaces")["charm-space"] == "backend"
    generation = run.ask("status")["conf"]["generation"]

    # It is the charm's.
    for words in (
        ("controller-config", "juju-mgmt-space=other"),
        ("controller-config", "juju-mgmt-space="),
        ("add-space", "backend", "10.99.0.0/24"),
        ("add-space", "other", "10.99.0.0/25"),
        ("remove-space", "backend"),
    ):
        done = run.on_unit(*words, unit=UNITS[1])
        assert done.returncode == 1, done
        assert "the charm's option juju-mgmt-space" in done.stderr
        assert "juju config controller juju-mgmt-space=" in done.stderr
    said = run.her.call("Controller", 11, "ConfigSet", {"config": {"juju-mgmt-space": "other"}})
    assert "juju config controller juju-mgmt-space=" in said
    configure(juju_mgmt_space="Not A Name")
    run.client.wait(lambda _: all(workload(run, n)[0] == "blocked" for n in range(2)), 30, "a bad name blocks")
    assert "option juju-mgmt-space: 'Not A Name' is no name of a space" in workload(run, 0)[1]
    assert run.list_of(run.agents[0]) == {BACK[0], FRONT[1]}, "and what was in force stays"
    configure(juju_mgmt_space="backend")

    # The network grows, the name changes, and no node is restarted for any of it.
    run.client.call("add-address", unit=UNITS[1], cidr="10.99.0.0/24")
    run.clients = sorted([*run.clients, f"{BACK[1]}:17070"])
    run.follows(set(BACK), "an address on the other unit, too", HOOKS_SECONDS)
    run.says(silent, "nothing is left to say")
    run.client.wait(lambda _: all(workload(run, n)[0] == "active" for n in range(2)), 30, "both are active again")
    configure(juju_mgmt_space="agents")
    pulserun.until(lambda: run.ask("spaces")["management-space"] == "agents", HOOKS_SECONDS, "the new name")
    assert [s["name"] for s in run.ask("spaces")["spaces"]] == ["agents", "alpha"]
    run.follows(set(BACK), "another name for the same subnets")
    assert run.ask("status")["conf"]["generation"] > generation

    run.client.call("config", app=APP, reset=["juju-mgmt-space"])
    run.follows({*FRONT, *BACK}, "the option is unset", HOOKS_SECONDS)
    assert [s["name"] for s in run.ask("spaces")["spaces"]] == ["alpha"], "and takes its space away"
    run.ask("add-space", "hers", "10.77.0.0/24")
    run.ask("controller-config", "juju-mgmt-space=hers")
    run.follows(set(FRONT), "the operator's again")
    run.ask("controller-config", "juju-mgmt-space=")
    assert [main_process(run, unit) for unit in UNITS] == processes


def workload(run: Run, number: int) -> tuple[str, str]:
    status = run.client.units(APP)[UNITS[number]]["workload-status"]
    return status["current"], status.get("message", "")


def main_process(run: Run, unit: str) -> str:
    shown = run.client.exec(unit, ["systemctl", "show", "ha-controller", "--property", "MainPID"]).stdout.strip()
    assert shown.startswith("MainPID=") and not shown.endswith("=0"), shown
    return shown

"""Machines on real controllers and a real Dqlite, with localjuju's cloud without hosts as their provider."""

from __future__ import annotations

import json
import signal
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from localjuju.cloud import BadSpec
from prometheus_client.parser import text_string_to_metric_families

import hactl
import hostlesscloud
from dbaccessor import confsocket
from loopback import Cluster


@dataclass
class Provided:
    url: str
    log: Path
    hosts: hostlesscloud.NoHosts

    def lives(self) -> dict[str, list[str]]:
        return hostlesscloud.lives(self.log)


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Provided]:
    hosts = hostlesscloud.NoHosts()
    with hostlesscloud.beside(tmp_path / "cloud.log", hosts) as url:
        yield Provided(url, tmp_path / "cloud.log", hosts)


def machines(cluster: Cluster, n: int, model: str = "controller") -> list[dict[str, Any]]:
    status, answer = cluster.request(n, "POST", "/machines", 20, {"model": model})
    return answer["machines"] if status == 200 else []


def states(cluster: Cluster, n: int, model: str = "controller") -> list[str]:
    return [m["state"] for m in machines(cluster, n, model)]


def holder(cluster: Cluster, n: int) -> int | None:
    """Who is responsible for the controllers' own model."""
    question = {
        "namespace": "leases",
        "sql": "SELECT holder FROM lease WHERE model = ?",
        "params": [hactl.ask(cluster.state_dir(n), "models")["models"][0]["uuid"]],
    }
    status, answer = cluster.request(n, "POST", "/sql", 20, question)
    return int(answer["rows"][0][0]) if status == 200 and answer["rows"] and answer["rows"][0][0] else None


def provide(cluster: Cluster, cloud: Provided) -> None:
    """Set the provider, as soon as anybody can be told."""
    setting = {"key": "local-provider", "value": cloud.url}
    cluster.wait(lambda: cluster.request(0, "POST", "/controller-config", 20, setting)[0] == 200, "it serves")


def add(cluster: Cluster, n: int, count: int) -> list[str]:
    """Add machines; ask again as long as there is any doubt. Returns their uuids."""
    uuids = [str(uuid.uuid4()) for _ in range(count)]

    def added() -> bool:
        return cluster.request(n, "POST", "/machines/add", 30, {"uuids": uuids})[0] == 200

    cluster.wait(added, f"{count} machines to be added", 30)
    return uuids


def test_machines_come_and_go_by_hand(cluster: Cluster, cloud: Provided):
    cluster.form(1)
    cluster.wait(lambda: machines(cluster, 0) == [] and holder(cluster, 0) == 0, "somebody is responsible", 30)
    here = cluster.state_dir(0)

    done = hactl.run(here, "add-machine", "-n", "2")
    assert (done.returncode, done.stdout) == (0, "machine 0 added: pending\nmachine 1 added: pending\n")
    hactl.ask(here, "add-machine", "--manual")
    cluster.wait(lambda: "no provider" in machines(cluster, 0)[0]["reason"], "they say what they wait for")
    text = hactl.run(here, "machines").stdout.splitlines()
    assert text[0].split() == ["MACHINE", "STATE", "INSTANCE", "ADDRESS", "REASON"]
    assert text[1].endswith("no provider: set one with hactl controller-config local-provider=URL")
    assert text[3].endswith("manual: waits for its agent")

    # The setting: unknown keys and wrong values name what would do.
    assert "http://HOST:PORT" in hactl.run(here, "controller-config", "local-provider=nonsense").stderr
    assert hactl.run(here, "controller-config", "local-provider=nonsense").returncode == 1
    assert "there are local-provider" in hactl.run(here, "controller-config", "nonsense=1").stderr
    assert hactl.run(here, "controller-config", "nonsense").returncode == 1
    assert hactl.run(here, "controller-config", f"local-provider={cloud.url}").returncode == 0
    assert hactl.run(here, "controller-config", "local-provider").stdout == f"{cloud.url}\n"
    assert hactl.ask(here, "controller-config")["settings"]["local-provider"] == cloud.url

    cluster.wait(lambda: states(cluster, 0) == ["started", "started", "pending"], "both to be started")
    first, second, manual = hactl.ask(here, "machines")["machines"]
    assert (first["number"], first["reason"], first["manual"], manual["manual"]) == (0, "", False, True)
    assert first["instance"].startswith("i-") and first["address"].startswith("10.0.0.")
    assert cloud.lives() == {m["uuid"]: ["start", "running"] for m in (first, second)}
    specs = {s["hostname"]: s for s in cloud.hosts.specs}
    files = {f["path"]: f["text"] for f in specs["machine-0"]["files"]}
    assert json.loads(files["/var/lib/ha-agent/machine.json"])["uuid"] == first["uuid"]
    assert specs["machine-0"]["tags"]["controller"] == "loopback"

    assert (
        hactl.run(here, "remove-machine", "0", "2").stdout
        == "machine 0 removed: stopping\nmachine 2 removed: stopped\n"
    )
    cluster.wait(lambda: states(cluster, 0) == ["stopped", "started", "stopped"], "it to be stopped")
    assert cloud.lives()[first["uuid"]] == ["start", "running", "stop", "stopped"]
    assert [m["number"] for m in hactl.ask(here, "machines")["machines"]] == [1]
    assert [m["number"] for m in hactl.ask(here, "machines", "--all")["machines"]] == [0, 1, 2]
    unknown = hactl.run(here, "remove-machine", "7")
    assert (unknown.returncode, unknown.stderr) == (1, "hactl: there is no machine 7\n")
    assert hactl.run(here, "machines", "--model", "nonsense").returncode == 1
    assert hactl.ask(here, "add-machine")["machines"][0]["number"] == 3


def counted(cluster: Cluster, n: int) -> dict[tuple[str, ...], float]:
    """What the controller's metrics page says of machines and leases."""
    status, body = confsocket.request(cluster.state_dir(n) / confsocket.CONTROL, "GET", "/metrics")
    assert status == 200
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
        if sample.name.startswith(("ha_controller_machine", "ha_controller_lease"))
    }


def test_what_failed_for_good_is_tried_again_by_an_operator_and_counted(cluster: Cluster, cloud: Provided):
    cluster.form(1)
    here = cluster.state_dir(0)
    provide(cluster, cloud)
    cloud.hosts.troubles = [BadSpec("there is no such image")]
    hactl.ask(here, "add-machine")
    cluster.wait(lambda: states(cluster, 0) == ["error"], "it to be refused")
    assert "there is no such image" in hactl.run(here, "machines").stdout

    unknown = hactl.run(here, "retry-provisioning", "0", "5")
    assert (unknown.returncode, unknown.stderr) == (1, "hactl: there is no machine 5\n")
    done = hactl.run(here, "retry-provisioning", "0")
    assert (done.returncode, done.stdout) == (0, "machine 0 tried again: pending\n")
    cluster.wait(lambda: states(cluster, 0) == ["started"], "the operator's try")
    refused = hactl.run(here, "retry-provisioning", "0")
    assert (refused.returncode, refused.stderr) == (
        1,
        "hactl: only a machine in error is tried again: machine 0 is started\n",
    )

    cluster.wait(lambda: counted(cluster, 0).get(("ha_controller_machines", "controller", "started")) == 1, "the count")
    found = counted(cluster, 0)
    assert found["ha_controller_machine_starts_total", "controller", "failed"] == 1
    assert found["ha_controller_machine_starts_total", "controller", "started"] == 1
    # The controller set's lease and the model's.
    assert found["ha_controller_lease_held",] == 2
    assert found["ha_controller_lease_claims_total", "granted"] == 2


@pytest.mark.long
def test_a_machine_whose_instance_died_says_so_and_is_not_started_again(cluster: Cluster, cloud: Provided):
    cluster.form(1)
    here = cluster.state_dir(0)
    provide(cluster, cloud)
    hactl.ask(here, "add-machine")
    cluster.wait(lambda: states(cluster, 0) == ["started"], "it to be started")
    (machine,) = machines(cluster, 0)

    cloud.hosts.die(machine["instance"])

    cluster.wait(lambda: states(cluster, 0) == ["lost"], "it to be missed", 60)
    text = hactl.run(here, "machines").stdout.splitlines()[1]
    assert text.split()[:3] == ["0", "lost", machine["instance"]]
    assert "remove the machine and add another" in text
    assert "machine 0 is lost" in hactl.run(here, "retry-provisioning", "0").stderr
    assert cloud.lives() == {machine["uuid"]: ["start", "running", "lost"]}
    hactl.ask(here, "remove-machine", "0")
    cluster.wait(lambda: states(cluster, 0) == ["stopped"], "its end")


def test_a_model_that_is_destroyed_ends_its_machines_first(cluster: Cluster, cloud: Provided):
    cluster.form(1)
    here = cluster.state_dir(0)
    provide(cluster, cloud)
    hactl.ask(here, "add-model", "staging")
    hactl.ask(here, "add-machine", "--model", "staging", "-n", "3")
    cluster.wait(lambda: states(cluster, 0, "staging") == ["started"] * 3, "its machines")
    hactl.ask(here, "add-machine", "--model", "controller")
    cluster.wait(lambda: states(cluster, 0) == ["started"], "the other's machine")

    hactl.ask(here, "destroy-model", "--yes", "staging")

    ends = sorted(events[-1] for events in cloud.lives().values())
    assert ends == ["running", "stopped", "stopped", "stopped"]


def test_the_death_of_the_holder_costs_seconds_and_no_instance(cluster: Cluster, cloud: Provided):
    cluster.form(3)
    cloud.hosts.seconds = 0.3
    provide(cluster, cloud)
    cluster.wait(lambda: holder(cluster, 0) is not None, "somebody is responsible", 30)
    first = holder(cluster, 0)
    assert first is not None
    others = [n for n in range(3) if n != first]

    uuids = add(cluster, others[0], 30)
    cluster.wait(lambda: "started" in states(cluster, others[0]), "the first ones")
    cluster.kill(first)
    killed = time.monotonic()
    cluster.wait(lambda: states(cluster, others[0]) == ["started"] * 30, "all of them by the next holder", 40)

    assert holder(cluster, others[0]) in others
    assert cloud.lives() == {uuid: ["start", "running"] for uuid in uuids}
    assert time.monotonic() - killed < 30
    cluster.start(first)


def test_a_holder_that_slept_stops_nothing_that_is_rightly_there(cluster: Cluster, cloud: Provided):
    cluster.form(3)
    provide(cluster, cloud)
    cluster.wait(lambda: holder(cluster, 0) is not None, "somebody is responsible", 30)
    first = holder(cluster, 0)
    assert first is not None
    other = next(n for n in range(3) if n != first)
    uuids = add(cluster, other, 10)
    cluster.freeze(first)
    try:
        cluster.wait(lambda: states(cluster, other) == ["started"] * 10, "all of them by the next holder", 40)
        uuids += add(cluster, other, 5)
        cluster.request(other, "POST", "/machines/remove", 20, {"numbers": [0]})
        cluster.wait(lambda: states(cluster, other) == ["stopped"] + ["started"] * 14, "the rest", 30)
    finally:
        cluster.signal(first, signal.SIGCONT)
    cluster.wait(lambda: len(states(cluster, first)) == 15, "the sleeper to be awake")
    time.sleep(2)  # For whatever it still had in mind; the log is what is judged.

    assert cloud.lives() == {
        uuids[0]: ["start", "running", "stop", "stopped"],
        **{uuid: ["start", "running"] for uuid in uuids[1:]},
    }

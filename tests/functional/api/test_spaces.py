"""Spaces from hactl to the published lists of real controllers: set, changed, unknown and unset."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hactl
from loopback import Cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, 87, tls=True) as made:
        yield made


def test_the_management_space_moves_the_agents_list_within_seconds_and_never_the_clients(cluster: Cluster):
    cluster.form(2)
    first = cluster.state_dir(0)
    one, two = (f"{cluster.address(n)}:17070" for n in range(2))

    def shown() -> dict[str, Any]:
        found: dict[str, Any] = hactl.ask(first, "spaces")
        return found

    cluster.wait(lambda: set(shown()["clients"]) == {"0", "1"}, "both lists")
    clients = shown()["clients"]
    assert clients == {"0": [one], "1": [two]}

    # Controllers of one machine have one address each, so a space narrows nothing here; that, tests/unit shows. What
    # is seen here is the way: hactl, the row, the setter, the published note.
    hactl.ask(first, "add-space", "blue", f"{cluster.address(0)}/32")
    hactl.ask(first, "controller-config", "juju-mgmt-space=blue")
    at = time.monotonic()
    cluster.wait(lambda: shown()["notes"], "the fallback is said")
    assert time.monotonic() - at < 5
    (note,) = shown()["notes"]
    assert "controller 1 has no address in juju-mgmt-space blue" in note
    assert shown()["management-space"] == "blue"
    text = hactl.run(cluster.state_dir(1), "spaces").stdout
    assert "blue*" in text
    assert f"note: {note}" in text

    done = hactl.run(first, "remove-space", "blue")
    assert (done.returncode, "juju-mgmt-space=" in done.stderr) == (1, True), done
    hactl.ask(first, "controller-config", "juju-mgmt-space=nowhere")
    cluster.wait(lambda: any("no space has that name" in n for n in shown()["notes"]), "an unknown space is said")
    hactl.ask(first, "remove-space", "blue")
    hactl.ask(first, "controller-config", "juju-mgmt-space=")
    cluster.wait(lambda: not shown()["notes"], "nothing is left to say")
    assert [s["name"] for s in shown()["spaces"]] == ["alpha"]
    assert shown()["clients"] == clients

    done = hactl.run(first, "add-space", "blue", "10.1.0.1/16")
    assert done.returncode == 1
    assert "'10.1.0.1/16' is no subnet" in done.stderr


def test_the_space_of_the_configuration_is_the_cluster_s_whoever_is_responsible(cluster: Cluster):
    cluster.form(3)

    def configure(on: list[int], name: str) -> None:
        space = {"name": name, "subnets": [f"{cluster.address(on[0])}/32"]} if name else None
        cluster.configure(range(3), told=on, **{"management-space": space})

    def shown(n: int) -> dict[str, Any]:
        done = hactl.run(cluster.state_dir(n), "spaces", "--format", "json")
        return json.loads(done.stdout) if done.returncode == 0 else {"charm-space": None}

    def notes(n: int) -> list[str]:
        return list(cluster.status(n).get("address-notes", []))

    configure([0, 1, 2], "blue")
    cluster.wait(lambda: shown(1)["charm-space"] == "blue", "the rows say what the configuration says")
    assert shown(2)["management-space"] == "blue"
    assert "space blue is set by the charm's option" in hactl.run(cluster.state_dir(2), "spaces").stdout
    cluster.wait(lambda: all(len(notes(n)) == 2 for n in range(3)), "every status says who is outside")
    assert "controller 1 has no address in juju-mgmt-space blue: agents get all of its addresses" in notes(0)[0]
    done = hactl.run(cluster.state_dir(0), "status")
    assert (done.returncode, notes(0)[0] in " ".join(done.stdout.split())) == (0, True), done
    for words in (
        ("controller-config", "juju-mgmt-space="),
        ("add-space", "blue", "10.9.0.0/16"),
        ("add-space", "red", f"{cluster.address(0)}/32"),
        ("remove-space", "blue"),
    ):
        done = hactl.run(cluster.state_dir(2), *words)
        assert (done.returncode, "`juju config <application> juju-mgmt-space=…`" in done.stderr) == (1, True), done

    # Whoever is responsible next goes on with what its own configuration says, and never with an older one.
    held = {lease["name"]: lease["holder"] for lease in hactl.ask(cluster.state_dir(0), "leases")["leases"]}
    primary = int(held["loopback"])
    left = [n for n in range(3) if n != primary]
    cluster.kill(primary)
    configure(left, "red")
    cluster.wait(lambda: shown(left[0])["charm-space"] == "red", "another controller does it", 60)
    assert [s["name"] for s in shown(left[0])["spaces"]] == ["alpha", "red"]
    configure(left, "")
    cluster.wait(lambda: not shown(left[0])["charm-space"], "and takes it away")
    assert shown(left[1])["management-space"] == ""
    cluster.wait(lambda: not any(notes(n) for n in left), "nothing is left to say")
    hactl.ask(cluster.state_dir(left[0]), "add-space", "blue", "10.9.0.0/16")
    hactl.ask(cluster.state_dir(left[0]), "controller-config", "juju-mgmt-space=blue")

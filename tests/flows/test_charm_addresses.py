"""Units of the real charm with addresses in two networks: the management space moves the agents' list, and no other."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from localjuju.client import Client

import pulserun

ROOT = Path(__file__).parents[2]
APP = "controller"
UNITS = [f"{APP}/{n}" for n in range(2)]
# From a setting to the published list; the agents' part of the five seconds is measured in tests/functional/api.
FOLLOWS_SECONDS = 5


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    client = Client(tmp_path / "run")
    client.bootstrap(die_with=os.getpid(), update_status_interval=600)
    yield client
    client.destroy()


def hactl(client: Client, *words: str) -> Any:
    done = client.exec(UNITS[0], ["hactl", *words, "--format", "json"])
    assert done.returncode == 0, done
    return json.loads(done.stdout)


def networks(addresses: list[str]) -> set[str]:
    return {address.rpartition(".")[0] for address in addresses}


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_agents_follow_the_management_space_both_ways_and_clients_never_do(client: Client):
    client.call("deploy", path=str(ROOT), name=APP, units=2)

    def spaces() -> dict[str, Any]:
        found: dict[str, Any] = hactl(client, "spaces")
        return found

    def both(found: dict[str, Any]) -> bool:
        return set(found["agents"]) == set(found["clients"]) == {"0", "1"}

    client.wait_settled(90)
    pulserun.until(lambda: client.exec(UNITS[0], ["hactl", "spaces"]).returncode == 0, 60, "the first controller")
    pulserun.until(lambda: both(spaces()), 60, "both controllers in both lists")
    client.call("add-space", name="backend", cidr="10.99.0.0/24")
    client.call("add-address", unit=UNITS[0], cidr="10.99.0.0/24")
    pulserun.until(lambda: len(spaces()["agents"]["0"]) == 2, FOLLOWS_SECONDS, "the new address of the first")
    clients = spaces()["clients"]
    everything = spaces()["agents"]

    def set_and_wait(space: str, fact: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        hactl(client, "controller-config", f"juju-mgmt-space={space}")
        at = time.monotonic()
        pulserun.until(lambda: fact(spaces()), 4 * FOLLOWS_SECONDS, what)
        print(f"{what}: {time.monotonic() - at:.1f} s")
        found = spaces()
        assert found["clients"] == clients, "clients' lists never move"
        return found

    hactl(client, "add-space", "management", "10.99.0.0/24")
    found = set_and_wait("management", lambda f: networks(f["agents"]["0"]) == {"10.99.0"}, "the space narrows")
    assert found["agents"]["1"] == everything["1"], "one without an address there is dialled at all of its own"
    assert ["controller 1 has no address" in note for note in found["notes"]] == [True]

    client.call("add-address", unit=UNITS[1], cidr="10.99.0.0/24")
    pulserun.until(lambda: networks(spaces()["agents"]["1"]) == {"10.99.0"}, FOLLOWS_SECONDS, "now it has one")
    assert spaces()["notes"] == []
    clients = spaces()["clients"]
    assert len(clients["1"]) == 2

    found = set_and_wait("alpha", lambda f: networks(f["agents"]["0"]) == {"10.77.0"}, "another space")
    found = set_and_wait("nowhere", lambda f: len(f["agents"]["0"]) == 2, "a space that nobody knows")
    assert any("no space has that name" in note for note in found["notes"])
    found = set_and_wait("", lambda f: not f["notes"], "none at all")
    assert {i: len(addresses) for i, addresses in found["agents"].items()} == {"0": 2, "1": 2}

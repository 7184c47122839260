"""The real charm's units move to another subnet together, and give a lost quorum back on an operator's word."""

import json
from pathlib import Path
from typing import Any

import pytest
from localjuju.client import Client, ClientError

ROOT = Path(__file__).parents[2]
APP = "controller"
UNITS = [f"{APP}/{n}" for n in range(3)]


def seen_from(client: Client, unit: str) -> dict[str, Any]:
    """The cluster as this unit's controllerd tells it; {} while it does not answer."""
    try:
        done = client.exec(unit, ["hactl", "status", "--format", "json"])
    except ClientError:  # Its host is not up yet.
        return {}
    return (json.loads(done.stdout)["cluster"] or {}) if done.stdout else {}


def three_voters(client: Client, subnet: str) -> bool:
    """Whether every unit sees three voters that answer at addresses of this subnet."""
    for unit in UNITS:
        members = seen_from(client, unit).get("members", [])
        good = [m for m in members if m["role"] == "voter" and m["answers"] and m["address"].startswith(subnet)]
        if len(good) != 3 or len(members) != 3:
            return False
    return True


def rebuild(client: Client, unit: str, **params: str) -> dict[str, Any]:
    return client.call("run", unit=unit, action="rebuild-cluster", params=params)[unit]


@pytest.mark.long
@pytest.mark.timeout(280)
def test_units_move_to_another_subnet_and_a_lost_quorum_is_rebuilt(client: Client):
    client.call("deploy", path=str(ROOT), name=APP, units=3)
    client.wait(lambda _: three_voters(client, "10.77.0."), 120, "three voters")
    client.wait_settled(60)
    before = seen_from(client, UNITS[0])

    client.call("add-space", name="backend", cidr="10.99.0.0/24")
    for unit in UNITS:
        client.call("add-address", unit=unit, cidr="10.99.0.0/24")
    client.call("bind", app=APP, bindings={"db-cluster": "backend"})
    client.wait(lambda _: three_voters(client, "10.99.0."), 90, "three voters in the other subnet")

    after = seen_from(client, UNITS[0])
    assert {m["dqlite-id"] for m in after["members"]} == {m["dqlite-id"] for m in before["members"]}
    assert after["epoch"] == before["epoch"]

    client.wait_settled(60)
    for unit in UNITS[1:]:
        client.call("pause", unit=unit)
    client.wait(lambda _: seen_from(client, UNITS[0])["health"] == "no-quorum", 30, "no quorum")
    client.wait(lambda _: "force" in rebuild(client, UNITS[0])["message"], 30, "a refusal that says how to insist")
    done = rebuild(client, UNITS[0], force="true")

    assert done["status"] == "completed", done
    assert seen_from(client, UNITS[0])["epoch"]["number"] == before["epoch"]["number"] + 1
    for unit in UNITS[1:]:
        client.call("resume", unit=unit)
    client.wait(lambda _: three_voters(client, "10.99.0."), 60, "the others to have joined again")
    assert seen_from(client, UNITS[0])["dropped"] == []

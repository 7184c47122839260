"""Flow 1, first half, on real hooks: killed at any moment they found one cluster, and replayed they change nothing."""

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from localjuju.client import Client

ROOT = Path(__file__).parents[2]
APP = "controller"
UNITS = [f"{APP}/{n}" for n in range(3)]
# What the charm may change on a unit's host: its files, with content and time of change.
WATCHED = "stat -c '%n %Y %i' /etc/systemd/system/ha-controller.service /usr/local/bin/hactl"
# The brackets keep the pattern from finding the very shell that looks for it.
KILL_HOOK = r'for p in /proc/[0-9]*; do grep -qs "src/[c]harm\.py" $p/cmdline && kill -9 ${p#/proc/} && echo $p; done'
CONF = "/var/lib/ha-controller/controller.conf"


def deploy(client: Client) -> None:
    client.call("deploy", path=str(ROOT), name=APP, units=3)


def has_three_voters(status: dict[str, Any]) -> bool:
    app = status["applications"][APP]
    units = app["units"].values()
    active = all(unit["workload-status"]["current"] == "active" for unit in units)
    return active and "3 voters" in app["application-status"]["message"]


def hosts_are_up(status: dict[str, Any]) -> bool:
    return all(machine["machine-status"]["current"] == "running" for machine in status["machines"].values())


def kill_hook(client: Client, unit: str) -> int:
    """SIGKILL the charm process of the unit's hook, if one runs. A host sees no processes but its own."""
    done = client.exec(unit, ["sh", "-c", KILL_HOOK])
    return len(done.stdout.split())


def read(client: Client, unit: str, path: str) -> str:
    done = client.exec(unit, ["cat", path])
    assert done.returncode == 0, done.stderr
    return done.stdout


def seen(client: Client) -> dict[str, object]:
    """Every databag and every file of the charm, on every unit."""
    return {
        unit: (
            client.call("show-unit", unit=unit),
            read(client, unit, CONF),
            client.exec(unit, ["sh", "-c", f"{WATCHED} {CONF}"]).stdout,
        )
        for unit in UNITS
    }


@pytest.mark.slow
def test_hooks_killed_at_any_moment_and_retried_found_one_cluster(client: Client):
    chance = random.Random(20261122)
    killed = 0
    deploy(client)

    client.wait(hosts_are_up, 60, "the hosts to be up")

    until = time.monotonic() + 25
    while time.monotonic() < until:
        killed += kill_hook(client, chance.choice(UNITS))
        time.sleep(chance.uniform(0, 1))  # Anywhere in the life of a hook, which is of about a second.
    client.wait(has_three_voters, 180, "three voters after all those kills")

    assert killed >= 5
    identities = [json.loads(read(client, unit, "/var/lib/ha-controller/identity.json")) for unit in UNITS]
    assert len({identity["cluster-uuid"] for identity in identities}) == 1
    assert {identity["epoch"]["number"] for identity in identities} == {1}
    for unit in UNITS:  # Nobody had founded another cluster, whose data would lie here.
        assert client.exec(unit, ["test", "-e", "/var/lib/ha-controller/aside"]).returncode == 1


@pytest.mark.slow
def test_replaying_real_hooks_changes_no_file_and_no_databag(client: Client):
    deploy(client)
    client.wait(has_three_voters, 120, "three voters")
    client.wait_settled()
    before = seen(client)

    for unit in (*UNITS, *reversed(UNITS)):
        client.call("update-status", unit=unit)
        client.wait_settled()
    client.call("reboot", unit=UNITS[1])  # config-changed and start.
    client.wait(has_three_voters, 120, "three voters again")
    client.wait_settled()

    assert seen(client) == before

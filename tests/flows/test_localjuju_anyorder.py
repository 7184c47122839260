"""Any order of what a person may type ends in an honest status, with every unit told the truth."""

import contextlib
import json
import random

import pytest
from localjuju.client import Client, ClientError

import pulserun

FAILING = ("", "config-changed", "stop", "db-cluster-relation-departed", "update-status")
VERBS = (
    *("add", "add", "remove", "force", "kill", "pause", "resume", "cut", "heal"),
    *("reboot", "restart-all", "config", "config", "fail", "run"),
)


def _one(client: Client, dice: random.Random, step: int) -> list[str]:
    """Type something. Returns the units it made."""
    units = list(client.units("controller"))
    verb = dice.choice(VERBS)
    if verb == "add" and len(units) < 4:
        return client.call("add-unit", app="controller")["units"]
    if verb == "restart-all":
        client.call(verb)
    elif verb == "heal":
        client.call(verb, units=[])
    elif verb == "config":
        client.call(verb, app="controller", changes={"greeting": f"step {step}"})
    elif verb == "fail":
        client.call("config", app="controller", changes={"fail-hook": dice.choice(FAILING)})
    elif units and verb in ("remove", "force"):
        some = dice.sample(units, dice.randint(1, min(2, len(units))))
        client.call("remove-unit", units=some, force=verb == "force")
    elif units and verb == "cut":
        client.call(verb, units=[dice.choice(units)])
    elif units and verb == "run":
        client.call(verb, unit=dice.choice(units), action="echo", wait_seconds=1)
    elif units and verb in ("kill", "pause", "resume", "reboot"):
        client.call(verb, unit=dice.choice(units))
    return []


@pytest.mark.long
@pytest.mark.timeout(280)
@pytest.mark.parametrize("seed", [2, 5])
def test_any_order_of_verbs_ends_settled_and_true(tmp_path, seed):
    dice = random.Random(seed)
    with pulserun.pulse_run(tmp_path) as run:
        client = run.client
        client.call("model-config", changes={"retry-most": "2"})
        client.call("deploy", path=str(pulserun.CHARM), name="controller", units=2)
        known = {"controller/0", "controller/1"}
        for step in range(25):
            with contextlib.suppress(ClientError):  # A refusal with its reason is an honest answer.
                new = set(_one(client, dice, step))
                assert not new & known, "a number came back"
                known |= new
            dice.random() < 0.5 or client.call("status")  # Sometimes at once, sometimes a moment later.

        client.call("config", app="controller", changes={"fail-hook": "", "greeting": "last"})
        client.call("heal", units=[])
        for unit in client.units("controller"):
            with contextlib.suppress(ClientError):  # Nothing runs on it, so nothing is paused.
                client.call("resume", unit=unit)
        client.call("add-unit", app="controller")
        client.wait_settled(200)

        units = client.units("controller")
        assert {u: s["workload-status"]["current"] for u, s in units.items()} == dict.fromkeys(units, "active")
        assert sum(bool(s.get("leader")) for s in units.values()) == 1
        for unit in units:
            (relation,) = client.call("show-unit", unit=unit)[unit]["relation-info"]
            assert json.loads(relation["application-data"]["members"]) == sorted(units)
            assert relation["local-unit"]["data"]["greeting"] == "last"
            assert client.exec(unit, ["systemctl", "is-active", "pulse"]).stdout == "active\n"
        assert "Traceback" not in client.home.log.read_text()

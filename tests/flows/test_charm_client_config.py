"""The charm lets a user in: a string that works once, in a file for root alone, and a client outside that uses it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from localjuju.client import Client

from controller.api import registration
from outsider import Outsider

ROOT = Path(__file__).parents[2]
APP = "controller"
UNIT = f"{APP}/0"
PASSWORD = "correct horse battery"


def get_client_config(client: Client, **params: str) -> dict[str, Any]:
    done: dict[str, Any] = client.call("run", unit=UNIT, action="get-client-config", params=params)[UNIT]
    return done


def all_that_others_may_read(client: Client) -> str:
    """What Juju keeps and shows, and what the service logs."""
    journal = client.exec(UNIT, ["journalctl", "-u", "ha-controller"])
    assert "controllerd" in journal.stdout, "a log that is empty would hide nothing"
    shown = [client.call("debug-log", level="TRACE"), client.call("show-unit", unit=UNIT), client.status()]
    assert shown[0]["lines"]
    return journal.stdout + json.dumps(shown)


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_the_action_s_string_lets_a_client_in_from_outside_and_no_output_shows_it(client: Client, tmp_path: Path):
    client.call("deploy", path=str(ROOT), name=APP)
    client.wait(lambda s: s["applications"][APP]["units"][UNIT]["workload-status"]["current"] == "active", 90, "active")

    refused = get_client_config(client, user="bob")
    assert refused["status"] == "failed"
    assert "there is no user bob; there are: admin" in refused["message"]

    earlier = get_client_config(client)
    assert earlier["status"] == "completed", earlier
    file = earlier["results"]["file"]
    assert earlier["results"]["next"] == f"juju ssh {UNIT} sudo cat {file}"
    void = client.exec(UNIT, ["cat", file]).stdout.strip()
    done = get_client_config(client)
    text = client.exec(UNIT, ["cat", file]).stdout.strip()
    opened = registration.parse(text)
    assert text != void

    # For root alone, and nowhere else.
    assert client.exec(UNIT, ["stat", "-c", "%a %u", file]).stdout.split() == ["600", "0"]
    nobody = client.exec(UNIT, ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "cat", file])
    assert (nobody.returncode, nobody.stdout) == (1, "")
    shown = json.dumps([earlier, done]) + all_that_others_may_read(client)
    for hidden in (text, void, opened.secret, registration.parse(void).secret):
        assert hidden not in shown

    # From outside: the one that was made last, once.
    her = Outsider(client, tmp_path / "hers")
    late = her.hactl("register", "--name", "prod", stdin=f"{void}\n{PASSWORD}\n")
    assert (late.returncode, "this registration is not open" in late.stderr) == (1, True), late
    came_in = her.hactl("register", "--name", "prod", stdin=f"{text}\n{PASSWORD}\n")
    assert came_in.returncode == 0, came_in
    seen = her.ask("show-controller")
    assert (seen["name"], seen["user"], seen["access"]) == ("prod", "admin", "superuser")
    assert seen["api-endpoints"] == ["10.77.0.10:17070"]
    assert her.ask("status")["controller-id"] == "0", "of the controllers, since there is none on her machine"
    again = Outsider(client, tmp_path / "another").hactl("register", "--name", "prod", stdin=f"{text}\n{PASSWORD}\n")
    assert (again.returncode, "this registration is not open" in again.stderr) == (1, True), again
    assert text not in all_that_others_may_read(client)
    assert PASSWORD not in all_that_others_may_read(client)

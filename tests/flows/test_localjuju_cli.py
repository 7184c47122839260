"""The command line as a person types it: Juju's verbs, outputs and exit codes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from localjuju.client import Client

import pulserun

ROOT = Path(__file__).parents[2]


@pytest.fixture
def juju(tmp_path):
    home = tmp_path / "home"

    def call(*words, code=0):
        done = subprocess.run(
            [sys.executable, "-m", "localjuju.cli", "--home", str(home), *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == code, done
        return done.stdout if code == 0 else done.stderr

    client = Client(home)
    call.client = client
    yield call
    spaces = pulserun.namespaces_of(client)
    call("destroy")
    pulserun.assert_nothing_left(client, spaces)


def test_a_session_by_hand(juju):
    assert juju("status", code=1).startswith("ERROR no run in ")

    # deploy starts a run by itself.
    juju("deploy", str(pulserun.CHARM), "controller", "-n", "2", "--config", "greeting=moin")
    juju.client.wait_settled(60)

    shape = json.loads(juju("status", "--format", "json"))
    unit = shape["applications"]["controller"]["units"]["controller/0"]
    assert unit["workload-status"]["current"] == "active"
    assert unit["juju-status"]["current"] == "idle"
    assert (unit["machine"], unit["public-address"], unit["open-ports"]) == ("0", "10.77.0.10", ["9000/tcp"])
    assert shape["machines"]["1"]["ip-addresses"] == ["10.77.0.11"]
    text = juju("status")
    assert "controller/0" in text and "10.77.0.11" in text and "9000/tcp" in text
    assert text.count("*") == 1, "one leader"

    assert juju("config", "controller", "greeting") == "moin\n"
    juju("config", "controller", "--reset", "greeting")
    assert juju("config", "controller", "greeting") == "hello\n"
    assert "expected int" in juju("config", "controller", "count=many", code=1)

    result = json.loads(juju("run", "controller/leader", "echo", "words=hi", "--format", "json"))
    ((_, outcome),) = result.items()
    assert (outcome["status"], outcome["results"]["said"]) == ("completed", "hi")
    assert "as always" in juju("run", "controller/0", "refuse", code=1)

    shown = json.loads(juju("show-unit", "controller/1", "--format", "json"))["controller/1"]
    assert shown["relation-info"][0]["endpoint"] == "db-cluster"
    assert "unit-controller-0: " in juju("debug-log", "--include", "controller/0", "-n", "5")
    assert juju("exec", "--unit", "controller/1", "--", "hostname") == "juju-controller-1\n"
    assert "br0" in juju("shell", "--", "ip", "-brief", "link")
    assert "not found" in juju("remove-unit", "controller/7", code=1)
    assert "not in error" in juju("resolve", "controller/0", code=1)

    juju("remove-unit", "controller/0", "--force")
    assert "controller/0" not in juju("status")
    juju("remove-unit", "controller/1")
    juju.client.wait(lambda s: not s["applications"]["controller"]["units"], 30, "all units to be gone")
    assert "controller/" not in juju("status")


def test_a_path_without_a_charm_is_refused_with_its_reason(juju, tmp_path):
    (tmp_path / "empty").mkdir()

    assert "neither charmcraft.yaml nor metadata.yaml" in juju("deploy", str(tmp_path / "empty"), code=1)
    assert "neither a charm's source tree nor" in juju("deploy", str(tmp_path / "nowhere"), code=1)


def test_a_killed_command_line_harms_nothing(juju):
    juju("bootstrap")
    command = [sys.executable, "-m", "localjuju.cli", "--home", str(juju.client.home.path), "debug-log", "--tail"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as tail:
        juju("deploy", str(pulserun.CHARM), "controller")
        os.kill(tail.pid, signal.SIGKILL)

    juju.client.wait_settled(60)
    assert "active" in juju("status")


def test_the_script_explains_itself():
    done = subprocess.run([ROOT / "scripts/localjuju", "--help"], capture_output=True, text=True, timeout=100)

    assert done.returncode == 0
    verbs = "bootstrap destroy deploy add-unit remove-unit bind config run status show-unit debug-log exec resolve"
    for verb in verbs.split():
        assert verb in done.stdout

"""The cloud beside the model: real hosts by uuid, reached from every unit, and all of it gone with the run."""

import errno
import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from localjuju import cloudlog

import pulserun

ROOT = Path(__file__).parents[2]
PATHS = os.pathsep.join(str(ROOT / folder) for folder in ("lib", "tests/support", "."))
SERVICE = (
    "[Service]\nExecStart=/var/lib/cloud/python3 -c 'import time, yaml; time.sleep(4714)'\nRestart=always\n"
    "[Install]\nWantedBy=multi-user.target\n"
)

ASK = """
import http.client, sys, urllib.parse
method, url, body = sys.argv[1:]
where = urllib.parse.urlsplit(url)
connection = http.client.HTTPConnection(where.netloc, timeout=30)
connection.request(method, url.removeprefix(f"http://{where.netloc}"), body)
print(connection.getresponse().read().decode())
"""


@pytest.fixture
def run(tmp_path):
    with pulserun.pulse_run(tmp_path) as run:
        yield run


def ask(run, method, target, document=None, unit=None):
    """One request, from the run's own namespace or from a unit."""
    url = run.client.call("cloud")["endpoint"] + "/v1/instances" + target
    line = [sys.executable, "-c", ASK, method, url, json.dumps(document or {})]
    where = run.client.on_unit(unit, line) if unit else run.client.inside(line)
    done = subprocess.run(where, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done
    return json.loads(done.stdout)


def on(run, instance, *argv):
    done = subprocess.run(run.client.on_instance(instance, argv), capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done
    return done.stdout


def log(run):
    return list(cloudlog.read(run.client.home.cloud_log))


def test_the_local_provider_keeps_its_contract_with_real_hosts(run):
    endpoint = run.client.call("cloud")["endpoint"]
    line = ["env", f"PYTHONPATH={PATHS}", sys.executable, "-m", "providercontract", endpoint]

    done = subprocess.run(run.client.inside(line), capture_output=True, text=True, timeout=100)

    assert done.returncode == 0, done.stderr
    assert "what_was_stopped_never_starts_again" in done.stdout


def test_an_instance_is_a_host_of_its_own_that_units_reach_and_that_leaves_nothing(run):
    run.deploy()
    one, other = str(uuid.uuid4()), str(uuid.uuid4())
    spec = {
        "hostname": "m-1",
        "tags": {"model": "a"},
        "files": [
            {"path": "/etc/systemd/system/agent.service", "text": SERVICE},
            {"path": "/var/lib/agent/id", "text": one, "mode": 0o600},
        ],
        "services": ["agent.service"],
    }

    made = ask(run, "PUT", f"/{one}", spec, unit="controller/0")
    ask(run, "PUT", f"/{other}", {"hostname": "m-2"})

    assert (made["state"], made["address"], made["instance"]) == ("running", "10.77.0.100", "i-1")
    assert ask(run, "GET", "?model=a", unit="controller/0")["instances"] == [made]
    assert on(run, "i-1", "hostname") == "m-1\n"
    assert on(run, "i-1", "cat", "/var/lib/agent/id") == one
    assert "10.77.0.100/24" in on(run, "i-1", "ip", "-br", "address")
    assert on(run, "i-2", "ls", "/var/lib/cloud") == "python3\n"
    # Its service is supervised; the Python of the image has the project's packages.
    pulserun.until(lambda: on(run, "i-1", "systemctl", "is-active", "agent") == "active\n", 10, "the service")
    first = on(run, "i-1", "systemctl", "show", "agent", "-p", "MainPID", "--value")
    on(run, "i-1", "kill", "-9", first.strip())
    again = lambda: on(run, "i-1", "systemctl", "show", "agent", "-p", "MainPID", "--value")  # noqa: E731
    pulserun.until(lambda: again().strip() not in ("0", first.strip()), 10, "the service to be back")
    # Units and instances reach each other.
    knock = "import socket; print(socket.socket().connect_ex(('10.77.0.100', 9)))"
    assert int(run.exec(0, sys.executable, "-c", knock)) == errno.ECONNREFUSED

    text = subprocess.run(
        [sys.executable, "-m", "localjuju.cli", "--home", str(run.client.home.path), "cloud"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    ).stdout
    assert text.startswith("http://10.77.0.1:17999\n") and "i-2" in text and one in text

    spaces = pulserun.Spaces()
    pid = run.client.call("enter-instance", instance="i-1")["pid"]
    spaces.add(Path(f"/proc/{run.client.home.read_run().init}/root/proc/{pid}"))
    assert spaces.holders()
    ask(run, "DELETE", f"/{one}", unit="controller/0")
    assert [i["instance"] for i in ask(run, "GET", "")["instances"]] == ["i-2"]
    assert not (run.client.home.machines / "1000").exists()
    assert spaces.holders() == []
    assert ask(run, "PUT", f"/{one}", spec)["error"] == "Gone"
    assert [e["event"] for e in log(run) if e["uuid"] == one and e["event"][:5] != "asked"] == [
        *("start", "running", "stop", "stopped"),
    ]


def test_a_host_that_dies_is_lost_and_its_address_is_free_again(run):
    one = str(uuid.uuid4())
    ask(run, "PUT", f"/{one}", {"hostname": "m-1"})
    pid = run.client.call("enter-instance", instance="i-1")["pid"]

    subprocess.run(run.client.inside(["kill", "-9", str(pid)]), check=True)

    pulserun.until(lambda: log(run)[-1]["event"] == "lost", 10, "the cloud to notice")
    assert ask(run, "PUT", f"/{one}", {"hostname": "m-1"})["error"] == "Gone"
    assert ask(run, "PUT", f"/{uuid.uuid4()}", {"hostname": "m-2"})["address"] == "10.77.0.100"


@pytest.mark.parametrize(
    "wrong",
    [
        {"files": [{"path": "/usr/bin/x"}]},
        {"files": [{"path": "/var/lib/../../x"}]},
        {"files": ["x"]},
        {"archives": [{"folder": "/var/lib/x", "base64": "AAAA"}]},
        {"services": ["../x"]},
    ],
    ids=str,
)
def test_a_wrong_spec_is_refused_with_a_reason_and_leaves_nothing(run, wrong):
    answer = ask(run, "PUT", f"/{uuid.uuid4()}", {"hostname": "m", **wrong})

    assert answer["error"] == "BadSpec" and answer["reason"]
    assert ask(run, "GET", "")["instances"] == []
    assert list(run.client.home.machines.iterdir()) == []


def test_instances_end_with_the_daemon_and_the_log_can_be_kept(tmp_path):
    with pulserun.pulse_run(tmp_path, keep_logs=tmp_path / "kept") as run:
        for n in range(3):
            ask(run, "PUT", f"/{uuid.uuid4()}", {"hostname": f"m-{n}"})
        spaces = pulserun.namespaces_of(run.client)
        init = run.client.home.read_run().init
        children = Path(f"/proc/{init}/task/{init}/children").read_text().split()
        daemon = next(int(p) for p in children if b"localjuju" in Path(f"/proc/{p}/cmdline").read_bytes())

        os.kill(daemon, signal.SIGKILL)

        pulserun.until(lambda: not spaces.holders(), 10, "everything of the run to end")
    kept = list(cloudlog.read(tmp_path / "kept" / "cloud.log"))
    assert [e["event"] for e in kept].count("running") == 3

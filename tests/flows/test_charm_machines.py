"""Units of the real charm start machines in the cloud beside them, and agentd runs there."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from localjuju import cloudlog
from localjuju.client import Client

import pulserun

ROOT = Path(__file__).parents[2]
APP = "controller"
UNIT = f"{APP}/0"


def hactl(client: Client, *words: str) -> Any:
    done = client.exec(UNIT, ["hactl", *words, "--format", "json"])
    assert done.returncode == 0, done
    return json.loads(done.stdout)


def on(client: Client, instance: str, *argv: str) -> str:
    done = subprocess.run(client.on_instance(instance, argv), capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done
    return done.stdout


def test_machines_are_hosts_with_an_agent_and_go_without_a_trace(client: Client):
    client.call("deploy", path=str(ROOT), name=APP)
    client.wait(lambda s: s["applications"][APP]["units"][UNIT]["workload-status"]["current"] == "active", 60, "active")
    hactl(client, "controller-config", f"local-provider={client.call('cloud')['endpoint']}")

    hactl(client, "add-machine", "-n", "2")

    def started() -> bool:
        return [m["state"] for m in hactl(client, "machines")["machines"]] == ["started", "started"]

    pulserun.until(started, 30, "both machines")
    first, second = hactl(client, "machines")["machines"]
    agent = "/var/lib/ha-agent/agentd.json"
    pulserun.until(lambda: on(client, first["instance"], "sh", "-c", f"cat {agent} || true"), 20, "its agent")
    told = json.loads(on(client, first["instance"], "cat", agent))
    assert (told["uuid"], told["hostname"]) == (first["uuid"], "machine-0")
    assert first["address"] in on(client, first["instance"], "ip", "-br", "address")

    # It finds the controller, and makes a password of its own.
    state = ["sh", "-c", "cat /var/lib/ha-agent/agentd-state.json || true"]

    def connected() -> bool:
        text = on(client, first["instance"], *state)
        return bool(text) and json.loads(text)["caller"]["connected"]

    pulserun.until(connected, 30, "the agent to be connected")
    conf = on(client, first["instance"], "cat", "/var/lib/ha-agent/agent.conf")
    assert 'tag: "machine-0"' in conf
    assert 'apipassword: ""' not in conf

    # Supervised: killed, it is there again as the same machine.
    on(client, first["instance"], "kill", "-9", str(told["pid"]))

    def again() -> bool:
        now = json.loads(on(client, first["instance"], "cat", agent))
        return now["pid"] != told["pid"] and now["uuid"] == first["uuid"]

    pulserun.until(again, 20, "the agent to be back")

    hactl(client, "remove-machine", "0")
    pulserun.until(lambda: [m["number"] for m in hactl(client, "machines")["machines"]] == [1], 30, "one to be left")
    assert [i["uuid"] for i in client.call("cloud")["instances"]] == [second["uuid"]]
    log = list(cloudlog.read(client.home.cloud_log))
    assert [e["event"] for e in log if e["uuid"] == first["uuid"] and not e["event"].startswith("asked")] == [
        *("start", "running", "stop", "stopped"),
    ]
    assert all(e["by"].startswith("controller 0, token ") for e in log if e["event"].startswith("asked"))

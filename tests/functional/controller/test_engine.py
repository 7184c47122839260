"""controllerd as manifolds: what runs, what others bring along, and the order in which it ends."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import hactl
from controller import schema
from dbaccessor import confsocket
from loopback import Cluster

LAST_WORDS = '''
import asyncio
from controller.engine import Manifold
from controller.node import Databases


class LastWords:
    """Writes a row when it is told to stop, and takes its time."""

    def __init__(self, databases):
        self._database = databases.database("controller")

    async def run(self):
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(1.5)
            await self._database.run(self._write)

    async def _write(self, tx):
        await tx.execute("INSERT INTO controller_config (key, value) VALUES ('last-words', 'written')")


def manifolds():
    return {"last-words": Manifold(lambda get: LastWords(get("domain-schema", Databases)), ("domain-schema",))}
'''

FAILING = """
from controller.engine import Manifold


class Failing:
    async def run(self):
        raise ValueError("on purpose")


def manifolds():
    return {"failing": Manifold(lambda get: Failing())}
"""

STUBBORN = """
import asyncio
from controller.engine import Manifold
from controller.node import Databases


class Stubborn:
    async def run(self):
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass


def start(get):
    get("domain-schema", Databases)
    return Stubborn()


def manifolds():
    return {"stubborn": Manifold(start, ("domain-schema",))}
"""


def report(cluster: Cluster, n: int) -> dict[str, Any]:
    document: dict[str, Any] = cluster.request(n, "GET", "/report")[1]
    return document


def state(cluster: Cluster, n: int, worker: str) -> str:
    return str(report(cluster, n)["manifolds"][worker]["state"])


def test_workers_that_need_the_database_wait_for_it_and_the_sockets_answer_meanwhile(cluster: Cluster):
    cluster.start(0)
    cluster.wait(lambda: cluster.state(0) == "waiting", "it waits for its configuration")

    told = report(cluster, 0)["manifolds"]
    assert told["domain-schema"]["report"] == {"prepared": False}
    assert told["models"]["why"] == "missing: domain-schema: it is not prepared yet"
    status, answer = cluster.request(0, "GET", "/models")
    assert (status, answer["error"]) == (503, "NotReady")
    assert "models does not run here now" in answer["reason"]
    done = hactl.run(cluster.state_dir(0), "models")
    assert (done.returncode, done.stdout) == (4, "")

    cluster.configure([0])
    cluster.wait(lambda: state(cluster, 0, "models") == "started", "it starts by itself")
    done = hactl.run(cluster.state_dir(0), "engine")
    assert done.returncode == 0, done
    assert [line.split()[:2] for line in done.stdout.splitlines() if line.startswith("domain-schema")] == [
        ["domain-schema", "started"]
    ]


def test_workers_end_before_the_node_and_somebody_answers_until_it_has_ended(cluster: Cluster, installed):
    installed("lastwords", LAST_WORDS, ("ha_controller.manifolds", "manifolds"))
    cluster.form(1)
    cluster.wait(lambda: state(cluster, 0, "last-words") == "started", "the plugin runs")

    ending = threading.Thread(target=lambda: ended.append(cluster.terminate(0)))
    ended: list[int] = []
    ending.start()
    cluster.wait(lambda: state(cluster, 0, "domain-schema") == "started" and not ended, "it answers while it ends", 1)
    ending.join()

    assert ended == [0]
    cluster.start(0)
    cluster.wait(lambda: cluster.serving(0), "it serves again")
    question = {"sql": "SELECT value FROM controller_config WHERE key = 'last-words'"}
    assert cluster.request(0, "POST", "/sql", document=question)[1]["rows"] == [["written"]]


def test_a_plugin_that_is_broken_or_fails_is_named_and_keeps_nobody_from_running(cluster: Cluster, installed):
    installed("broken", "import no_such_module\n", ("ha_controller.manifolds", "manifolds"))
    installed("failing", FAILING, ("ha_controller.manifolds", "manifolds"))
    cluster.form(1)
    cluster.wait(lambda: "failed" in report(cluster, 0)["manifolds"]["failing"].get("why", ""), "it fails")

    done = hactl.run(cluster.state_dir(0), "engine", "--format", "json")
    assert done.returncode == 3
    told = json.loads(done.stdout)
    assert told["plugins"]["broken"]["state"] == "refused"
    assert told["plugins"]["broken"]["why"] == "ModuleNotFoundError: No module named 'no_such_module'"
    assert told["plugins"]["failing"]["state"] == "in use"
    assert told["manifolds"]["failing"]["why"] == "failed: ValueError: on purpose"
    assert state(cluster, 0, "models") == "started"


def test_starts_are_counted_by_the_worker(cluster: Cluster):
    cluster.form(1)
    cluster.wait(lambda: state(cluster, 0, "models") == "started", "all run")

    _, body = confsocket.request(cluster.state_dir(0) / confsocket.CONTROL, "GET", "/metrics")
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }
    assert found["ha_controller_engine_worker_starts_total", "controller", "db-accessor"] == 1
    assert found["ha_controller_engine_worker_starts_total", "controller", "domain-schema"] == 2
    assert found["ha_controller_engine_worker_running", "db-accessor"] == 1
    assert found["ha_controller_engine_worker_running", "notifier"] == 0


@pytest.mark.slow
def test_a_worker_that_does_not_end_keeps_the_node_from_stopping_in_order_for_a_while_only(cluster: Cluster, installed):
    installed("stubborn", STUBBORN, ("ha_controller.manifolds", "manifolds"))
    cluster.form(3)
    leader = cluster.leader(0)
    assert leader is not None
    cluster.wait(lambda: state(cluster, leader, "stubborn") == "started", "the plugin runs")

    began = time.monotonic()
    assert cluster.terminate(leader) == 1

    assert time.monotonic() - began < 25
    log = (cluster.root / f"{leader}.log").read_text()
    assert "stubborn was told to stop and is left behind after 12" in log
    assert log.index("left behind") < log.index("handing leadership to")
    assert "ending without these, which do not: stubborn" in log


def test_the_version_of_the_program_is_told_to_the_other_controllers(cluster: Cluster):
    cluster.form(1)

    question = {"sql": "SELECT application FROM controller_node"}
    assert cluster.request(0, "POST", "/sql", document=question)[1]["rows"] == [[schema.VERSION]]

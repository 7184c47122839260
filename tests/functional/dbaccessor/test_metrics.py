"""What a running controller tells of itself on control.socket: the metrics page and the engine's report."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dbaccessor import confsocket, preamble
from loopback import Cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, block=83) as made:
        yield made


def metrics(cluster: Cluster, n: int) -> dict[tuple[str, ...], float]:
    status, body = confsocket.request(cluster.state_dir(n) / confsocket.CONTROL, "GET", "/metrics")
    assert status == 200
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def report(cluster: Cluster, n: int) -> dict[str, object]:
    document: dict[str, object] = cluster.request(n, "GET", "/report")[1]["manifolds"]["db-accessor"]["report"]
    return document


def test_metrics_and_report_follow_a_cluster_from_its_beginning_to_a_change_of_leader(cluster: Cluster):
    cluster.start(0)
    cluster.wait(lambda: cluster.state(0) == "waiting", "a controller without a configuration waits")
    before = metrics(cluster, 0)
    assert before["ha_controller_conf_generation",] == 0
    assert before["ha_controller_db_quorum_margin",] == -1
    assert ("ha_controller_db_ready_seconds",) not in before
    assert before["ha_controller_state", "waiting"] == 1
    assert before["juju_db_requests_total", "controller"] == 0
    cluster.terminate(0)

    cluster.form(2)

    two = metrics(cluster, 0)
    assert two["ha_controller_db_members", "voter"] == 2
    assert two["ha_controller_db_quorum_margin",] == 0
    assert two["ha_controller_db_actions_total", "bootstrap", "done"] == 1
    assert metrics(cluster, 1)["ha_controller_db_actions_total", "join", "done"] == 1
    assert two["ha_controller_db_ready_seconds",] > 0
    # The controller's own row was written, and read back by nobody yet, perhaps; each write is a request.
    assert two["juju_db_success_total", "controller"] >= 1
    assert two["juju_db_txn_requests_total", "controller"] >= two["juju_db_success_total", "controller"]
    assert "controller" in report(cluster, 0)["databases"]  # type: ignore[operator]
    assert "may lose 0" in cluster.status(0)["cluster"]["advice"]

    cluster.configure(range(3))
    cluster.start(2)
    cluster.wait(lambda: cluster.role_counts(0) == (3, 0, 0) and cluster.serving(0, 1, 2), "three voters")
    cluster.wait(lambda: metrics(cluster, 0)["ha_controller_db_quorum_margin",] == 1, "the margin is one")
    leader = cluster.leader(0)
    assert leader is not None
    three = {"voter": 3, "stand-by": 0, "spare": 0}
    cluster.wait(lambda: report(cluster, (leader + 1) % 3)["members"] == three, "the report of a follower has all")
    told = report(cluster, (leader + 1) % 3)
    assert told["leader"] == f"{cluster.address(leader)}:17666"
    assert (told["leader-role"], told["role"]) == ("voter", "voter")
    assert told["last-handover"] is None

    assert cluster.terminate(leader) == 0
    cluster.start(leader)
    cluster.wait(lambda: cluster.serving(0, 1, 2), "the one that was restarted serves again")
    other = next(n for n in range(3) if n not in (leader, cluster.leader(leader)))
    assert metrics(cluster, other)["ha_controller_db_leader_changes_total",] >= 1
    # With three members nobody can take the voting right; leadership went to another all the same.
    assert ("ha_controller_db_last_handover_seconds", "kept-vote") in metrics(cluster, leader)
    assert report(cluster, leader)["last-handover"]["result"] == "kept-vote"  # type: ignore[index]


def test_a_refused_configuration_shows_in_the_metrics(cluster: Cluster):
    cluster.form(1)
    assert metrics(cluster, 0)["ha_controller_conf_problem",] == 0

    cluster.write_conf(0, "{")

    cluster.wait(lambda: metrics(cluster, 0)["ha_controller_conf_problem",] == 1, "the problem shows")
    assert metrics(cluster, 0)["ha_controller_conf_generation",] == 1


def test_callers_that_are_turned_away_are_counted_by_the_reason(cluster: Cluster):
    cluster.form(1)
    hello = preamble.encode(preamble.Hello(purpose="client", cluster_uuid="another", controller_id="9"))
    for _ in range(3):
        with socket.create_connection((cluster.address(0), 17666), timeout=10) as stream:
            stream.sendall(hello)
            header = stream.recv(preamble.HEADER.size, socket.MSG_WAITALL)
            body = stream.recv(preamble.body_length(header), socket.MSG_WAITALL)
        assert not preamble.decode_answer(body).accepted

    def refused() -> float:
        return metrics(cluster, 0).get(("ha_controller_db_connections_refused_total", "cluster"), 0)

    # A caller has its answer a moment before it is counted.
    cluster.wait(lambda: refused() == 3, "three of them to be counted")

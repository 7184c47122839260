"""SIGKILL at every durable step of the changes that take several: the next start ends in a healthy state."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dbaccessor import confsocket
from loopback import Cluster
from stepwise import enumerate_steps


def crashes(cluster: Cluster, n: int) -> bool:
    """Wait until controller n killed itself (True) or serves (False)."""
    cluster.wait(lambda: not cluster.alive(n) or cluster.serving(n), "it crashed, or came through", 60)
    return not cluster.alive(n)


def test_a_bootstrap_killed_at_any_step_founds_the_one_cluster_at_the_next_start(tmp_path: Path):
    def run(cluster: Cluster, step: int) -> bool:
        cluster.configure([0])
        cluster.start(0, crash=("journal.json", step))
        if not crashes(cluster, 0):
            return False
        cluster.start(0)
        cluster.wait(lambda: cluster.serving(0), f"it serves after a kill at step {step}", 60)
        assert list(cluster.roles(0).values()) == ["voter"]
        assert not (cluster.state_dir(0) / "journal.json").exists()
        return True

    assert enumerate_steps(tmp_path, run) > 6, "the steps of a bootstrap were counted"


@pytest.mark.long
def test_a_join_killed_at_any_step_ends_as_one_member_at_the_next_start(tmp_path: Path):
    def run(cluster: Cluster, step: int) -> bool:
        cluster.form(1)
        cluster.configure([0, 1])
        cluster.start(1, crash=("identity", step))
        if not crashes(cluster, 1):
            return False
        cluster.start(1)
        cluster.wait(
            lambda: cluster.serving(1) and cluster.role_counts(0) == (2, 0, 0), f"a member, killed at step {step}", 60
        )
        assert sorted(cluster.roles(0)) == [0, 1]
        return True

    assert enumerate_steps(tmp_path, run) > 4, "the steps of a join were counted"


def test_going_on_alone_killed_at_any_step_ends_alone_in_one_new_epoch(tmp_path: Path):
    def run(cluster: Cluster, step: int) -> bool:
        cluster.form(2)
        cluster.kill(0, 1)
        cluster.configure([0], departed=["1"])
        cluster.start(0, crash=("journal.json", step))
        if not crashes(cluster, 0):
            return False
        cluster.start(0)
        cluster.wait(lambda: cluster.serving(0), f"it serves after a kill at step {step}", 60)
        assert list(cluster.roles(0)) == [0]
        epoch = cluster.status(0)["cluster"]["epoch"]
        assert epoch["number"] == 2
        assert json.loads((cluster.state_dir(0) / "identity.json").read_text())["epoch"] == epoch
        assert not (cluster.state_dir(0) / "journal.json").exists()
        return True

    assert enumerate_steps(tmp_path, run) > 4, "the steps of going on alone were counted"


@pytest.mark.long
def test_a_leave_killed_at_any_step_can_be_said_again_at_the_next_start(tmp_path: Path):
    def run(cluster: Cluster, step: int) -> bool:
        cluster.form(2)
        assert cluster.terminate(1) == 0
        # It is a member already: the next time its identity is written is when it has left.
        cluster.start(1, crash=("identity.json", step))
        cluster.wait(lambda: cluster.serving(0, 1) and cluster.role_counts(0) == (2, 0, 0), "it is back", 60)
        cluster.wait(lambda: leaves(cluster, 1) or not cluster.alive(1), "it left, or crashed", 60)
        if cluster.alive(1):
            return False
        cluster.start(1)
        cluster.wait(lambda: leaves(cluster, 1), f"its goodbye is heard, killed at step {step}", 60)
        assert cluster.terminate(1) == 0
        cluster.configure([0], departed=["1"])
        cluster.wait(lambda: cluster.serving(0) and cluster.roles(0) == {0: "voter"}, "one voter", 60)
        return True

    assert enumerate_steps(tmp_path, run) > 2, "the steps of a goodbye were counted"


def leaves(cluster: Cluster, n: int) -> bool:
    """Ask controller n to leave; False if it could not, or is not there to be asked."""
    try:
        _, answer = cluster.request(n, "POST", "/leave", timeout_seconds=40)
    except (confsocket.NoSocket, confsocket.SocketTimeout, OSError, ValueError):
        return False
    return bool(answer.get("left"))

"""What is planned costs nobody a write."""

from __future__ import annotations

from pathlib import Path

from faultrun import client, verdict
from faultrun.clients import Clients
from loopback import Cluster


def test_restarting_all_one_by_one_fails_no_write_of_a_caller_that_retries(tmp_path: Path):
    with Cluster(tmp_path, block=63) as cluster, Clients(tmp_path / "history", 0) as clients:
        cluster.form(3)
        addresses = {str(n): cluster.address(n) for n in range(3)}
        clients.start(addresses)
        leaders = []
        for n in range(3):
            leaders.append(cluster.leader(n))
            assert cluster.terminate(n) == 0
            cluster.start(n)
            cluster.wait(
                lambda: cluster.serving(0, 1, 2) and all(cluster.role_counts(i) == (3, 0, 0) for i in range(3)),
                "three voters, before the next one is stopped",
                40,
            )
        clients.finish()
        clients.read_everything(addresses)
        made = clients.events()
        result = verdict.judge(made, client.ACCOUNTS * client.BALANCE)

    assert 0 in leaders, "the leader was among them"
    failed = [str(d) + " " + d.reason for d in verdict.pair(made) if d.outcome != "acknowledged"]
    assert failed == [], f"history in {tmp_path}"
    assert not result.problems, str(result)
    assert result.acknowledged("append") > 30

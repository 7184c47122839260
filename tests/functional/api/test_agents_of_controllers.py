"""From the rows of real controllers to the file of a real agent: every hop of flow 3, each in a process of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agentdprocess import Agentd, until
from apicontroller import agent_conf
from controller.api import passwords
from controller.api.agent.agentfile import AgentConfFile
from loopback import Cluster

TAG, PASSWORD = "machine-0", "0123456789abcdefghij"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, 86, tls=True) as made:
        yield made


def rows(cluster: Cluster, n: int, sql: str, *params: str, namespace: str = "controller") -> list[list[Any]]:
    status, answer = cluster.request(
        n, "POST", "/sql", document={"sql": sql, "params": params, "namespace": namespace}, timeout_seconds=20
    )
    return answer["rows"] if status == 200 else []


def write(cluster: Cluster, n: int, sql: str, *params: str, namespace: str = "controller") -> None:
    question = {"sql": sql, "params": params, "namespace": namespace, "apply": True}
    status, answer = cluster.request(n, "POST", "/sql/write", document=question, timeout_seconds=20)
    assert status == 200, answer


def published(cluster: Cluster, n: int, audience: str = "agents") -> list[str]:
    found = rows(cluster, n, "SELECT servers FROM api_servers WHERE audience = ?", audience)
    return [address for _, group in msgspec.json.decode(found[0][0]) for address in group] if found else []


def enrolled(cluster: Cluster, n: int) -> str:
    """Give the agent its first secret, as a provisioner does. Return its model."""
    (uuid,) = cluster_until(cluster, lambda: rows(cluster, n, "SELECT uuid FROM model"), "the controller's model")[0]
    sql = "INSERT INTO agent_secret (tag, secret_hash) VALUES (?, ?)"
    kept = passwords.hashed_secret(PASSWORD)
    cluster_until(
        cluster, lambda: rows(cluster, n, "SELECT count(*) FROM agent_secret", namespace=f"model-{uuid}"), "its tables"
    )
    write(cluster, n, sql, TAG, kept, namespace=f"model-{uuid}")
    return f"model-{uuid}"


def cluster_until(cluster: Cluster, ask: Any, what: str, seconds: float = 20) -> Any:
    found: list[Any] = []

    def fact() -> bool:
        found[:] = [ask()]
        return bool(found[0])

    cluster.wait(fact, what, seconds)
    return found[0]


def test_an_agent_follows_what_controllers_publish_and_survives_the_loss_of_its_own(cluster: Cluster, tmp_path: Path):
    cluster.form(3)
    everywhere = [f"{cluster.address(n)}:17070" for n in range(3)]
    cluster.wait(lambda: published(cluster, 0) == everywhere, "the list is published")
    assert published(cluster, 0, "clients") == everywhere
    model = enrolled(cluster, 0)
    conf = agent_conf(
        tmp_path / "agent.conf",
        TAG,
        "".join(cluster.authority.trusted if cluster.authority else ()),
        everywhere[:1],
        PASSWORD,
        "oldpassword",
        more=f"model: {model}\n",
    )
    file = AgentConfFile(conf)
    with Agentd(conf) as agentd:
        assert until(agentd.controller, "connected") == "0"
        until(lambda: sorted(map(str, file.read().apiaddresses)) == everywhere, "the list is in the file", 5)
        assert file.read().apipassword not in ("", PASSWORD)
        epoch = file.read().epoch
        assert epoch is not None
        assert epoch.number == cluster.epoch(0)

        at = time.monotonic()
        cluster.kill(0)
        until(lambda: agentd.controller() in ("1", "2"), "another controller", 5)
        assert time.monotonic() - at < 5

        # The list goes on being published, whoever was responsible for it: a member that is gone is in no list.
        cluster.configure([1, 2], departed=["0"])
        left = everywhere[1:]
        cluster.wait(lambda: published(cluster, 1) == left, "the list without the lost one", 60)
        until(lambda: sorted(map(str, file.read().apiaddresses)) == left, "it is in the file", 5)
        assert agentd.controller() in ("1", "2")
    assert os.stat(conf).st_mode & 0o777 == 0o600

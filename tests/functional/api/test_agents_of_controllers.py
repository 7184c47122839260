"""From the rows of real controllers to the file of a real agent: every hop of flow 3, each in a process of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import hactl
from agentdprocess import Agentd, until
from controller.api.agent.agentfile import AgentConfFile
from loopback import Cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, 86, tls=True) as made:
        yield made


def rows(cluster: Cluster, n: int, sql: str, *params: str, namespace: str = "controller") -> list[list[Any]]:
    status, answer = cluster.request(
        n, "POST", "/sql", document={"sql": sql, "params": params, "namespace": namespace}, timeout_seconds=20
    )
    return answer["rows"] if status == 200 else []


def published(cluster: Cluster, n: int, audience: str = "agents") -> list[str]:
    found = rows(cluster, n, "SELECT servers FROM api_servers WHERE audience = ?", audience)
    return [address for _, group in msgspec.json.decode(found[0][0]) for address in group] if found else []


def enrolled(cluster: Cluster, n: int, path: Path) -> Path:
    """Enrol a machine of one's own, as an operator does."""
    done = hactl.run(cluster.state_dir(n), "add-machine", "--manual")
    assert done.returncode == 0, done
    assert "machine 0 added" in done.stdout
    assert "hactl enrol-machine 0 > agent.conf" in done.stdout
    hactl.run(cluster.state_dir(n), "enrol-machine", "0")
    done = hactl.run(cluster.state_dir(n), "enrol-machine", "0")
    assert done.returncode == 0, done
    path.write_text(done.stdout)
    refused = hactl.run(cluster.state_dir(n), "enrol-machine", "7")
    assert (refused.returncode, "no manual machine 7" in refused.stderr) == (1, True)
    return path


def test_an_agent_follows_what_controllers_publish_and_survives_the_loss_of_its_own(cluster: Cluster, tmp_path: Path):
    cluster.form(3)
    everywhere = [f"{cluster.address(n)}:17070" for n in range(3)]
    cluster.wait(lambda: published(cluster, 0) == everywhere, "the list is published")
    assert published(cluster, 0, "clients") == everywhere
    conf = enrolled(cluster, 0, tmp_path / "agent.conf")
    file = AgentConfFile(conf)
    first = file.read()
    assert sorted(map(str, first.apiaddresses)) == everywhere
    with Agentd(conf) as agentd:
        mine = int(until(agentd.controller, "connected"))
        assert file.read().apipassword not in ("", first.oldpassword), "it has made a password of its own"
        (machine,) = hactl.ask(cluster.state_dir(1), "machines")["machines"]
        assert (machine["state"], machine["reason"]) == ("started", ""), "and its machine is there"
        assert machine["instance"] == f"manual:{machine['address']}"
        assert machine["address"].startswith("127.")
        epoch = file.read().epoch
        assert epoch is not None
        assert epoch.number == cluster.epoch(mine)

        at = time.monotonic()
        cluster.kill(mine)
        others = [n for n in range(3) if n != mine]
        until(lambda: agentd.controller() in map(str, others), "another controller", 5)
        assert time.monotonic() - at < 5

        # The list goes on being published, whoever was responsible for it: a member that is gone is in no list.
        cluster.configure(others, departed=[str(mine)])
        left = [everywhere[n] for n in others]
        cluster.wait(lambda: published(cluster, others[0]) == left, "the list without the lost one", 60)
        until(lambda: sorted(map(str, file.read().apiaddresses)) == left, "it is in the file", 5)
        assert agentd.controller() in map(str, others)

    # The cluster's authority is replaced. What the agent trusts leads to the new one, and from then on it trusts that.
    assert cluster.authority is not None
    cluster.authority.rotate()
    for n in others:
        cluster.certify(n)
    with Agentd(conf) as agentd:
        until(lambda: file.read().cacert == "".join(cluster.authority.trusted), "the new authority is trusted")
        cluster.authority.rotate(retire=True)
        for n in others:
            cluster.certify(n)
        new = "".join(cluster.authority.trusted)
    with Agentd(conf) as agentd:
        until(lambda: file.read().cacert == new, "and the one after it, alone")
        until(agentd.controller, "connected")
    assert os.stat(conf).st_mode & 0o777 == 0o600

"""The API of real controllers: registration, login, addresses and models on real Dqlite, and through a loss."""

from __future__ import annotations

import asyncio
import base64
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.api import connection, messages, registration
from controller.api.connection import Connection
from controller.api.messages import LoginParams, RegisterParams, RPCError
from controller.api.registration import Registration
from controller.api.scopes import HostPort
from loopback import Cluster

PORT = 17070


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, 85, tls=True) as made:
        yield made


def form(cluster: Cluster, count: int) -> None:
    """Bring up controllers whose API answers."""
    cluster.form(count)
    cluster.wait(lambda: all(api(cluster, n).get("listening") for n in range(count)), "the API is served")


def api(cluster: Cluster, n: int) -> dict[str, Any]:
    """What the engine's report says of the API server."""
    report = cluster.request(n, "GET", "/report")[1]["manifolds"]["api-server"]
    found: dict[str, Any] = report.get("report") or {}
    return found


def opened(cluster: Cluster, n: int, user: str = "admin") -> Registration:
    status, answer = cluster.request(n, "POST", "/registration", document={"user": user})
    assert status == 200, answer
    return registration.parse(answer["registration"])


async def dial(cluster: Cluster, n: int, ca_cert: str) -> Connection:
    async with asyncio.timeout(10):
        return await connection.connect(HostPort(cluster.address(n), PORT), connection.client_context(ca_cert))


async def register(cluster: Cluster, n: int, told: Registration, password: str) -> None:
    async with await dial(cluster, n, told.ca_cert) as made:
        asked = RegisterParams(user=told.user, secret=told.secret, password=password)
        await made.call("Registration", 1, "Complete", asked)


async def enter(cluster: Cluster, n: int, told: Registration, password: str) -> tuple[Connection, messages.LoginResult]:
    made = await dial(cluster, n, told.ca_cert)
    return made, await made.login(LoginParams(auth_tag=f"user-{told.user}", credentials=password))


def test_a_user_registers_at_one_controller_and_logs_in_at_any_also_when_one_is_lost(cluster: Cluster):
    form(cluster, 3)
    told = opened(cluster, 0)

    async def play() -> None:
        await register(cluster, 1, told, "s3cret")
        with pytest.raises(RPCError, match="not open"):
            await register(cluster, 2, told, "other")
        for n in range(3):
            made, result = await enter(cluster, n, told, "s3cret")
            assert made.controller_id == str(n)
            assert result.controller_tag == "controller-loopback"
            assert result.epoch is not None
            assert result.epoch.number == cluster.epoch(n)
            assert [str(a) for g in result.servers for a in g] == [f"{cluster.address(i)}:{PORT}" for i in range(3)]
            found = await made.call("ModelManager", 9, "ListModelSummaries", None, dict[str, Any])
            assert [r["result"]["name"] for r in found["results"]] == ["controller"]
            await made.call("Controller", 11, "ConfigSet", {"config": {"juju-mgmt-space": f"space-{n}"}})
            with pytest.raises(RPCError, match="no setting"):
                await made.call("Controller", 11, "ConfigSet", {"config": {"cluster-uuid": "x"}})
            await made.close()
        with pytest.raises(RPCError, match="invalid entity name or password"):
            await enter(cluster, 0, told, "wrong")

        leader = cluster.leader(0)
        assert leader is not None
        cluster.kill(leader)
        left = next(n for n in range(3) if n != leader)
        made, _ = await enter(cluster, left, told, "s3cret")
        config = await made.call("Controller", 11, "ControllerConfig", None, dict[str, Any])
        assert config["config"]["juju-mgmt-space"] == "space-2"
        await made.close()

    asyncio.run(play())


def test_health_is_open_and_metrics_report_and_status_are_for_who_logs_in(cluster: Cluster):
    form(cluster, 1)
    told = opened(cluster, 0)
    context = connection.client_context(told.ca_cert)

    def get(path: str, password: str | None = None) -> tuple[int, bytes]:
        asked = urllib.request.Request(f"https://{cluster.address(0)}:{PORT}{path}")
        if password is not None:
            asked.add_header("Authorization", "Basic " + base64.b64encode(f"user-admin:{password}".encode()).decode())
        try:
            with urllib.request.urlopen(asked, context=context, timeout=20) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    asyncio.run(register(cluster, 0, told, "pw"))

    assert get("/health") == (200, b"ok\n")
    assert get("/introspection/metrics")[0] == 401
    assert get("/introspection/metrics", "wrong")[0] == 401
    assert b"ha_controller_engine_worker_running" in get("/introspection/metrics", "pw")[1]
    assert "api-server" in json.loads(get("/introspection/depengine", "pw")[1])["manifolds"]
    assert json.loads(get("/introspection/cluster", "pw")[1])["state"] == "serving"


def test_an_unknown_user_gets_no_registration_and_the_answer_names_those_there_are(cluster: Cluster):
    form(cluster, 1)

    status, answer = cluster.request(0, "POST", "/registration", document={"user": "nobody"})

    assert (status, answer["error"]) == (400, "Refused")
    assert "admin" in answer["reason"]


def test_another_port_in_the_configuration_is_served_without_a_restart(cluster: Cluster):
    form(cluster, 1)
    pid = cluster.pid(0)

    cluster.configure([0], **{"api-port": PORT + 1})

    wanted = [f"{cluster.address(0)}:{PORT + 1}"]
    cluster.wait(lambda: api(cluster, 0).get("listening") == wanted, "the other port is served")
    assert cluster.pid(0) == pid


def test_where_tls_is_off_there_is_no_api_and_the_report_says_so(tmp_path: Path):
    with Cluster(tmp_path, 85) as cluster:
        cluster.form(1)

        cluster.wait(lambda: "TLS is off" in api(cluster, 0).get("reason", ""), "the reason is told")

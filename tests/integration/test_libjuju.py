"""python-libjuju, as its authors made it, at three real controllers: through the files of our store, and a loss."""

import asyncio
import time
from collections.abc import Iterator

import pytest
from juju.controller import Controller
from juju.errors import JujuAPIError

from controller.api import registration
from controller.api.client.client import Client
from controller.api.client.store import Store
from loopback import Cluster

PORT = 17070


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster"), 86, tls=True) as cluster:
        cluster.form(3)
        cluster.wait(lambda: all(_listens(cluster, n) for n in range(3)), "the API is served")
        yield cluster


@pytest.fixture(scope="module")
def store(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store that knows the cluster, after a registration as a person does it."""
    store = Store(tmp_path_factory.mktemp("client"))
    _, told = cluster.request(0, "POST", "/registration", document={"user": "admin"})

    async def register() -> None:
        async with await Client.register(store, told["registration"], "s3cret", name="prod"):
            pass

    asyncio.run(register())
    assert registration.parse(told["registration"]).controller_uuid == "loopback"
    return store


@pytest.fixture(autouse=True)
def _juju_data(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUJU_DATA", str(store.directory))


def _listens(cluster: Cluster, n: int) -> bool:
    report = cluster.request(n, "GET", "/report")[1]["manifolds"]["api-server"].get("report") or {}
    return bool(report.get("listening"))


def addresses(cluster: Cluster) -> set[str]:
    return {f"{cluster.address(n)}:{PORT}" for n in range(3)}


async def test_it_connects_through_the_files_of_the_store_and_lists_models(cluster: Cluster, store: Store) -> None:
    juju = Controller()
    await juju.connect()
    try:
        assert juju.controller_uuid == "loopback"
        assert juju.controller_name == "prod"
        assert await juju.list_models() == ["controller"]
        assert set(await juju.api_endpoints) == addresses(cluster)
        info = juju.connection().info
        assert {f"{a['value']}:{a['port']}" for group in info["servers"] for a in group} == addresses(cluster)
        assert info["user-info"]["controller-access"] == "superuser"
        # Its own pinger asks as soon as it is connected, and every ten seconds.
        await juju.connection().rpc({"type": "Pinger", "request": "Ping", "version": 1})
        assert await juju.get_cloud() == "ha-controller"
        assert [user.username for user in await juju.get_users()] == ["admin"]
        # It began with the first endpoint of the store, which is the one that let us in last.
        assert juju.connection().endpoint == store.find("prod").entry.api_endpoints[0]
    finally:
        await juju.disconnect()


async def test_it_asks_for_the_name_in_the_store_and_is_told_of_a_wrong_password(
    cluster: Cluster, store: Store
) -> None:
    juju = Controller()
    known = store.find("prod").entry
    with pytest.raises(JujuAPIError, match="invalid entity name or password"):
        await juju.connect(endpoint=known.api_endpoints[0], username="admin", password="wrong", cacert=known.ca_cert)


async def test_it_goes_on_at_another_controller_when_its_own_is_killed(cluster: Cluster) -> None:
    juju = Controller()
    await juju.connect("prod")
    try:
        before = juju.connection().endpoint
        lost = next(n for n in range(3) if f"{cluster.address(n)}:{PORT}" == before)
        cluster.kill(lost)
        deadline = time.monotonic() + 60
        while True:
            try:
                async with asyncio.timeout(20):
                    assert await juju.list_models() == ["controller"]
                break
            except Exception:
                # It reconnects by itself, and fails what was asked meanwhile.
                assert time.monotonic() < deadline, "it does not come back"
                await asyncio.sleep(0.2)
        assert juju.connection().endpoint != before
        assert juju.connection().endpoint in addresses(cluster)
    finally:
        await juju.disconnect()
        cluster.start(lost)
        await asyncio.to_thread(cluster.wait, lambda: cluster.serving(0, 1, 2), "all serve again")

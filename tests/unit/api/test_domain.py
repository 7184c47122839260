"""What is behind the API, on rows: users, agents, settings, addresses; and fakes that keep the same promises."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from apiserver import until
from controller.api import agentsecrets, nodes
from controller.api.agentsecrets import AgentSecrets
from controller.api.domain import Agents, Config, Model, Users
from controller.api.messages import RPCError
from controller.api.nodes import Published
from controller.api.published import PublishedAddresses
from controller.api.scopes import HostPort
from controller.api.selection import Servers
from controller.api.users import UserStore
from controller.api.watching import Subject
from controller.controllerconfig import ControllerConfig
from controller.workers import machinerows
from dbaccessor import errors
from fakedomain import MODEL_UUID, FakeAgents, FakeConfig, FakeUsers
from sqlitedatabase import SqliteDatabase

LIB = Path(__file__).parents[3] / "lib"
CONTROLLER = [
    LIB / "dbaccessor/schema/0001-controller.sql",
    *sorted((LIB / "controller/schema/controller").glob("*.sql")),
]
MODEL = sorted((LIB / "controller/schema/model").glob("*.sql"))


class Models:
    """The controllers' model and another, each with a database."""

    def __init__(self) -> None:
        self.databases = {uuid: SqliteDatabase(*MODEL) for uuid in (MODEL_UUID, "web", "gone")}

    async def models(self) -> tuple[Model, ...]:
        return (Model(MODEL_UUID, "controller"), Model("web", "web"), Model("gone", "gone", life="dead"))

    def database(self, model_uuid: str) -> SqliteDatabase:
        return self.databases[model_uuid]


def real_agents() -> AgentSecrets:
    models = Models()
    for uuid, tag in ((MODEL_UUID, "machine-0"), ("gone", "machine-0")):
        asyncio.run(models.databases[uuid].run(lambda tx, tag=tag: agentsecrets.provide(tx, tag, "kept")))
    return AgentSecrets(models)


def fake_agents() -> FakeAgents:
    fake = FakeAgents()
    fake.kept["machine-0"] = "kept"
    return fake


@pytest.fixture(params=[lambda: UserStore(SqliteDatabase(*CONTROLLER)), FakeUsers], ids=["rows", "fake"])
def users(request: pytest.FixtureRequest) -> Users:
    return request.param()


@pytest.fixture(params=[real_agents, fake_agents], ids=["rows", "fake"])
def agents(request: pytest.FixtureRequest) -> Agents:
    return request.param()


@pytest.fixture(params=[lambda: ControllerConfig(SqliteDatabase(*CONTROLLER)), FakeConfig], ids=["rows", "fake"])
def config(request: pytest.FixtureRequest) -> Config:
    return request.param()


def test_there_is_one_user_to_begin_with_who_has_no_password(users: Users):
    async def play() -> None:
        (admin,) = await users.users()
        assert (admin.name, admin.access, admin.password_hash, admin.disabled) == ("admin", "superuser", None, False)
        assert admin.created.endswith("Z")
        assert await users.user("admin") == admin
        assert await users.user("nobody") is None

    asyncio.run(play())


def test_a_registration_works_once_and_the_last_one_counts(users: Users):
    async def play() -> None:
        assert not await users.register("admin", "s1", "h0")
        assert await users.open_registration("admin", "s1", 60)
        assert await users.open_registration("admin", "s2", 60)
        assert not await users.open_registration("nobody", "s", 60)
        assert not await users.register("admin", "s1", "h1")
        assert not await users.register("nobody", "s2", "h1")
        assert await users.register("admin", "s2", "h2")
        assert not await users.register("admin", "s2", "h3")
        found = await users.user("admin")
        assert found is not None
        assert found.password_hash == "h2"

    asyncio.run(play())


def test_a_registration_that_has_expired_is_not_open(users: Users):
    async def play() -> None:
        assert await users.open_registration("admin", "s", 0)
        assert not await users.register("admin", "s", "h")

    asyncio.run(play())


def test_a_password_is_replaced_for_those_there_are(users: Users):
    async def play() -> None:
        assert await users.set_password_hash("admin", "h")
        assert not await users.set_password_hash("nobody", "h")
        found = await users.user("admin")
        assert found is not None
        assert found.password_hash == "h"

    asyncio.run(play())


def test_a_registration_whose_commit_is_in_doubt_is_carried_out_once():
    database = SqliteDatabase(*CONTROLLER)
    store = UserStore(database)

    class Doubtful:
        async def run(self, fn, **told):
            result = await database.run(fn, **told)
            if not self.told:
                self.told = True
                raise errors.Indefinite("the connection ended")
            return result

        told = False

    async def play() -> None:
        await store.open_registration("admin", "s", 60)
        assert await UserStore(Doubtful()).register("admin", "s", "h")

    asyncio.run(play())


def test_agents_are_known_in_their_model_alone_and_replace_their_secret(agents: Agents):
    async def play() -> None:
        assert await agents.secret_hash("", "machine-0") == "kept"
        assert await agents.secret_hash(MODEL_UUID, "machine-0") == "kept"
        assert await agents.secret_hash("web", "machine-0") is None
        assert await agents.secret_hash("gone", "machine-0") is None
        assert await agents.secret_hash("unknown", "machine-0") is None
        assert await agents.secret_hash("", "machine-1") is None
        assert await agents.set_secret_hash(MODEL_UUID, "machine-0", "fresh", "10.0.0.9", instead_of="kept")
        assert not await agents.set_secret_hash("web", "machine-0", "fresh", "10.0.0.9", instead_of="kept")
        assert not await agents.set_secret_hash("", "machine-1", "fresh", "10.0.0.9", instead_of="kept")
        assert await agents.secret_hash("", "machine-0") == "fresh"

    asyncio.run(play())


def test_a_secret_is_replaced_by_whoever_has_the_one_that_is_kept_and_by_nobody_who_comes_too_late(agents: Agents):
    async def play() -> None:
        assert await agents.set_secret_hash("", "machine-0", "fresh", "10.0.0.9", instead_of="kept")
        assert await agents.set_secret_hash("", "machine-0", "fresh", "10.0.0.9", instead_of="kept"), "twice is as once"
        assert not await agents.set_secret_hash("", "machine-0", "late", "10.0.0.9", instead_of="kept")
        assert await agents.secret_hash("", "machine-0") == "fresh"
        assert await agents.set_secret_hash("", "machine-0", "next", "10.0.0.9", instead_of="fresh")

    asyncio.run(play())


def test_a_manual_machine_has_started_when_its_agent_made_a_secret_of_its_own():
    models = Models()
    database = models.databases["web"]
    agents = AgentSecrets(models)

    async def rows() -> list[tuple[object, ...]]:
        found = await database.run(lambda tx: tx.query("SELECT number, state, instance, address, reason FROM machine"))
        return [tuple(row) for row in found.rows]

    async def play() -> None:
        await database.run(lambda tx: machinerows.add(tx, ["u-0"], manual=True))
        await database.run(lambda tx: machinerows.add(tx, ["u-1"]))
        for tag in ("machine-0", "machine-1", "unit-x-0", "machine-00x"):
            await database.run(lambda tx, tag=tag: agentsecrets.provide(tx, tag, "first"))
            assert await agents.set_secret_hash("web", tag, "own", "::ffff:10.0.0.9", instead_of="first")
        provided = (1, "pending", "", "", "")
        assert await rows() == [(0, "started", "manual:10.0.0.9", "10.0.0.9", ""), provided], "no other is moved by it"
        await agents.set_secret_hash("web", "machine-0", "again", "fd00::9", instead_of="own")
        assert await rows() == [(0, "started", "manual:fd00::9", "fd00::9", ""), provided], "enrolled anew, elsewhere"
        await database.run(lambda tx: machinerows.remove(tx, [0]))
        await agents.set_secret_hash("web", "machine-0", "late", "10.0.0.9", instead_of="again")
        assert [row[1] for row in await rows()] == ["stopped", "pending"]

    asyncio.run(play())


def test_a_withdrawn_secret_lets_nobody_in():
    models = Models()
    database = models.databases["web"]

    async def play() -> None:
        await database.run(lambda tx: agentsecrets.provide(tx, "machine-0", "kept"))
        assert await AgentSecrets(models).secret_hash("web", "machine-0") == "kept"
        await database.run(lambda tx: agentsecrets.withdraw(tx, "machine-0"))
        assert await AgentSecrets(models).secret_hash("web", "machine-0") is None

    asyncio.run(play())


def test_settings_are_set_and_unset_and_an_unknown_key_changes_nothing(config: Config):
    async def read() -> Mapping[str, str]:
        return await config.config()

    async def play() -> None:
        assert await read() == {}
        await config.set({"juju-mgmt-space": "mgmt"})
        assert await read() == {"juju-mgmt-space": "mgmt"}
        with pytest.raises(errors.Refused, match="forbidden"):
            await config.set({"juju-mgmt-space": "other", "forbidden": "x"})
        assert await read() == {"juju-mgmt-space": "mgmt"}
        await config.set({"juju-mgmt-space": ""})
        assert await read() == {}

    asyncio.run(play())


def test_what_the_cluster_keeps_beside_the_settings_is_neither_told_nor_changed():
    database = SqliteDatabase(*CONTROLLER)
    database.sqlite.execute("INSERT INTO controller_config VALUES ('cluster-uuid', 'u')")

    async def play() -> None:
        settings = ControllerConfig(database)
        assert await settings.config() == {}
        assert await settings.all() == {"local-provider": "", "juju-mgmt-space": ""}
        with pytest.raises(errors.Refused):
            await settings.set({"cluster-uuid": "x"})

    asyncio.run(play())


class Cluster:
    """Two controllers that listen, and lists that the test publishes."""

    def __init__(self) -> None:
        self.database = SqliteDatabase(*CONTROLLER)
        for number in ("0", "1"):
            self.database.sqlite.execute(
                "INSERT INTO controller_node (controller_id, dqlite_node_id, name, dqlite_bind_address, generation)"
                " VALUES (?, ?, ?, ?, 1)",
                (number, f"7{number}", f"controller-{number}-7{number}", f"10.0.0.{number}"),
            )
        self.addresses = PublishedAddresses(self.database, 17070, look_seconds=0.01)

    async def publish(self, audience: str, revision: int, *hosts: str) -> None:
        servers = tuple(Servers(str(n), (HostPort(host, 17071),)) for n, host in enumerate(hosts))
        await self.database.run(lambda tx: nodes.publish(tx, audience, Published(servers, revision)))


def test_before_anything_is_published_each_controller_is_where_its_node_listens():
    async def play() -> None:
        cluster = Cluster()
        found = await cluster.addresses.for_clients()
        assert [[str(a) for a in group] for group in found] == [["10.0.0.0:17070"], ["10.0.0.1:17070"]]
        assert found == await cluster.addresses.for_agents()

    asyncio.run(play())


def test_each_audience_gets_its_list_with_types_and_scopes():
    async def play() -> None:
        cluster = Cluster()
        await cluster.publish(nodes.AGENTS, 1, "10.0.0.1")
        await cluster.publish(nodes.CLIENTS, 1, "8.8.8.8", "fd00::1")
        ((agents,),) = await cluster.addresses.for_agents()
        ((first,), (second,)) = await cluster.addresses.for_clients()
        assert (agents.value, agents.port, agents.scope) == ("10.0.0.1", 17071, "local-cloud")
        assert (first.scope, first.type) == ("public", "ipv4")
        assert (second.scope, second.type) == ("local-cloud", "ipv6")

    asyncio.run(play())


def test_those_who_watch_hear_of_the_agents_list_and_of_no_other(recwarn: pytest.WarningsRecorder):
    async def play() -> None:
        cluster = Cluster()
        await cluster.publish(nodes.AGENTS, 1, "10.0.0.1")
        running = asyncio.create_task(cluster.addresses.run())
        watcher = cluster.addresses.watch()
        async with asyncio.timeout(5):
            await watcher.next()  # The first look may be news to anybody.
        waiting = asyncio.create_task(watcher.next())
        await cluster.publish(nodes.CLIENTS, 5, "10.0.0.9")
        cluster.database.trouble = errors.NotReady("no leader")
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await cluster.publish(nodes.AGENTS, 2, "10.0.0.2")
        async with asyncio.timeout(5):
            await waiting
        watcher.stop()
        running.cancel()

    asyncio.run(play())


def test_notes_that_change_alone_are_seen_and_wake_nobody():
    async def play() -> None:
        cluster = Cluster()
        await cluster.publish(nodes.AGENTS, 1, "10.0.0.1")
        running = asyncio.create_task(cluster.addresses.run())
        watcher = cluster.addresses.watch()
        async with asyncio.timeout(5):
            await watcher.next()
        waiting = asyncio.create_task(watcher.next())
        published = Published((Servers("0", (HostPort("10.0.0.1", 17071),)),), 1, ("controller 0 has none there",))
        await cluster.database.run(lambda tx: nodes.publish(tx, nodes.AGENTS, published))
        await until(lambda: cluster.addresses.notes == published.notes, "the notes")
        assert not waiting.done()
        watcher.stop()
        running.cancel()
        await asyncio.gather(waiting, running, return_exceptions=True)

    asyncio.run(play())


def test_a_stopped_watcher_ends_whoever_waits_and_hears_of_nothing_more():
    async def play() -> None:
        subject = Subject()
        watcher, other = subject.watch(), subject.watch()
        waiting = asyncio.create_task(watcher.next())
        await asyncio.sleep(0)
        watcher.stop()
        with pytest.raises(RPCError, match="stopped"):
            await waiting
        other.stop()
        assert not subject.watched
        await until(lambda: True, "")

    asyncio.run(play())

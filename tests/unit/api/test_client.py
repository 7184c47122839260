"""The client: the last good address first, the others after it, clear errors, and a store that says what is true."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import filelock
import pytest

from apiserver import Served
from controller.api import messages, passwords, registration
from controller.api.client.client import Client, ClientError, Denied, NoPassword, NotNow, Unavailable, Untrusted
from controller.api.client.entries import Account, Entry
from controller.api.client.store import LOCK, Store, StoreError, Unknown
from controller.api.connection import Over
from controller.api.dial import Pace
from controller.api.messages import Epoch, RPCError
from controller.api.registration import BadRegistration, Registration
from dbaccessor import errors
from fakedomain import UUID, servers
from testauthority import TestAuthority

PACE = Pace(interval=0.3, attempt=1.0, total=3.0)


class Cluster:
    """Three controllers of one cluster, and a store that knows it as prod."""

    def __init__(self, root: Path) -> None:
        first = Served(root)
        self.all = [first, *(Served(root, controller_id=str(n), like=first) for n in (1, 2))]
        self.ca_cert = first.ca_cert
        self.store = Store(root / "data")

    async def start(self) -> None:
        for served in self.all:
            served.fakes.users.give("admin", "pw")
            await served.start()
        self.addresses = [str(served.address) for served in self.all]
        self.publish(self.addresses)

    def publish(self, addresses: list[str]) -> None:
        for served in self.all:
            served.fakes.addresses.clients = servers(*[[a] for a in addresses])

    def know(self, *endpoints: str, epoch: Epoch | None = None, password: str = "pw", ca_cert: str = "") -> None:
        entry = Entry(UUID, endpoints or tuple(self.addresses), ca_cert or self.ca_cert, epoch or Epoch())
        self.store.add("prod", entry, Account("admin", password))

    def endpoints(self) -> list[str]:
        return list(self.store.find("prod").entry.api_endpoints)

    async def connect(self, **told: object) -> Client:
        return await Client.connect(self.store, "prod", pace=PACE, **told)  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def running(root: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(root)
    await cluster.start()
    try:
        yield cluster
    finally:
        for served in cluster.all:
            await served.stop()


def play(root: Path, story: Callable[[Cluster], Awaitable[None]]) -> None:
    async def run() -> None:
        async with running(root) as cluster:
            await story(cluster)

    asyncio.run(run())


def test_the_last_good_address_is_dialled_first_for_every_connection_whatever_is_published(tmp_path: Path):
    dice = random.Random(5)

    async def story(cluster: Cluster) -> None:
        cluster.know()
        last = cluster.addresses[0]
        for turn in range(15):
            published = [*cluster.addresses, "127.0.0.2:1"]
            dice.shuffle(published)
            cluster.publish(published)
            lost = None
            if turn % 5 == 4:  # The one that was good last goes away, for one connection.
                lost = cluster.addresses.index(last)
                await cluster.all[lost].stop()
            before = [served.dialled for served in cluster.all]
            async with await cluster.connect() as client:
                now = str(client.connection.address)
            dialled = [served.dialled - b for served, b in zip(cluster.all, before, strict=True)]
            if lost is None:
                assert now == last
                assert dialled == [int(a == last) for a in cluster.addresses], "somebody else was dialled too"
            else:
                assert now != last
                again = Served(tmp_path, controller_id=str(lost), like=cluster.all[0])
                again.fakes.users.give("admin", "pw")
                again.server._wanted_port = int(last.rpartition(":")[2])
                cluster.all[lost] = again
                await again.start()
            assert cluster.endpoints()[0] == now
            assert set(cluster.endpoints()) == {*cluster.addresses, "127.0.0.2:1"}
            last = now

    play(tmp_path, story)


def test_one_that_does_not_answer_costs_a_short_delay_and_no_time_out(tmp_path: Path):
    async def story(cluster: Cluster) -> None:
        with socket.create_server(("127.0.0.1", 0)) as mute:  # The kernel answers; nobody accepts.
            cluster.know(f"127.0.0.1:{mute.getsockname()[1]}", cluster.addresses[2])
            patient = Pace(interval=0.3, attempt=30.0, total=60.0)
            async with asyncio.timeout(15), await Client.connect(cluster.store, "prod", pace=patient) as client:
                assert str(client.connection.address) == cluster.addresses[2]

    play(tmp_path, story)


def test_when_nobody_can_be_reached_each_address_is_named_with_its_reason(tmp_path: Path):
    async def story(cluster: Cluster) -> None:
        cluster.know("127.0.0.1:1", "127.0.0.1:2")
        with pytest.raises(Unavailable) as raised:
            await cluster.connect()
        assert "127.0.0.1:1: connection refused" in str(raised.value)
        assert "127.0.0.1:2: connection refused" in str(raised.value)
        assert cluster.endpoints() == ["127.0.0.1:1", "127.0.0.1:2"]

    play(tmp_path, story)


def test_a_certificate_of_somebody_else_is_said_to_be_so_and_no_password_is_sent(tmp_path: Path):
    async def story(cluster: Cluster) -> None:
        cluster.know(ca_cert=TestAuthority().current.certificate)
        with pytest.raises(Untrusted, match="not of a trusted authority"):
            await cluster.connect()
        cluster.store.forget("prod")
        cluster.know(ca_cert="nonsense")
        with pytest.raises(Untrusted, match="register again"):
            await cluster.connect()

    play(tmp_path, story)


def test_a_wrong_password_names_the_user_and_is_tried_once_at_each_controller(tmp_path: Path):
    async def story(cluster: Cluster) -> None:
        cluster.know(password="wrong")
        with pytest.raises(Denied) as raised:
            await cluster.connect()
        assert str(raised.value) == "prod does not let admin in: invalid entity name or password"
        assert [served.dialled for served in cluster.all] == [1, 1, 1]
        async with await cluster.connect(password="pw"):
            pass
        cluster.store.set_account("prod", Account("admin"))
        with pytest.raises(NoPassword, match="hactl login"):
            await cluster.connect()
        cluster.store.forget_account("prod")
        with pytest.raises(NoPassword, match="nobody is logged in"):
            await cluster.connect()
        with pytest.raises(Unknown):
            await Client.connect(cluster.store, "other")

    play(tmp_path, story)


def test_one_that_was_left_behind_with_an_older_password_keeps_nobody_out(tmp_path: Path):
    async def story(cluster: Cluster) -> None:
        cluster.know()
        cluster.all[0].fakes.users.give("admin", "the one before")
        cluster.all[1].fakes.about.own = Epoch(1, "b")
        async with await cluster.connect() as client:
            assert str(client.connection.address) == cluster.addresses[1]
        entry = cluster.store.find("prod").entry
        assert (entry.api_endpoints[0], entry.epoch) == (cluster.addresses[1], Epoch(1, "b"))

    play(tmp_path, story)


def test_a_controller_that_denied_is_not_asked_at_another_of_its_addresses(tmp_path: Path):
    async def story(cluster: Cluster) -> None:
        port = cluster.addresses[0].rpartition(":")[2]
        cluster.know(cluster.addresses[0], f"localhost:{port}", password="wrong")
        with pytest.raises(Denied, match="in: invalid entity name or password$"):
            await cluster.connect()
        assert cluster.all[0].server.report()["failed-logins"] == 1

    play(tmp_path, story)


def test_a_wrong_password_is_tried_at_so_many_controllers_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("controller.api.client.client._MOST_DENIALS", 2)

    async def story(cluster: Cluster) -> None:
        cluster.know(password="wrong")
        with pytest.raises(Denied):
            await cluster.connect()
        assert [served.dialled for served in cluster.all] == [1, 1, 0]

    play(tmp_path, story)


def test_who_is_denied_does_not_wait_long_for_those_who_do_not_answer_and_hears_of_them(tmp_path: Path):
    async def story(cluster: Cluster) -> None:
        cluster.know(cluster.addresses[0], "127.0.0.1:1", password="wrong")
        stubborn = Pace(interval=0.3, attempt=30.0, total=60.0, retry=2.0)
        async with asyncio.timeout(15):
            with pytest.raises(Denied) as raised:
                await Client.connect(cluster.store, "prod", pace=stubborn)
        assert f"{cluster.addresses[0]}: invalid entity name or password" in str(raised.value)
        assert "127.0.0.1:1: connection refused" in str(raised.value)

    play(tmp_path, story)


def test_a_controller_that_cannot_let_anybody_in_now_is_passed_over(tmp_path: Path):
    async def story(cluster: Cluster) -> None:
        cluster.know()
        for served in cluster.all[:2]:
            served.fakes.users.trouble = errors.NotReady("no quorum")
        async with await cluster.connect() as client:
            assert str(client.connection.address) == cluster.addresses[2]
        cluster.all[2].fakes.users.trouble = errors.NotReady("no quorum")
        with pytest.raises(NotNow) as raised:
            await cluster.connect()
        assert str(raised.value).count("no quorum") == 3

    play(tmp_path, story)


def test_a_controller_that_was_left_behind_is_told_so_and_passed_over(tmp_path: Path):
    async def story(cluster: Cluster) -> None:
        cluster.know(epoch=Epoch(2, "b"))
        cluster.all[1].fakes.about.own = Epoch(2, "other")
        cluster.all[2].fakes.about.own = Epoch(3, "c")
        async with await cluster.connect() as client:
            assert str(client.connection.address) == cluster.addresses[2]
        assert cluster.all[0].fakes.about.told == [Epoch(2, "b")]
        assert cluster.store.find("prod").entry.epoch == Epoch(3, "c")
        await cluster.all[2].stop()
        with pytest.raises(Unavailable, match="epoch 2"):
            await cluster.connect()

    play(tmp_path, story)


def test_whom_to_trust_follows_the_controllers_when_they_get_another_authority(tmp_path: Path):
    async def story(cluster: Cluster) -> None:
        cluster.know()
        lost = cluster.all[2]
        cluster.all[0].authority.rotate(retire=True)
        fresh = "".join(cluster.all[0].authority.trusted)
        for n, served in enumerate(cluster.all[:2]):
            served.authority.write(served.directory, str(n))
            served.fakes.about._ca_cert = fresh
        # The store knows the old authority alone; the new one's certificate leads back to it.
        async with await cluster.connect():
            pass
        assert cluster.store.find("prod").entry.ca_cert == fresh
        for served in cluster.all[:2]:
            await served.stop()
        assert lost.directory.exists()
        with pytest.raises(Untrusted):
            await cluster.connect()

    play(tmp_path, story)


def test_a_redirect_is_not_followed_and_changes_nothing(tmp_path: Path):
    async def story(cluster: Cluster) -> None:
        cluster.know()
        before = cluster.store.controllers()
        told = {"servers": [[{"value": "10.6.6.6", "port": 1}]]}
        cluster.all[0].fakes.users.trouble = RPCError("redirection required", messages.REDIRECT, told)  # type: ignore[assignment]
        with pytest.raises(ClientError, match="redirects are not followed"):
            await cluster.connect()
        assert cluster.store.controllers() == before

    play(tmp_path, story)


def test_a_controller_of_another_cluster_with_the_same_authority_is_not_taken_for_ours(tmp_path: Path):
    async def story(cluster: Cluster) -> None:
        cluster.know(cluster.addresses[0])
        cluster.all[0].fakes.about.controller_uuid = "another"
        with pytest.raises(Unavailable, match="another cluster"):
            await cluster.connect()

    play(tmp_path, story)


def test_a_call_goes_on_at_another_controller_when_this_one_has_gone(tmp_path: Path):
    async def story(cluster: Cluster) -> None:
        cluster.know()
        async with await cluster.connect() as client:
            assert str(client.connection.address) == cluster.addresses[0]
            await cluster.all[0].stop()
            await client.connection.until_over()
            await client.call("Pinger", 1, "Ping")
            assert str(client.connection.address) in cluster.addresses[1:]
            assert cluster.endpoints()[0] == str(client.connection.address)

    play(tmp_path, story)


def test_what_was_asked_when_the_controller_went_is_in_doubt_and_not_asked_again(tmp_path: Path):
    async def story(cluster: Cluster) -> None:
        cluster.know()
        async with await cluster.connect() as client:
            going = cluster.all[0]

            async def never() -> None:
                await asyncio.Event().wait()

            going.fakes.config.config = never  # type: ignore[method-assign, assignment]
            asking = asyncio.create_task(client.call("Controller", 11, "ControllerConfig", None, dict))
            await client.call("Pinger", 1, "Ping")  # Answered after the other was taken up.
            await going.stop()
            with pytest.raises(Over, match="this controller stops"):
                await asking

    play(tmp_path, story)


def test_a_store_that_cannot_be_written_is_no_reason_not_to_be_in(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    async def story(cluster: Cluster) -> None:
        cluster.know(*cluster.addresses[:1])
        impatient = Store(cluster.store.directory, lock_seconds=0.1)
        with filelock.FileLock(cluster.store.directory / LOCK):
            async with await Client.connect(impatient, "prod", pace=PACE) as client:
                await client.call("Pinger", 1, "Ping")
        assert "not remembered" in caplog.text
        assert cluster.endpoints() == cluster.addresses[:1]

    play(tmp_path, story)


def test_where_nothing_can_be_remembered_no_registration_is_used_up(tmp_path: Path):
    async def story(cluster: Cluster) -> None:
        secret = passwords.new_secret()
        users = cluster.all[0].fakes.users
        await users.open_registration("admin", passwords.hashed_secret(secret), 60)
        told = Registration(
            user="admin",
            secret=secret,
            controller_name="prod",
            controller_uuid=UUID,
            ca_cert=cluster.ca_cert,
            addresses=(cluster.addresses[0],),
        )
        text = registration.render(told)
        (tmp_path / "hers" / LOCK).mkdir(parents=True)  # It can be read, and not written.
        with pytest.raises(StoreError, match="cannot be changed"):
            await Client.register(Store(tmp_path / "hers"), text, "new", pace=PACE)
        async with await Client.register(cluster.store, text, "new", pace=PACE):
            pass

    play(tmp_path, story)


def test_a_controller_that_cannot_register_anybody_now_is_passed_over(tmp_path: Path):
    async def story(cluster: Cluster) -> None:
        secret = passwords.new_secret()

        async def register(user: str, *_: str) -> bool:
            raise errors.NotReady("there is no leader")

        for served in cluster.all[:2]:  # They are on the wrong side of a cut.
            served.fakes.users.register = register  # type: ignore[method-assign]
        users = cluster.all[2].fakes.users
        await users.open_registration("admin", passwords.hashed_secret(secret), 60)
        cluster.all[0].fakes.users.give("admin", "new")
        told = Registration(
            user="admin",
            secret=secret,
            controller_name="prod",
            controller_uuid=UUID,
            ca_cert=cluster.ca_cert,
            addresses=tuple(cluster.addresses),
        )
        async with await Client.register(cluster.store, registration.render(told), "new", pace=PACE) as client:
            await client.call("Pinger", 1, "Ping")
        assert users.known["admin"].password_hash is not None

        cluster.all[2].fakes.users.register = register  # type: ignore[method-assign]
        with pytest.raises(NotNow) as raised:
            await Client.register(cluster.store, registration.render(told), "new", pace=PACE)
        assert all(f"{a}: the controllers cannot answer now" in str(raised.value) for a in cluster.addresses)

    play(tmp_path, story)


def test_registering_sets_the_password_remembers_the_cluster_and_uses_the_secret_up_once(tmp_path: Path):
    async def story(cluster: Cluster) -> None:
        secret = passwords.new_secret()
        for served in cluster.all:
            served.fakes.users = cluster.all[0].fakes.users
        users = cluster.all[0].fakes.users
        await users.open_registration("admin", passwords.hashed_secret(secret), 60)
        told = Registration(
            user="admin",
            secret=secret,
            controller_name="ha-controller",
            controller_uuid=UUID,
            ca_cert=cluster.ca_cert,
            addresses=("127.0.0.1:1", cluster.addresses[0]),
        )
        text = registration.render(told)
        cluster.store.add("taken", Entry("another", (), ""), Account("admin"))
        with pytest.raises(StoreError, match="choose another name"):
            await Client.register(cluster.store, text, "new", name="taken", pace=PACE)
        with pytest.raises(BadRegistration):
            await Client.register(cluster.store, text[:-9], "new", pace=PACE)
        with pytest.raises(Denied, match="empty"):
            await Client.register(cluster.store, text, "", pace=PACE)
        async with await Client.register(cluster.store, text, "new", name="prod", pace=PACE) as client:
            await client.call("Pinger", 1, "Ping")
        known = cluster.store.find()
        assert (known.name, known.account) == ("prod", Account("admin", "new"))
        assert known.entry.api_endpoints[0] == cluster.addresses[0]
        assert set(known.entry.api_endpoints) == set(cluster.addresses)
        with pytest.raises(Denied, match="not open"):
            await Client.register(cluster.store, text, "other", name="prod", pace=PACE)
        async with await cluster.connect():
            pass

    play(tmp_path, story)

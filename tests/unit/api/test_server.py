"""The API server as agents and clients meet it: logins, facades, watchers, plain HTTP, certificates."""

from __future__ import annotations

import asyncio
import base64
import ssl
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from apiserver import Served, parsed, serve, until
from controller.api import messages, passwords
from controller.api.attempts import FROM_ONE_PLACE
from controller.api.connection import Connection, Over
from controller.api.dial import Kind, PeerError
from controller.api.domain import Model, User
from controller.api.messages import (
    EntityPassword,
    EntityPasswords,
    Epoch,
    ErrorResults,
    HostPortsResult,
    LoginParams,
    RegisterParams,
    RPCError,
)
from dbaccessor import errors
from fakedomain import MODEL_UUID, UUID, servers
from testauthority import TestAuthority

SECRET = passwords.new_secret()
EVERYBODY = servers(["10.0.0.1:17070"], ["10.0.0.2:17070", "[fd00::2]:17070"])


def login(tag: str | None, secret: str | None = "pw", **told: object) -> LoginParams:
    return LoginParams(auth_tag=tag, credentials=secret, **told)  # type: ignore[arg-type]


async def refused(awaitable: object, code: str | None = None) -> str:
    with pytest.raises(RPCError) as raised:
        await awaitable  # type: ignore[misc]
    if code is not None:
        assert raised.value.code == code
    return str(raised.value)


def test_a_user_logs_in_and_learns_where_the_controllers_are_for_clients(tmp_path: Path):
    async def play(served: Served) -> None:
        served.fakes.users.give("admin", "pw")
        served.fakes.addresses.clients = EVERYBODY
        async with await served.connect() as connection:
            result = await connection.login(login("user-admin"))
        assert connection.controller_id == "0"
        assert result.servers == EVERYBODY
        assert result.controller_tag == f"controller-{UUID}"
        assert result.epoch == Epoch(1, "a")
        assert result.ca_cert == served.ca_cert
        assert result.user_info is not None
        assert (result.user_info.identity, result.user_info.controller_access) == ("user-admin", "superuser")
        assert {f.name for f in result.facades} >= {"Controller", "ModelManager", "Cloud", "Pinger", "NotifyWatcher"}
        assert "Machiner" not in {f.name for f in result.facades}

    serve(tmp_path, play)


def test_an_agent_logs_in_and_learns_where_the_controllers_are_for_agents(tmp_path: Path):
    async def play(served: Served) -> None:
        served.fakes.agents.give("machine-0", SECRET)
        served.fakes.addresses.agents = EVERYBODY[:1]
        served.fakes.addresses.clients = EVERYBODY
        async with await served.connect() as connection:
            result = await connection.login(login("machine-0", SECRET, nonce="x"))
            found = await connection.call("Machiner", 5, "APIHostPorts", None, HostPortsResult)
            await connection.call("Pinger", 1, "Ping")
        assert result.servers == found.servers == EVERYBODY[:1]
        assert result.user_info is None
        assert {f.name for f in result.facades} == {"Machiner", "Agent", "Pinger", "NotifyWatcher"}

    serve(tmp_path, play)


@pytest.mark.parametrize(
    ("tag", "secret"),
    [
        ("user-admin", "wrong"),
        ("user-admin", ""),
        ("user-admin", None),
        ("user-nobody", "pw"),
        ("user-locked", "pw"),
        ("machine-0", "wrong"),
        # Each process of a run collects for itself: a secret must not be part of a test's name.
        pytest.param("machine-9", SECRET, id="an unknown machine"),
        pytest.param("machine-../../etc", SECRET, id="no machine's name"),
        ("", "pw"),
        (None, None),
        ("application-x", "pw"),
        ("user-" + "x" * 10_000, "pw"),
    ],
)
def test_whoever_is_not_let_in_learns_nothing_but_that(tmp_path: Path, tag: str | None, secret: str | None):
    async def play(served: Served) -> None:
        served.fakes.users.give("admin", "pw")
        served.fakes.users.give("locked", "pw", disabled=True)
        served.fakes.agents.give("machine-0", SECRET)
        async with await served.connect() as connection:
            said = await refused(connection.login(login(tag, secret)), messages.UNAUTHORIZED)
            assert said == "invalid entity name or password"
            said = await refused(connection.call("Pinger", 1, "Ping"), messages.UNAUTHORIZED)
            assert said == "not logged in: Admin(3).Login comes first"

    serve(tmp_path, play)


def test_a_user_without_a_password_is_not_let_in_until_she_registers_and_the_secret_works_once(tmp_path: Path):
    async def play(served: Served) -> None:
        await refused(served.enter(secret=""), messages.UNAUTHORIZED)
        await served.fakes.users.open_registration("admin", passwords.hashed_secret(SECRET), 60)
        async with await served.connect() as connection:
            asked = RegisterParams(user="admin", secret=SECRET, password="new")
            wrong = RegisterParams(user="admin", secret=SECRET + "x", password="new")
            empty = RegisterParams(user="admin", secret=SECRET, password="")
            assert "not open" in await refused(connection.call("Registration", 1, "Complete", wrong))
            assert "empty" in await refused(connection.call("Registration", 1, "Complete", empty), messages.NOT_VALID)
            await connection.call("Registration", 1, "Complete", asked)
            await refused(connection.call("Registration", 1, "Complete", asked), messages.UNAUTHORIZED)
            await connection.login(login("user-admin", "new"))

    serve(tmp_path, play)


def test_a_model_is_entered_by_its_path_and_an_unknown_one_is_refused(tmp_path: Path):
    async def play(served: Served) -> None:
        served.fakes.users.give("admin", "pw")
        async with await served.connect(model_uuid=MODEL_UUID) as connection:
            result = await connection.login(login("user-admin"))
            assert result.model_tag == f"model-{MODEL_UUID}"
        async with await served.connect(model_uuid=UUID) as connection:
            await refused(connection.login(login("user-admin")), messages.MODEL_NOT_FOUND)

    serve(tmp_path, play)


@pytest.mark.parametrize(
    ("type", "version", "request_", "says"),
    [
        ("Admin", 2, "Login", 'unknown version (2) of interface "Admin"'),
        ("Admin", 3, "Logout", "no such request - method Admin(3).Logout is not implemented"),
        ("Registration", 9, "Complete", 'unknown version (9) of interface "Registration"'),
    ],
)
def test_another_version_is_refused_in_jujus_words(tmp_path: Path, type: str, version: int, request_: str, says: str):
    async def play(served: Served) -> None:
        async with await served.connect() as connection:
            assert await refused(connection.call(type, version, request_), messages.NOT_IMPLEMENTED) == says

    serve(tmp_path, play)


def test_after_the_login_an_unknown_facade_version_or_method_is_refused_and_the_connection_lives(tmp_path: Path):
    async def play(served: Served) -> None:
        served.fakes.users.give("admin", "pw")
        served.fakes.users.give("guest", "pw", access="login")
        async with await served.enter() as connection:
            code = messages.NOT_IMPLEMENTED
            assert await refused(connection.call("Nope", 1, "Ping"), code) == 'unknown facade type "Nope"'
            assert "unknown version (7)" in await refused(connection.call("Pinger", 7, "Ping"), code)
            assert "Pinger(1).Pong is not" in await refused(connection.call("Pinger", 1, "Pong"), code)
            assert await refused(connection.call("Machiner", 5, "APIHostPorts"), messages.UNAUTHORIZED)
            assert "bad" not in await refused(connection.call("NotifyWatcher", 1, "Next", id="7"), messages.NOT_FOUND)
            await connection.call("Pinger", 1, "Ping")
        async with await served.enter("user-guest") as connection:
            asked = {"config": {"juju-mgmt-space": "x"}}
            await refused(connection.call("Controller", 11, "ConfigSet", asked), messages.UNAUTHORIZED)

    serve(tmp_path, play)


def test_models_clouds_users_and_configuration_are_told(tmp_path: Path):
    async def play(served: Served) -> None:
        served.fakes.users.give("admin", "pw")
        served.fakes.models.known.append(Model("m-2", "web", life="dying"))
        served.fakes.addresses.clients = EVERYBODY
        async with await served.enter() as connection:

            async def ask(type: str, version: int, request: str, params: object = None) -> dict[str, object]:
                return await connection.call(type, version, request, params, dict[str, object])

            entity = {"entities": [{"tag": f"model-{MODEL_UUID}"}]}
            summaries = await ask("ModelManager", 9, "ListModelSummaries", {"user-tag": "user-admin", "all": False})
            assert [r["result"]["name"] for r in summaries["results"]] == ["controller", "web"]  # type: ignore
            info = await ask("Controller", 11, "ControllerAPIInfoForModels", entity)
            assert info["results"] == [
                {"addresses": ["10.0.0.1:17070", "10.0.0.2:17070", "[fd00::2]:17070"], "cacert": served.ca_cert}
            ]
            assert list((await ask("Cloud", 7, "Clouds"))["clouds"]) == ["cloud-ha-controller"]  # type: ignore
            users = await ask("UserManager", 3, "UserInfo", {"entities": None, "include-disabled": True})
            assert [r["result"]["username"] for r in users["results"]] == ["admin"]  # type: ignore

            await ask("Controller", 11, "ConfigSet", {"config": {"juju-mgmt-space": "mgmt", "audit": True}})
            found = (await ask("Controller", 11, "ControllerConfig"))["config"]
            assert {"juju-mgmt-space": "mgmt", "audit": "true", "controller-uuid": UUID}.items() <= found.items()  # type: ignore
            await ask("Controller", 11, "ConfigSet", {"config": {"juju-mgmt-space": ""}})
            assert "juju-mgmt-space" not in (await ask("Controller", 11, "ControllerConfig"))["config"]  # type: ignore
            for key in ("forbidden", "controller-uuid"):
                assert key in await refused(ask("Controller", 11, "ConfigSet", {"config": {key: "x"}}))

    serve(tmp_path, play)


def test_a_request_about_very_many_is_refused(tmp_path: Path):
    async def play(served: Served) -> None:
        served.fakes.users.give("admin", "pw")
        for facade, version, method in (
            ("Controller", 11, "ControllerAPIInfoForModels"),
            ("Controller", 11, "GetControllerAccess"),
            ("ModelManager", 9, "ModelInfo"),
            ("Cloud", 7, "Cloud"),
            ("UserManager", 3, "UserInfo"),
        ):
            about = {"entities": [{"tag": "user-admin"}] * messages.MOST_ENTITIES}
            async with await served.enter() as connection:
                answer = await connection.call(facade, version, method, about, dict[str, list[object]])
                assert len(answer["results"]) == messages.MOST_ENTITIES
                about["entities"].append({"tag": "user-admin"})
                said = await refused(connection.call(facade, version, method, about), messages.BAD_REQUEST)
                assert "entities" in said

    serve(tmp_path, play)


def test_a_user_and_an_agent_change_their_own_password_and_nobody_elses(tmp_path: Path):
    fresh = passwords.new_secret()

    async def change(connection: object, type: str, version: int, request: str, tag: str, password: str) -> str:
        asked = EntityPasswords((EntityPassword(tag, password),))
        result = await connection.call(type, version, request, asked, ErrorResults)  # type: ignore[attr-defined]
        return "" if result.results[0].error is None else result.results[0].error.message

    async def play(served: Served) -> None:
        served.fakes.users.give("admin", "pw")
        served.fakes.agents.give("machine-0", SECRET)
        served.fakes.agents.give("machine-1", SECRET)
        async with await served.enter() as connection:
            assert await change(connection, "UserManager", 3, "SetPassword", "user-admin", "other") == ""
            assert await change(connection, "UserManager", 3, "SetPassword", "user-bob", "x") == "permission denied"
        async with await served.enter("machine-0", SECRET) as connection:
            assert await change(connection, "Agent", 3, "SetPasswords", "machine-1", fresh) == "permission denied"
            assert "characters" in await change(connection, "Agent", 3, "SetPasswords", "machine-0", "short")
            assert await change(connection, "Agent", 3, "SetPasswords", "machine-0", fresh) == ""
        await refused(served.enter(), messages.UNAUTHORIZED)
        await (await served.enter(secret="other")).close()
        await refused(served.enter("machine-0", SECRET), messages.UNAUTHORIZED)
        await (await served.enter("machine-0", fresh)).close()

    serve(tmp_path, play)


def test_an_agent_that_was_enrolled_anew_meanwhile_cannot_replace_its_secret(tmp_path: Path):
    async def change(connection: Connection, password: str) -> str:
        asked = EntityPasswords((EntityPassword("machine-0", password),))
        result = await connection.call("Agent", 3, "SetPasswords", asked, ErrorResults)
        return "" if result.results[0].error is None else result.results[0].error.message

    async def play(served: Served) -> None:
        served.fakes.agents.give("machine-0", SECRET)
        async with await served.enter("machine-0", SECRET) as connection:
            first, second = passwords.new_secret(), passwords.new_secret()
            assert await change(connection, first) == ""
            assert await change(connection, second) == "", "the same connection may replace it again"
            served.fakes.agents.give("machine-0", "of the new agent.conf")
            assert "log in again" in await change(connection, first)
        await (await served.enter("machine-0", "of the new agent.conf")).close()

    serve(tmp_path, play)


def test_a_watcher_hears_once_of_several_changes_and_ends_with_stop(tmp_path: Path):
    async def play(served: Served) -> None:
        served.fakes.agents.give("machine-0", SECRET)
        async with await served.enter("machine-0", SECRET) as connection:
            watch = await connection.watch("Machiner", 5, "WatchAPIHostPorts")
            waiting = asyncio.create_task(watch.next())
            await connection.call("Pinger", 1, "Ping")  # Answered beside the one that waits.
            assert not waiting.done()
            served.fakes.addresses.publish(["10.0.0.1:17070"])
            served.fakes.addresses.publish(["10.0.0.2:17070"])
            async with asyncio.timeout(5):
                await waiting
            again = asyncio.create_task(watch.next())
            await connection.call("Pinger", 1, "Ping")
            assert not again.done(), "one change was told twice"
            await watch.stop()
            assert "stopped" in await refused(again, messages.STOPPED)
        await until(lambda: not served.fakes.addresses.subject.watched, "nobody watches")

    serve(tmp_path, play)


def test_watchers_of_a_connection_that_went_away_are_stopped(tmp_path: Path):
    async def play(served: Served) -> None:
        served.fakes.agents.give("machine-0", SECRET)
        connection = await served.enter("machine-0", SECRET)
        watch = await connection.watch("Machiner", 5, "WatchAPIHostPorts")
        waiting = asyncio.create_task(watch.next())
        await connection.call("Pinger", 1, "Ping")
        connection._websocket.transport.abort()
        with pytest.raises(Over):
            await waiting
        await until(lambda: not served.fakes.addresses.subject.watched, "nobody watches")
        await connection.close()

    serve(tmp_path, play)


def test_a_database_that_cannot_answer_now_says_try_again_and_does_not_count_as_a_failure(tmp_path: Path):
    async def play(served: Served) -> None:
        served.fakes.users.give("admin", "pw")
        served.fakes.users.trouble = errors.NotReady("no leader")
        async with await served.connect() as connection:
            for _ in range(20):
                said = await refused(connection.login(login("user-admin")), messages.TRY_AGAIN)
                assert "no leader" in said
            served.fakes.users.trouble = None
            await connection.login(login("user-admin"))

    serve(tmp_path, play)


def test_one_who_knows_a_newer_epoch_is_sent_away_and_the_controller_hears_of_it_only_from_those_it_knows(
    tmp_path: Path,
):
    async def play(served: Served) -> None:
        served.fakes.users.give("admin", "pw")
        async with await served.connect() as connection:
            await refused(connection.login(login("user-admin", "wrong", epoch=Epoch(9, "z"))), messages.UNAUTHORIZED)
            assert served.fakes.about.told == []
            said = await refused(connection.login(login("user-admin", epoch=Epoch(2, "b"))), messages.SUPERSEDED)
            assert "epoch 1" in said
            assert served.fakes.about.told == [Epoch(2, "b")]
            await connection.login(login("user-admin", epoch=Epoch(1, "a")))

    serve(tmp_path, play)


def test_failed_logins_are_held_back_by_name_and_place_and_others_are_not(tmp_path: Path):
    async def play(served: Served) -> None:
        served.fakes.agents.give("machine-0", SECRET)
        served.fakes.agents.give("machine-1", SECRET)
        for _ in range(2):
            async with await served.connect() as connection:
                for _ in range(5):
                    await refused(connection.login(login("machine-0", "wrong")), messages.UNAUTHORIZED)
                assert "too many failed logins" in await connection.until_over()
        async with await served.connect() as connection:
            said = await refused(connection.login(login("machine-0", SECRET)), messages.TRY_AGAIN)
            assert "try again in" in said
            await connection.login(login("machine-1", SECRET))
        assert served.server.report()["failed-logins"] == 10
        assert served.server.report()["failed-logins-held-back"] == 1

    serve(tmp_path, play)


@pytest.mark.parametrize(("prefix", "held_back"), [("2001:db8::", True), ("2001:db8:0:1::", False)])
def test_another_address_of_the_same_ipv6_network_buys_no_more_tries(tmp_path: Path, prefix: str, held_back: bool):
    async def play(served: Served) -> None:
        logins = served.server.logins
        for n in range(10):
            await refused(logins.login(login("machine-0", "wrong"), f"2001:db8::{n}", ""), messages.UNAUTHORIZED)
        said = messages.TRY_AGAIN if held_back else messages.UNAUTHORIZED
        await refused(logins.login(login("machine-0", "wrong"), f"{prefix}10", ""), said)

    serve(tmp_path, play)


def test_strangers_are_counted_by_ipv6_network_and_an_agent_is_where_its_whole_address_is(tmp_path: Path):
    async def play() -> None:
        served = Served(tmp_path, host="::1")
        try:
            await served.start()
        except OSError:
            pytest.skip("there is no IPv6 here")
        try:
            served.fakes.agents.give("machine-0", SECRET)
            async with await served.connect() as connection:
                assert dict(served.server._strangers) == {"::/64": 1}
                await connection.login(login("machine-0", SECRET))
                await until(lambda: not served.server._strangers, "it is known")
                change = EntityPasswords((EntityPassword("machine-0", passwords.new_secret()),))
                await connection.call("Agent", 3, "SetPasswords", change, ErrorResults)
            assert served.fakes.agents.places == {"machine-0": "::1"}
        finally:
            await served.stop()

    asyncio.run(play())


def test_many_guesses_at_once_are_no_more_than_so_many_one_after_another(tmp_path: Path):
    async def play(served: Served) -> None:
        served.fakes.users.give("admin", "pw")
        guessers = [await served.connect() for _ in range(30)]
        asked = asyncio.Barrier(len(guessers))

        async def secret_hash(*_: str) -> str:
            await asked.wait()  # All of them ask before any of them has failed.
            return passwords.hashed_secret(SECRET)

        served.fakes.agents.secret_hash = secret_hash  # type: ignore[method-assign]

        async def guess(connection: Connection, tag: str, secret: str) -> str:
            with pytest.raises(RPCError) as raised:
                await connection.login(login(tag, secret))
            return raised.value.code

        # Guesses that are all alike share one hash, and count like any others.
        served.fakes.users.give("bob", "pw")
        for tag, alike in (("user-admin", False), ("user-bob", True), ("machine-0", False)):
            began = asyncio.get_running_loop().time()
            guesses = [guess(c, tag, "wrong" if alike else f"wrong {n}") for n, c in enumerate(guessers)]
            codes = Counter(await asyncio.gather(*guesses))
            assert set(codes) == {messages.UNAUTHORIZED, messages.TRY_AGAIN}
            # One more may be hashed beside the last, and a guess comes back each few seconds.
            back = (asyncio.get_running_loop().time() - began) / FROM_ONE_PLACE.seconds
            assert FROM_ONE_PLACE.burst <= codes[messages.UNAUTHORIZED] <= FROM_ONE_PLACE.burst + 1 + back, codes
        for connection in guessers:
            await connection.close()

    serve(tmp_path, play)


def test_many_logins_with_one_password_at_once_cost_one_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    hashes: list[str] = []
    go = threading.Event()
    matches = passwords.matches

    def counted(password: str, kept: str | None) -> bool:
        hashes.append(password)
        assert go.wait(30)
        return matches(password, kept)

    monkeypatch.setattr(passwords, "matches", counted)

    async def play(served: Served) -> None:
        served.fakes.users.give("admin", "pw")
        logins = served.server.logins
        asked = 0
        user = served.fakes.users.user

        async def counting(name: str) -> User | None:
            nonlocal asked
            asked += 1
            return await user(name)

        served.fakes.users.user = counting  # type: ignore[method-assign]
        opened = [await served.connect() for _ in range(20)]
        first = asyncio.create_task(logins.login(login("user-admin"), "10.0.0.1", ""))
        await until(lambda: hashes, "the first is being looked at")
        others = [asyncio.create_task(c.login(login("user-admin"))) for c in opened]
        await until(lambda: asked == 21, "all others wait for it")
        # Whoever asked first goes away: another one asks then, for all.
        first.cancel()
        await until(lambda: len(hashes) == 2, "another one asks")
        go.set()
        await asyncio.gather(*others)
        assert hashes == ["pw", "pw"]
        assert not logins._comparing, "nothing is remembered"
        for connection in opened:
            await connection.close()
        await asyncio.gather(first, return_exceptions=True)

    serve(tmp_path, play)


def test_one_who_makes_names_up_does_not_keep_others_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    go = threading.Event()
    matches = passwords.matches

    def waiting(password: str, kept: str | None) -> bool:
        assert go.wait(30)
        return matches(password, kept)

    monkeypatch.setattr(passwords, "matches", waiting)

    async def play(served: Served) -> None:
        served.fakes.users.give("admin", "pw")
        logins = served.server.logins
        made_up = [login(f"user-{n}", f"guess {n}") for n in range(40)]
        tasks = [asyncio.create_task(logins.login(asked, "10.0.0.66", "")) for asked in made_up]
        await until(lambda: sum(task.done() for task in tasks) == 24, "the others are refused at once")
        assert {await refused(task, messages.TRY_AGAIN) for task in tasks if task.done()} == {
            "too many logins at once from this address; try again"
        }
        hers = asyncio.create_task(logins.login(login("user-admin"), "10.0.0.1", ""))
        go.set()
        identity, _ = await hers
        assert identity.tag == "user-admin"
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not logins._waiting

    serve(tmp_path, play)


def test_a_made_up_name_writes_no_line_of_its_own_into_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    async def play(served: Served) -> None:
        caplog.set_level("INFO")
        made_up = RegisterParams(user="x\nall is well\x1b[2K", secret="s", password="p")
        async with await served.connect() as connection:
            await refused(connection.login(login("user-a\nall is well")), messages.UNAUTHORIZED)
            await refused(connection.call("Registration", 1, "Complete", made_up), messages.UNAUTHORIZED)

    serve(tmp_path, play)

    denied = [record.getMessage() for record in caplog.records if "was denied" in record.getMessage()]
    assert len(denied) == 2
    assert all(line.isprintable() and "\\nall is well" in line for line in denied)


def test_health_is_open_and_what_is_inside_is_for_superusers(tmp_path: Path):
    def basic(text: str) -> str:
        return f"Authorization: Basic {base64.b64encode(text.encode()).decode()}"

    async def play(served: Served) -> None:
        served.fakes.users.give("admin", "pw")
        served.fakes.users.give("guest", "pw", access="login")
        assert await served.get("/health") == (200, "ok\n")
        served.unwell = "there is no quorum"
        assert await served.get("/health?x=1") == (503, "there is no quorum\n")
        for page in ("metrics", "depengine", "cluster"):
            path = f"/introspection/{page}"
            assert (await served.get(path))[0] == 401
            assert (await served.get(path, basic("user-admin:wrong")))[0] == 401
            assert (await served.get(path, "Authorization: Bearer x"))[0] == 400
            assert (await served.get(path, "Authorization: Basic ä"))[0] == 400
            assert (await served.get(path, basic("user-guest:pw")))[0] == 403
            assert (await served.get(path, basic("user-admin:pw")))[0] == 200
        assert (await served.get("/introspection/metrics", basic("user-admin:pw")))[1] == "up 1\n"
        assert parsed((await served.get("/introspection/cluster", basic("user-admin:pw")))[1]) == {"state": "serving"}
        assert (await served.get("/nothing"))[0] == 404
        assert (await served.get("/api"))[0] == 426

    serve(tmp_path, play)


def test_a_replaced_certificate_is_shown_to_the_next_connection_and_the_others_live_on(tmp_path: Path):
    async def play(served: Served) -> None:
        served.fakes.users.give("admin", "pw")
        before = await served.enter()
        other = TestAuthority()
        other.write(served.directory, "0")
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            await served.connect()
        served.ca_cert = other.current.certificate
        await (await served.enter()).close()
        await before.call("Pinger", 1, "Ping")
        await before.close()

    serve(tmp_path, play)


def test_who_asks_for_the_name_that_jujus_clients_ask_for_finds_it_in_the_certificate(tmp_path: Path):
    async def play(served: Served) -> None:
        context = served.context
        context.check_hostname = True
        for name in ("juju-apiserver", "juju-app"):
            try:
                _, writer = await asyncio.open_connection(
                    "127.0.0.1", served.server.port, ssl=context, server_hostname=name
                )
            except ssl.SSLCertVerificationError:
                assert name == "juju-app"
            else:
                assert name == "juju-apiserver"
                writer.close()

    serve(tmp_path, play)


def test_without_a_certificate_nobody_is_served_and_the_report_says_why(tmp_path: Path):
    async def play(served: Served) -> None:
        (served.directory / "cert.pem").unlink()
        (served.directory / "key.pem").unlink()
        assert served.server.report()["certificate"] == "cert.pem is not there yet"
        with pytest.raises(OSError):
            await served.connect()
        assert served.server.report()["refused"] == {"no-certificate": 1}

    serve(tmp_path, play)


def test_a_certificate_of_no_controller_is_not_taken_for_one(tmp_path: Path):
    async def play(served: Served) -> None:
        served.authority.write(served.directory, "")
        served.certificate._keyring.controller_id = None
        with pytest.raises(PeerError, match="not of a controller") as raised:
            await served.connect()
        assert raised.value.kind is Kind.CERTIFICATE

    serve(tmp_path, play)


def test_a_server_that_stops_says_so_to_everybody(tmp_path: Path):
    async def play(served: Served) -> None:
        served.fakes.agents.give("machine-0", SECRET)
        connections = [await served.enter("machine-0", SECRET) for _ in range(3)]
        stranger = await served.connect()
        assert served.server.report() | {"listening": []} == {
            "listening": [],
            "certificate": "ok",
            "connections": 3,
            "not-logged-in": 1,
            "refused": {},
            "failed-logins": 0,
            "failed-logins-held-back": 0,
        }
        running = next(
            t for t in asyncio.all_tasks() if t.get_coro().__name__ == "run" and t is not asyncio.current_task()
        )  # type: ignore[union-attr]
        running.cancel()
        for connection in [*connections, stranger]:
            assert "this controller stops" in await connection.until_over()
            await connection.close()

    serve(tmp_path, play)


def test_limits_that_contradict_each_other_are_no_limits():
    from controller.api.limits import Limits

    with pytest.raises(AssertionError):
        replace(Limits(), requests=1)

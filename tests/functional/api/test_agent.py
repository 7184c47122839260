"""The real agent against real API servers over TLS: its process, its file, and whoever answers wrongly."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentdprocess import Agentd, until
from apicontroller import Controllers, agent_conf
from controller.api.agent.agent import Agent
from controller.api.agent.agentfile import AgentConfFile
from controller.api.agent.caller import Patience
from controller.api.dial import Pace
from dbaccessor import tlsfiles
from testauthority import TestAuthority

TAG, PASSWORD = "machine-0", "0123456789abcdefghij"


@pytest.fixture
def controllers(tmp_path: Path) -> Iterator[Controllers]:
    with Controllers(tmp_path) as controllers:
        controllers.world.secrets = {TAG: PASSWORD}
        yield controllers


def started(controllers: Controllers, *numbers: int) -> list[str]:
    for n in numbers:
        controllers.start(n)
    for n in numbers:
        controllers.wait_for(n)
    controllers.publish(*numbers)
    return [controllers.addresses[n] for n in numbers]


def test_an_agent_finds_another_controller_within_seconds_and_follows_the_list(
    controllers: Controllers, tmp_path: Path
):
    addresses = started(controllers, 0, 1, 2)
    conf = agent_conf(tmp_path / "agent.conf", TAG, controllers.cacert, addresses[:1], PASSWORD, "oldpassword")
    file = AgentConfFile(conf)
    with Agentd(conf) as agentd:
        assert until(agentd.controller, "connected") == "0", "the only one it knew at first"
        until(lambda: len(file.read().apiaddresses) == 3, "the list is in the file")
        assert file.read().apipassword != PASSWORD, "it has made a password of its own"
        done = agentd.status()
        assert (done.returncode, json.loads(done.stdout)["caller"]["address"]) == (0, addresses[0])

        at = time.monotonic()
        controllers.kill(0)
        other = until(
            lambda: agentd.controller() if agentd.controller() not in ("", "0") else "", "another controller", 5
        )
        assert other in ("1", "2")
        assert time.monotonic() - at < 5

        controllers.start(3)
        controllers.wait_for(3)
        controllers.publish(3)
        until(lambda: agentd.controller() == "3", "it moves to the only one that is published")
        until(lambda: list(map(str, file.read().apiaddresses)) == [controllers.addresses[3]], "and the old ones go")
        assert "later: [kept]\n" in conf.read_text()
        assert conf.stat().st_mode & 0o777 == 0o600

        agentd.process.send_signal(signal.SIGTERM)
        assert agentd.process.wait(20) == 0
        assert not conf.with_name("agentd-state.json").exists()
        done = agentd.status()
        assert (done.returncode, done.stderr) == (5, f"no agentd runs in {tmp_path}\n")


def test_without_a_quorum_it_waits_and_says_why_and_comes_back_within_five_seconds(
    controllers: Controllers, tmp_path: Path
):
    addresses = started(controllers, 0, 1)
    controllers.world.quorum = False
    controllers.write()
    conf = agent_conf(tmp_path / "agent.conf", TAG, controllers.cacert, addresses, PASSWORD)
    with Agentd(conf) as agentd:
        until(lambda: "there is no leader" in agentd.state()["caller"].get("problem", ""), "it says why")
        assert agentd.status().returncode == 5
        controllers.world.quorum = True
        controllers.write()
        until(agentd.controller, "connected", 5)


def test_one_agent_conf_has_one_agentd(controllers: Controllers, tmp_path: Path):
    addresses = started(controllers, 0)
    conf = agent_conf(tmp_path / "agent.conf", TAG, controllers.cacert, addresses, PASSWORD)
    with Agentd(conf) as agentd:
        until(agentd.controller, "connected")
        with Agentd(conf) as second:
            assert second.process.wait(20) == 75
        assert agentd.controller() == "0"


# Whoever answers wrongly, each on a port of its own.


@contextlib.asynccontextmanager
async def listening(
    handler: Callable[..., Awaitable[None]], context: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    tasks: set[asyncio.Task[Any]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await handler(reader, writer)
        writer.transport.abort()
        tasks.discard(task)

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take everything, answer nothing."""
    while await reader.read(1000):
        pass


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)


def answers(status: str) -> Callable[..., Awaitable[None]]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status}\r\nLocation: https://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        await reader.read()

    return answer


def context_of(authority: TestAuthority, folder: Path, controller_id: str) -> ssl.SSLContext:
    files = authority.write(folder, controller_id)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files / tlsfiles.CERTIFICATE, files / tlsfiles.KEY)
    return context


def test_among_six_who_answer_wrongly_it_finds_the_one_controller(controllers: Controllers, tmp_path: Path):
    (good,) = started(controllers, 0)
    authority = controllers.authority
    ours = context_of(authority, tmp_path / "tls-ours", "7")
    foreign = context_of(TestAuthority(), tmp_path / "tls-foreign", "7")
    nobody = context_of(authority, tmp_path / "tls-nobody", "")
    quick = Patience(first_pause=0.05, longest_pause=0.1, refused_pause=0.2)

    async def play() -> None:
        async with contextlib.AsyncExitStack() as stack:
            silent = await stack.enter_async_context(listening(hold))
            closing = await stack.enter_async_context(listening(hang_up))
            of_another = await stack.enter_async_context(listening(hold, foreign))
            of_nobody = await stack.enter_async_context(listening(answers("400 Bad Request"), nobody))
            redirects = await stack.enter_async_context(listening(answers("302 Found"), ours))
            web = await stack.enter_async_context(listening(answers("404 Not Found"), ours))
            refusing = "127.0.0.1:1"
            wrong = [silent, closing, of_another, of_nobody, redirects, web, refusing]
            conf = agent_conf(tmp_path / "agent.conf", TAG, controllers.cacert, wrong, PASSWORD)
            agent = Agent(conf, pace=Pace(interval=0.1, attempt=1.5, total=20), patience=quick)
            task = asyncio.create_task(agent.run())
            try:
                problem = ""
                async with asyncio.timeout(30):
                    while "no controller can be trusted" not in problem:
                        problem = agent.caller.report()["problem"]
                        await asyncio.sleep(0.02)
                for address, reason in {
                    of_nobody: "it answers as a web server does (400)",
                    of_another: "its certificate is not of a trusted authority",
                    silent: "no answer within 1.5 s",
                    closing: "closed the connection",
                    redirects: "it answers as a web server does (302)",
                    web: "it answers as a web server does (404)",
                    refusing: "connection refused",
                }.items():
                    assert any(address in part and reason in part for part in problem.split(";")), (
                        f"{address} {reason}: {problem}"
                    )
                conf.write_text(conf.read_text().replace("apiaddresses:\n", f"apiaddresses:\n- {good}\n"))
                async with asyncio.timeout(30):
                    connected = await agent.caller.connected()
                assert str(connected.connection.address) == good
                async with asyncio.timeout(30):
                    while len(AgentConfFile(conf).read().apiaddresses) > 1:
                        await asyncio.sleep(0.02)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    asyncio.run(play())


def test_a_certificate_authority_that_makes_no_sense_is_said(controllers: Controllers, tmp_path: Path):
    addresses = started(controllers, 0)
    conf = agent_conf(tmp_path / "agent.conf", TAG, "no certificate", addresses, PASSWORD)
    with Agentd(conf) as agentd:
        until(
            lambda: "cacert: the CA certificate cannot be read" in agentd.state()["caller"].get("problem", ""), "said"
        )

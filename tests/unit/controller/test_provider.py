"""The provider's contract, kept by the one in memory and by the local one; and how the local one's client fails."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from localjuju.cloud import Full, LaunchFailed
from localjuju.cloudlog import read

import providercontract
from controller.workers import localprovider
from controller.workers.localprovider import BadUrl, Endpoint, LocalProvider, parse_url
from controller.workers.provider import Archive, File, Gone, NotDone, Provider, Refused, Spec, TryAgain
from fakeprovider import FakeCloud, FakeProvider
from hostlesscloud import NoHosts, served


@pytest.mark.parametrize("check", providercontract.CHECKS, ids=lambda c: c.__name__)
def test_the_provider_in_memory_keeps_the_contract(check):
    async def story() -> None:
        cloud = FakeCloud()
        cloud.start_seconds = 0.01
        await check(lambda tag: FakeProvider(cloud, tag))

    asyncio.run(story())


@pytest.mark.parametrize("check", providercontract.CHECKS, ids=lambda c: c.__name__)
def test_the_local_provider_keeps_the_contract(tmp_path: Path, check):
    async def story() -> None:
        async with served(tmp_path / "cloud.log") as url:
            await check(lambda tag: LocalProvider(url, {"model": tag}, "the contract"))

    asyncio.run(story())


def test_the_whole_spec_arrives(tmp_path: Path):
    hosts = NoHosts()
    spec = Spec("m-1", (File("/var/lib/a", "ü\n", 0o644),), (Archive("/var/lib/b", b"\0\1"),), ("x.service",))

    async def story() -> None:
        async with served(tmp_path / "cloud.log", hosts) as url:
            await LocalProvider(url, {"model": "m", "controller": "c"}, "me").start(providercontract.fresh(), spec)

    asyncio.run(story())
    assert hosts.specs == [
        {
            "hostname": "m-1",
            "tags": {"model": "m", "controller": "c"},
            "files": [{"path": "/var/lib/a", "text": "ü\n", "mode": 0o644}],
            "archives": [{"folder": "/var/lib/b", "base64": "AAE="}],
            "services": ["x.service"],
        }
    ]


def test_no_room_and_a_host_that_fails_are_tried_again_and_the_log_has_every_life(tmp_path: Path):
    hosts, one = NoHosts(), providercontract.fresh()
    hosts.troubles = [Full("all places are taken"), LaunchFailed("no power"), OSError("no space left")]

    async def story() -> None:
        async with served(tmp_path / "cloud.log", hosts) as url:
            provider = LocalProvider(url, {}, "controller 1, token 0.7")
            for reason, kind in (("all places", NotDone), ("no power", TryAgain), ("no space left", TryAgain)):
                with pytest.raises(kind, match=reason):
                    await provider.start(one, Spec("m"))
            await provider.start(one, Spec("m"))
            await provider.stop(one)

    asyncio.run(story())
    log = list(read(tmp_path / "cloud.log"))
    assert [e["event"] for e in log if not e["event"].startswith("asked")] == [
        *("start", "failed") * 3,
        *("start", "running", "stop", "stopped"),
    ]
    assert {e["by"] for e in log if e["event"] == "asked-start"} == {"controller 1, token 0.7"}


def test_an_instance_that_goes_down_by_itself_is_gone_for_good(tmp_path: Path):
    hosts, one = NoHosts(), providercontract.fresh()

    async def story() -> None:
        async with served(tmp_path / "cloud.log", hosts) as url:
            provider = LocalProvider(url, {}, "")
            await provider.start(one, Spec("m"))
            next(iter(hosts.up.values())).set()
            async with asyncio.timeout(5):
                while await provider.list():
                    await asyncio.sleep(0.01)
            assert (await providercontract.refusal(provider.start(one, Spec("m")))).__name__ == "Gone"

    asyncio.run(story())
    assert list(read(tmp_path / "cloud.log"))[-2]["event"] == "lost"


@pytest.mark.parametrize(
    ("url", "end"),
    [
        ("http://10.77.0.1:17999", Endpoint("10.77.0.1", 17999)),
        ("http://[fd00::1]:80/", Endpoint("fd00::1", 80)),
        ("unix:///run/cloud", Endpoint(path="/run/cloud")),
    ],
)
def test_an_address_is_understood(url: str, end: Endpoint):
    assert parse_url(url) == end


@pytest.mark.parametrize(
    "url", ["", "10.77.0.1:17999", "http://10.77.0.1", "https://a:1", "http://a:99999", "http://a:1/x"]
)
def test_a_wrong_address_is_refused_with_the_forms_there_are(url: str):
    with pytest.raises(BadUrl):
        parse_url(url)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", TryAgain),
        (b"nonsense\r\n\r\n", TryAgain),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", TryAgain),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", TryAgain),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{}", TryAgain),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\nOops", TryAgain),
        (b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\nNo", NotDone),
        (b"HTTP/1.1 400 No\r\nContent-Length: 2\r\n\r\nNo", TryAgain),
        (b'HTTP/1.1 400 No\r\nContent-Length: 14\r\n\r\n{"reason":"x"}', Refused),
        (b'HTTP/1.1 410 No\r\nContent-Length: 14\r\n\r\n{"reason":"x"}', Gone),
    ],
)
def test_whatever_is_answered_the_caller_knows_what_to_do(answer: bytes, kind: type):
    async def story() -> None:
        async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

        async with await asyncio.start_server(converse, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            assert await providercontract.refusal(LocalProvider(url, {}, "").list()) is kind

    asyncio.run(story())


def test_silence_ends_at_the_deadline_and_an_empty_port_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(localprovider, "LIST_SECONDS", 0.2)

    async def story() -> None:
        async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await reader.read()
            except ConnectionError:
                pass
            finally:
                writer.close()

        async with await asyncio.start_unix_server(converse, tmp_path / "s"):
            provider: Provider = LocalProvider(f"unix://{tmp_path}/s", {}, "")
            with pytest.raises(TryAgain, match="did not answer within 0.2 s") as silence:
                await provider.list()
            assert type(silence.value) is TryAgain, "what was sent may have been done"
        with pytest.raises(NotDone, match="nobody"):
            await LocalProvider(f"unix://{tmp_path}/nobody", {}, "").list()

    asyncio.run(story())


def test_giving_up_on_somebody_who_does_not_read_takes_no_time():
    async def story() -> None:
        async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await gone.wait()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            ended.set()

        gone, ended = asyncio.Event(), asyncio.Event()
        # So little is read ahead that most of what is sent stays with the sender.
        async with await asyncio.start_server(converse, "127.0.0.1", 0, limit=1024) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            spec = Spec("m", archives=(Archive("/var/lib/x", bytes(16 << 20)),))
            asking = asyncio.create_task(LocalProvider(url, {}, "").start(providercontract.fresh(), spec))
            await asyncio.sleep(0.5)
            asking.cancel()
            _, late = await asyncio.wait([asking], timeout=2)
            gone.set()
            await ended.wait()
            assert not late

    asyncio.run(story())


def test_the_service_answers_nonsense_with_a_reason(tmp_path: Path):
    async def ask(url: str, request: bytes) -> tuple[int, dict[str, Any]]:
        end = parse_url(url)
        reader, writer = await asyncio.open_connection(end.host, end.port)
        writer.write(request)
        writer.write_eof()
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        return int(head.split()[1]), json.loads(body)

    async def story() -> None:
        async with served(tmp_path / "cloud.log") as url:
            for request in (
                b"nonsense\r\n\r\n",
                b"PUT /v1/instances/a HTTP/1.1\r\nContent-Length: x\r\n\r\n",
                b"PUT /v1/instances/a HTTP/1.1\r\nContent-Length: 2\r\n\r\n[]",
                b"PUT /v1/instances/a HTTP/1.1\r\nContent-Length: 1\r\n\r\n{",
            ):
                status, document = await ask(url, request)
                assert (status, document["error"], bool(document["reason"])) == (400, "BadSpec", True)
            assert (await ask(url, b"POST /v2 HTTP/1.1\r\n\r\n"))[0] == 404

    asyncio.run(story())

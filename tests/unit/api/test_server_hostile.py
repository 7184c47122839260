"""What strangers and ill-behaved peers can do to the API server: lose their own connection, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import socket
import ssl
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import websockets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apiserver import Served, serve, serving, until
from controller.api import messages, passwords
from controller.api.connection import Connection, Over
from controller.api.limits import Limits
from controller.api.messages import LoginParams, RPCError

SECRET = passwords.new_secret()
UPGRADE = (
    b"GET /api HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
IMPATIENT = Limits(handshake_seconds=0.3, login_seconds=0.6, write_seconds=0.5, silence_seconds=0.3)


async def the_end(reader: asyncio.StreamReader, seconds: float = 10) -> bytes:
    """Everything until the other side has closed; a reset is an end too."""
    with contextlib.suppress(OSError):
        async with asyncio.timeout(seconds):
            return await reader.read()
    return b""


async def still_serves(served: Served) -> None:
    served.fakes.agents.give("machine-9", SECRET)
    async with await served.enter("machine-9", SECRET) as connection:
        await connection.call("Pinger", 1, "Ping")


def frame(opcode: int, data: bytes, *, fin: bool = True, masked: bool = True) -> bytes:
    """One frame of a client."""
    head = bytes([(0x80 if fin else 0) | opcode])
    mask = 0x80 if masked else 0
    if len(data) < 126:
        head += bytes([mask | len(data)])
    elif len(data) < 1 << 16:
        head += struct.pack(">BH", mask | 126, len(data))
    else:
        head += struct.pack(">BQ", mask | 127, len(data))
    return head + (bytes(4) + data if masked else data)


async def upgraded(served: Served) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await served.raw()
    writer.write(UPGRADE)
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


def close_of(data: bytes) -> tuple[int, str]:
    """The code and the reason of the close frame that ends what the server sent."""
    at = data.rindex(b"\x88")
    size = data[at + 1]
    return int.from_bytes(data[at + 2 : at + 4], "big"), data[at + 4 : at + 2 + size].decode()


def test_bytes_that_are_no_tls_are_not_answered(tmp_path: Path):
    async def play(served: Served) -> None:
        for data in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(4096), b"\x16\x03\x01\xff\xff" + bytes(70_000)):
            reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
            writer.write(data)
            assert b"HTTP" not in await the_end(reader)
            writer.close()
        await until(lambda: served.server.report()["refused"].get("no-tls") == 3, "all three were counted")
        await still_serves(served)

    serve(tmp_path, play)


def test_an_older_tls_is_refused_and_counted(tmp_path: Path):
    async def play(served: Served) -> None:
        context = served.context
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        # Python 3.11 closes without OpenSSL's alert, later versions send it.
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", served.server.port, ssl=context, server_hostname="x")
        await until(lambda: served.server.report()["refused"].get("no-tls") == 1, "it was counted")
        await still_serves(served)

    serve(tmp_path, play)


def test_whoever_says_nothing_is_let_go_at_every_stage(tmp_path: Path):
    async def play(served: Served) -> None:
        mute, mute_writer = await asyncio.open_connection("127.0.0.1", served.server.port)
        handshaken, handshaken_writer = await served.raw()
        halfway, halfway_writer = await served.raw()
        halfway_writer.write(UPGRADE[:50])
        opened, opened_writer = await upgraded(served)
        async with asyncio.timeout(5):
            assert await the_end(mute) == b""
            assert await the_end(handshaken) == b""
            assert await the_end(halfway) == b""
            assert close_of(await the_end(opened)) == (1008, "there was no login in time")
        for writer in (mute_writer, handshaken_writer, halfway_writer, opened_writer):
            writer.close()
        await until(lambda: served.server.report()["not-logged-in"] == 0, "nobody is left")
        await still_serves(served)

    serve(tmp_path, play, IMPATIENT)


def test_a_trickle_of_bytes_does_not_buy_time(tmp_path: Path):
    async def play(served: Served) -> None:
        reader, writer = await served.raw()
        started = asyncio.get_running_loop().time()

        async def trickle() -> None:
            with contextlib.suppress(OSError):
                while True:
                    writer.write(b"G")
                    await writer.drain()
                    await asyncio.sleep(0.02)

        task = asyncio.create_task(trickle())
        assert await the_end(reader) == b""
        assert asyncio.get_running_loop().time() - started < 5
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        writer.close()

    serve(tmp_path, play, IMPATIENT)


@pytest.mark.parametrize(
    ("sends", "code"),
    [
        (frame(1, bytes(messages.MOST_BYTES_BEFORE_LOGIN + 1)), 1009),
        (frame(1, b"", fin=False) + frame(0, b"", fin=False) * 40_000, 1009),
        (frame(1, b"x" * 1000, fin=False) + frame(0, b"x" * 1000, fin=False) * 100, 1009),
        (struct.pack(">BBQ", 0x81, 0xFF, 1 << 62) + bytes(4), 1009),
        (frame(9, b"") * 40_000, 1009),
        (frame(1, b"{}", masked=False), 1002),
        (frame(3, b"reserved"), 1002),
        (frame(0, b"continues nothing"), 1002),
        (frame(1, b"{}"), 1008),
        (frame(1, b'{"request-id": 1, "type": "Admin"'), 1008),
        (frame(2, b"\xff\xfe"), 1008),
        (frame(1, b"[" * 50_000), 1008),
    ],
)
def test_frames_that_are_too_large_or_make_no_sense_end_with_a_code(tmp_path: Path, sends: bytes, code: int):
    async def play(served: Served) -> None:
        reader, writer = await upgraded(served)
        with contextlib.suppress(OSError):
            writer.write(sends)
            await writer.drain()
        assert close_of(await the_end(reader))[0] == code
        writer.close()
        await still_serves(served)

    serve(tmp_path, play)


def test_after_the_login_a_message_that_is_too_large_ends_that_connection_alone(tmp_path: Path):
    async def play(served: Served) -> None:
        served.fakes.agents.give("machine-0", SECRET)
        other = await served.enter("machine-0", SECRET)
        connection = await served.enter("machine-0", SECRET)
        with pytest.raises(Over):
            await connection.call("Pinger", 1, "Ping", {"x": "x" * messages.MOST_BYTES})
        assert "exceeds limit" in await connection.until_over()
        await connection.close()
        await other.call("Pinger", 1, "Ping")
        await other.close()

    serve(tmp_path, play)


def test_a_message_that_is_no_request_is_answered_and_the_connection_lives(tmp_path: Path):
    async def play(served: Served) -> None:
        served.fakes.agents.give("machine-0", SECRET)
        async with await served.enter("machine-0", SECRET) as connection:
            for text in ("", "[]", '{"request-id": 77}', "\x00" * 100):
                await connection._websocket.send(text)
            await connection.call("Pinger", 1, "Ping")

    serve(tmp_path, play)


def test_one_connection_has_so_many_requests_and_watchers_and_what_is_over_is_refused_at_once(tmp_path: Path):
    limits = Limits(requests=6, watchers=4)

    async def play(served: Served) -> None:
        served.fakes.agents.give("machine-0", SECRET)
        async with await served.enter("machine-0", SECRET) as connection:
            watches = [await connection.watch("Machiner", 5, "WatchAPIHostPorts") for _ in range(4)]
            with pytest.raises(RPCError, match="4 watchers are the most") as raised:
                await connection.watch("Machiner", 5, "WatchAPIHostPorts")
            assert raised.value.code == messages.QUOTA_EXCEEDED
            waiting = [asyncio.create_task(watches[0].next()) for _ in range(6)]
            await asyncio.sleep(0)  # They are sent in this order, before what follows.
            with pytest.raises(RPCError, match="6 requests at once") as raised:
                await connection.call("Pinger", 1, "Ping")
            assert raised.value.code == messages.QUOTA_EXCEEDED
            served.fakes.addresses.subject.changed()
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            await connection.call("Pinger", 1, "Ping")
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    serve(tmp_path, play, limits)


def test_one_who_does_not_read_is_cut_and_holds_up_nobody(tmp_path: Path):
    async def play(served: Served) -> None:
        served.fakes.users.give("admin", "pw")
        reader, writer = await upgraded(served)
        told = messages.ask(1, "Admin", 3, "Login", params=LoginParams(auth_tag="user-admin", credentials="pw"))
        writer.write(frame(1, told))
        await reader.readexactly(2)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        question = frame(1, messages.ask(2, "Controller", 11, "ControllerConfig"))
        served.fakes.config.kept = {"large": "x" * 200_000}

        async def flood() -> None:
            with contextlib.suppress(OSError):
                while True:
                    writer.write(question)
                    await writer.drain()
                    await asyncio.sleep(0)

        task = asyncio.create_task(flood())
        await still_serves(served)
        await until(lambda: served.server.report()["connections"] == 0, "it was cut", 20)
        async with asyncio.timeout(10):
            await task
        writer.close()
        await still_serves(served)

    serve(tmp_path, play, Limits(write_seconds=0.5))


def test_one_who_is_silent_after_the_login_and_answers_no_ping_is_cut(tmp_path: Path):
    async def play(served: Served) -> None:
        served.fakes.agents.give("machine-0", SECRET)
        reader, writer = await upgraded(served)
        told = messages.ask(1, "Admin", 3, "Login", params=LoginParams(auth_tag="machine-0", credentials=SECRET))
        writer.write(frame(1, told))
        answers = await served.enter("machine-0", SECRET)  # Its pongs are sent by the library.
        await the_end(reader)
        writer.close()
        await until(lambda: served.server.report()["connections"] == 1, "one is left")
        await answers.call("Pinger", 1, "Ping")
        await answers.close()

    serve(tmp_path, play, Limits(silence_seconds=0.3))


def test_strangers_take_no_more_than_their_share_and_those_inside_stay(tmp_path: Path):
    limits = Limits(connections=12, strangers=8, strangers_from_one_place=8)

    async def play(served: Served) -> None:
        served.fakes.agents.give("machine-0", SECRET)
        inside = await served.enter("machine-0", SECRET)
        strangers = [await served.raw() for _ in range(8)]
        with pytest.raises((OSError, websockets.WebSocketException)):
            await served.connect()
        assert served.server.report()["refused"] == {"too-many-not-logged-in": 1}
        await inside.call("Pinger", 1, "Ping")
        for _, writer in strangers:
            writer.close()
        await until(lambda: served.server.report()["not-logged-in"] == 0, "they are gone")
        more: list[Connection] = [await served.enter("machine-0", SECRET) for _ in range(11)]
        with pytest.raises((OSError, websockets.WebSocketException)):
            await served.connect()
        assert served.server.report()["refused"]["too-many"] == 1
        for connection in [inside, *more]:
            await connection.close()

    serve(tmp_path, play, limits)


def test_a_flood_is_taken_one_a_turn_and_others_have_their_turns_too(tmp_path: Path):
    limits = Limits(strangers=512, strangers_from_one_place=512)

    async def play(served: Served) -> None:
        with contextlib.ExitStack() as stack:
            # Blocking, in the server's own loop: they wait in the backlog until all are there.
            for _ in range(300):
                stack.enter_context(socket.create_connection(("127.0.0.1", served.server.port), timeout=5))
            taken: list[int] = []
            while served.dialled < 300:
                await asyncio.sleep(0)
                taken.append(served.dialled)
        assert len(set(taken)) > 150, "others looked while it was taken"
        await until(lambda: served.server.report()["not-logged-in"] == 0, "they are gone")

    serve(tmp_path, play, limits)


def test_half_a_frame_from_each_of_many_strangers_costs_a_little_memory_once(tmp_path: Path):
    async def wave(served: Served) -> int:
        """Return how many KiB of memory this process, which is both ends, has needed at most so far."""
        opened = []
        for _ in range(100):
            reader, writer = await upgraded(served)
            # Announces a megabyte, sends as much as it may, and waits.
            writer.write(struct.pack(">BBQ", 0x81, 0xFF, messages.MOST_BYTES - 1) + bytes(4 + 60_000))
            await writer.drain()
            opened.append((reader, writer))
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _, writer in opened:
            writer.close()
        await until(lambda: served.server.report()["not-logged-in"] == 0, "they are gone")
        return most

    async def play(served: Served) -> None:
        first = await wave(served)
        for _ in range(2):
            later = await wave(served)
        assert later - first < 20_000, f"{later - first} KiB more than the first time"
        await still_serves(served)

    serve(tmp_path, play)


def test_a_connection_that_is_open_costs_well_below_a_hundred_kibibytes(tmp_path: Path):
    """In a process of its own: what this one has used before would be used again."""
    story = """
import asyncio, resource, sys
from pathlib import Path
from apiserver import serving

async def grown():
    async with serving(Path(sys.argv[1])) as served:
        served.fakes.agents.give("machine-0", "x" * 22)
        opened = [await served.enter("machine-0", "x" * 22) for _ in range(20)]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        opened += [await served.enter("machine-0", "x" * 22) for _ in range(100)]
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        for connection in opened:
            await connection.close()

asyncio.run(grown())
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", story, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done
    assert int(done.stdout) < 2 * 100 * 100, "KiB for both ends of a hundred connections"


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_requests = st.fixed_dictionaries(
    {
        "request-id": st.integers(-1, 2**70) | _values,
        "type": st.sampled_from(["Admin", "Machiner", "Agent", "NotifyWatcher", "Controller", "Registration"])
        | _values,
        "request": st.sampled_from(["Login", "SetPasswords", "Next", "Stop", "ConfigSet", "Complete"]) | _values,
        "version": st.sampled_from([1, 3, 5, 11]) | _values,
        "params": _values | st.fixed_dictionaries({"auth-tag": _values, "credentials": _values}),
    },
    optional={"id": _values},
)
_frames = st.one_of(
    st.binary(max_size=300),
    st.builds(frame, st.integers(0, 15), st.binary(max_size=200), fin=st.booleans(), masked=st.booleans()),
    _requests.map(lambda r: frame(1, json.dumps(r).encode())),
)


async def _thrown(served: Served, data: list[bytes], *, known: bool) -> None:
    reader, writer = await upgraded(served)
    with contextlib.suppress(OSError):
        if known:
            told = messages.ask(1, "Admin", 3, "Login", params=LoginParams(auth_tag="machine-0", credentials=SECRET))
            writer.write(frame(1, told))
        for part in data:
            writer.write(part)
        writer.write(frame(8, b"\x03\xe8"))  # Goodbye, if it still makes sense.
        await writer.drain()
        # What is left of a broken frame waits for more; who waits no longer closes.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await reader.read()
    writer.transport.abort()


@pytest.mark.parametrize("known", [False, True])
def test_no_fuzzed_frame_takes_the_server_down(tmp_path: Path, known: bool, caplog: pytest.LogCaptureFixture):
    thrown: list[list[bytes]] = []

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.lists(_frames, min_size=1, max_size=5))
    def collect(data: list[bytes]) -> None:
        thrown.append(data)

    collect()

    async def run() -> None:
        async with serving(tmp_path) as served:
            served.fakes.agents.give("machine-0", SECRET)
            for data in thrown:
                await _thrown(served, data, known=known)
            await still_serves(served)

    asyncio.run(run())
    assert [r for r in caplog.records if r.levelname in ("ERROR", "CRITICAL")] == []

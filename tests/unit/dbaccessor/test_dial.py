"""Dialling a peer for raft: when it is worth trying again, and when it is not."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator

import msgspec
import pytest

from dbaccessor import dial, preamble, timing
from dbaccessor.dial import AddressBook, Caller, Dialer, DialError, RefusedByPeer
from dbaccessor.identity import Epoch
from dbaccessor.preamble import Answer, Outcome
from dbaccessor.proxy import Proxy

EPOCH = Epoch(1, "aa")
NAME = "controller-1-101"
PEER = Answer(
    accepted=True,
    controller_id="1",
    cluster_uuid="u",
    epoch=EPOCH,
    dqlite_id=101,
    name=NAME,
    holds_data=True,
    running=False,
)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A real proxy on loopback whose node is not running (the loop that made it runs on a thread)."""

    async def refuse(_: object) -> Outcome:
        return Outcome(False, "not here")

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    made = Proxy(refuse, lambda _: None)
    made.facts = PEER
    made.start()
    asyncio.run_coroutine_threadsafe(made.listen("127.0.0.1", free_port()), loop).result(5)
    yield made
    asyncio.run_coroutine_threadsafe(made.stop(), loop).result(5)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def dialer(port: int) -> Dialer:
    return Dialer(Caller("u", EPOCH, "0", 100), AddressBook(port, {"1": "127.0.0.1"}), timing.for_latency(10))


def seconds_to_fail(made: Dialer) -> float:
    started = time.monotonic()
    with pytest.raises(DialError):
        made.raft_connect(NAME)
    return time.monotonic() - started


def test_a_peer_that_was_never_seen_gets_one_attempt():
    assert seconds_to_fail(dialer(free_port())) < 1


def test_a_peer_seen_a_moment_ago_is_tried_for_three_seconds():
    made = dialer(free_port())
    made.saw("1")
    assert 2.5 < seconds_to_fail(made) < 4.5


def test_a_node_that_is_only_starting_is_tried_again_too(proxy):
    assert proxy.listening is not None
    made = dialer(proxy.listening[1])
    made.saw("1")
    assert 2.5 < seconds_to_fail(made) < 4.5


@pytest.mark.parametrize(
    "other", [{"cluster_uuid": "v"}, {"epoch": Epoch(2, "bb")}, {"epoch": Epoch(1, "bb")}, {"name": "controller-1-999"}]
)
def test_a_node_of_another_cluster_epoch_or_name_is_refused_at_once(proxy, other):
    proxy.facts = msgspec.structs.replace(PEER, **other)
    made = dialer(proxy.listening[1])
    made.saw("1")
    started = time.monotonic()
    with pytest.raises(RefusedByPeer) as refused:
        made.raft_connect(NAME)
    assert time.monotonic() - started < 1
    assert refused.value.answer.name == proxy.facts.name


def test_an_unknown_address_fails_at_once_and_says_so():
    with pytest.raises(DialError, match="no address is known for controller 7"):
        dialer(1).raft_connect("controller-7-7")


def test_garbage_in_place_of_the_preamble_is_an_error_and_not_a_connection():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            stream, _ = server.accept()
            with stream:
                stream.recv(4096)
                stream.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(DialError, match="does not speak the preamble"):
            dialer(server.getsockname()[1]).raft_connect(NAME)
        thread.join()


def test_frames_are_bounded_and_typed():
    with pytest.raises(preamble.BadFrame, match="refused"):
        preamble.body_length(preamble.HEADER.pack(preamble.MAGIC, preamble.MAX_FRAME + 1))
    with pytest.raises(preamble.BadFrame, match="cannot be read"):
        preamble.decode_answer(b'{"accepted": 5}')
    assert dial.Caller().name == ""

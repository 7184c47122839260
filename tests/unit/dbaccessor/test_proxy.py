"""The proxy under TLS: who is let in, who is refused with which words on both sides, and what a bad peer cannot do."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import secrets
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dbaccessor import admitted, localnode, preamble, proxy, timing
from dbaccessor.dial import AddressBook, Caller, Conversation, Dialer, DialError, RefusedByPeer
from dbaccessor.identity import Epoch, node_name
from dbaccessor.preamble import Answer, Hello, MemberFact, MembershipRequest, Outcome
from dbaccessor.proxy import Proxy
from dbaccessor.terms import RemoteTerms, Terms, Word
from dbaccessor.tls import Keyring
from rafttalk import append_entries, append_entries_result, opening
from testauthority import TestAuthority

EPOCH = Epoch(1, "aa")
MEGABYTES = 8 << 20


class ProxyOfNoNode(Proxy):
    """The real one, but for asking a node that is not there for its leader and members."""

    async def _current_facts(self) -> Answer:
        return self.facts


class Controller:
    """One controller as far as connections go: a real proxy and dialer, and an abstract socket in its node's place."""

    def __init__(self, controller_id: str, keyring: Keyring | None) -> None:
        self.controller_id = controller_id
        self.dqlite_id = secrets.randbelow(1 << 62) + 1
        self.name = node_name(controller_id, self.dqlite_id)
        self.hellos: list[Hello] = []
        self.proxy = ProxyOfNoNode(self._done, self.hellos.append)
        self.proxy.facts = Answer(
            accepted=True,
            controller_id=controller_id,
            cluster_uuid="u",
            epoch=EPOCH,
            dqlite_id=self.dqlite_id,
            name=self.name,
            running=True,
        )
        self.terms: Terms | None = self.run(1)
        self.proxy.terms = lambda: self.terms
        self.answers: list[Answer] = []
        caller = Caller("u", EPOCH, controller_id, self.dqlite_id)
        self.dialer = Dialer(caller, AddressBook(), timing.for_latency(50), self.answers.append)
        self.dialer.carry = self.proxy.carry
        self.use(keyring)
        self.node = socket.socket(socket.AF_UNIX)
        self.node.bind("\0" + localnode.bind_address(self.dqlite_id)[1:])
        self.node.listen()
        self.node.settimeout(5)

    def use(self, keyring: Keyring | None) -> None:
        self.dialer.keyring = self.proxy.keyring = keyring

    def meet(self, other: Controller) -> None:
        assert other.proxy.listening is not None
        ip, port = other.proxy.listening
        self.dialer.book = AddressBook(port, {other.controller_id: ip})

    def outsider(self, keyring: Keyring | None) -> Dialer:
        """A dialer of a program beside this controller, which knows its address."""
        assert self.proxy.listening is not None
        ip, port = self.proxy.listening
        made = Dialer(Caller("u", EPOCH), AddressBook(port, {self.controller_id: ip}), timing.for_latency(50))
        made.keyring = keyring
        return made

    def run(self, term: int, dqlite_id: int = 0) -> Terms:
        """Return the terms of a run of the node that starts in this term."""
        terms = Terms(dqlite_id or self.dqlite_id)
        terms.begin(term)
        return terms

    async def _done(self, request: MembershipRequest) -> Outcome:
        return Outcome(True, f"{request.operation} of {request.controller_id}")


@pytest.fixture
def authority() -> TestAuthority:
    return TestAuthority()


@pytest.fixture
def start(authority: TestAuthority, tmp_path: Path) -> Iterator[Callable[..., Controller]]:
    """A function that makes controllers, each listening on loopback, with certificates of the one authority."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    made: list[Controller] = []

    def make(controller_id: str, *, tls: bool = True) -> Controller:
        folder = tmp_path / controller_id
        keyring = Keyring(authority.write(folder, controller_id), controller_id) if tls else None
        controller = Controller(controller_id, keyring)
        made.append(controller)
        controller.proxy.start()
        asyncio.run_coroutine_threadsafe(controller.proxy.listen("127.0.0.1", free_port()), loop).result(5)
        return controller

    yield make
    for controller in made:
        asyncio.run_coroutine_threadsafe(controller.proxy.stop(), loop).result(5)
        controller.node.close()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def pair(start: Callable[..., Controller]) -> tuple[Controller, Controller]:
    zero, one = start("0"), start("1")
    zero.meet(one)
    one.meet(zero)
    return zero, one


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def raw(controller: Controller) -> socket.socket:
    assert controller.proxy.listening is not None
    return socket.create_connection(controller.proxy.listening, timeout=5)


def told(caplog: pytest.LogCaptureFixture, words: str) -> None:
    """Wait until the log says this: the other side of a connection writes it in its own time."""
    deadline = time.monotonic() + 5
    while words not in caplog.text:
        assert time.monotonic() < deadline, caplog.text
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


# What goes through.


def connect(zero: Controller, one: Controller) -> tuple[socket.socket, socket.socket]:
    """Return both ends of a raft connection: what the library gets, and what the other node accepts."""
    near = socket.socket(fileno=zero.dialer.raft_connect(one.name))
    far, _ = one.node.accept()
    for stream in (near, far):
        stream.settimeout(10)
    return near, far


def test_raft_s_bytes_go_both_ways_between_blocking_sockets(pair):
    near, far = connect(*pair)
    with near, far:
        near.sendall(b"to the node")
        assert far.recv(100) == b"to the node"
        far.sendall(b"and back")
        assert near.recv(100) == b"and back"


def test_no_raft_comes_to_a_node_that_nobody_listens_for(pair):
    """It is about to stop, or to start: what it would acknowledge now, no voter's word would tell of."""
    zero, one = pair
    one.terms = None
    near = socket.socket(fileno=zero.dialer.raft_connect(one.name))
    near.settimeout(5)
    with near:
        assert near.recv(1) == b""


def ask_terms(asker: Controller, asked: Controller, times: int = 1) -> list[Word | None]:
    """Ask one controller so often, over one connection, what it knows of terms."""

    async def play() -> list[Word | None]:
        remote = RemoteTerms(*await asker.dialer.open_terms(asked.name))
        said = []
        for _ in range(times):
            answer = asyncio.get_running_loop().create_future()
            said.append(await answer if remote.ask(answer.set_result, deadline_seconds=5) else None)
        remote.close()
        return said

    return asyncio.run(play())


def tell_other_than(before: Word, asker: Controller, asked: Controller) -> None:
    """Wait until what was sent has passed."""
    deadline = time.monotonic() + 5
    while ask_terms(asker, asked) == [before]:
        assert time.monotonic() < deadline, f"still {before}"
        time.sleep(0.01)


@pytest.mark.parametrize("tls", [True, False])
def test_a_term_is_told_before_the_node_has_the_message_that_it_came_in(start, tls):
    zero, one = start("0", tls=tls), start("1", tls=tls)
    zero.meet(one)
    one.meet(zero)
    near, far = connect(zero, one)
    with near, far:
        near.sendall(opening(zero.dqlite_id) + append_entries(3, 64)[:-64])
        tell_other_than(Word(1), zero, one)
        assert ask_terms(zero, one, 3) == [Word(3, zero.dqlite_id, 3)] * 3
        near.sendall(bytes(64) + append_entries_result(5))
        tell_other_than(Word(3, zero.dqlite_id, 3), zero, one)
        assert ask_terms(zero, one) == [Word(5, zero.dqlite_id, 3)]


def test_what_is_not_understood_still_arrives_and_no_terms_are_told_from_then_on(pair, caplog):
    zero, one = pair
    near, far = connect(zero, one)
    with near, far:
        near.sendall(b"something else")
        assert far.recv(100) == b"something else"
        assert ask_terms(zero, one) == [None]
        told(caplog, "what raft says is not understood")


def test_another_run_of_the_node_ends_the_conversation_about_the_one_before(pair):
    zero, one = pair

    async def play() -> list[object]:
        remote = RemoteTerms(*await zero.dialer.open_terms(one.name))
        said: list[object] = []
        for terms in (one.terms, one.run(7), None):
            one.terms = terms
            answer = asyncio.get_running_loop().create_future()
            said.append(remote.ask(answer.set_result, deadline_seconds=5) and await answer)
        return said

    assert asyncio.run(play()) == [Word(1), None, False]


@pytest.mark.parametrize("purpose", ["raft", "terms"])
def test_whoever_means_a_node_that_was_replaced_meanwhile_gets_nothing_of_the_other_s(pair, purpose):
    """Between the answer to the preamble and the next step the own node may be another one: it tells of other terms."""
    zero, one = pair
    one.terms = one.run(0, dqlite_id=one.dqlite_id + 1)
    if purpose == "terms":
        assert ask_terms(zero, one) == [None]
        return
    near = socket.socket(fileno=zero.dialer.raft_connect(one.name))
    near.settimeout(5)
    with near:
        assert near.recv(1) == b""


def test_one_that_does_not_answer_is_given_up_at_the_deadline(pair):
    zero, one = pair

    async def play() -> None:
        remote = RemoteTerms(*await zero.dialer.open_terms(one.name))
        answer = asyncio.get_running_loop().create_future()
        assert remote.ask(answer.set_result, deadline_seconds=5)
        await answer
        one.proxy._loop.call_soon_threadsafe(time.sleep, 0.5)
        answer = asyncio.get_running_loop().create_future()
        assert remote.ask(answer.set_result, deadline_seconds=0.05)
        assert not remote.ask(answer.set_result, deadline_seconds=0.05), "one question at a time"
        assert await answer is None
        assert not remote.ask(answer.set_result, deadline_seconds=0.05), "it is closed"

    asyncio.run(play())


@pytest.mark.parametrize("answering", [False, True])
def test_megabytes_arrive_whole_while_the_reader_is_slow(pair, answering):
    near, far = connect(*pair)
    source, sink = (far, near) if answering else (near, far)
    data = os.urandom(MEGABYTES)
    sender = threading.Thread(target=lambda: (source.sendall(data), source.close()))
    seen = hashlib.sha256()
    with near, far:
        sender.start()
        time.sleep(0.2)  # Everything in between is full now, and the sender waits.
        assert sender.is_alive()
        while part := sink.recv(1 << 20):
            seen.update(part)
        sender.join()

    assert seen.digest() == hashlib.sha256(data).digest()


def _frame(stream: ssl.SSLSocket) -> bytes:
    def take(count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = stream.recv(count - len(data))
            assert part, "it ended in the middle of a frame"
            data += part
        return data

    return take(preamble.body_length(take(preamble.HEADER.size)))


def test_a_client_that_takes_nothing_of_its_answer_is_ended_and_the_node_is_left_in_order(pair, monkeypatch, caplog):
    monkeypatch.setattr(admitted, "STUCK_SECONDS", 1.0)
    zero, one = pair
    ip, port = one.proxy.listening
    client = zero.dialer.keyring.current().client.wrap_socket(socket.create_connection((ip, port), timeout=5))
    with client:
        client.sendall(preamble.encode(zero.dialer.caller.hello("client", target=one.name)))
        assert preamble.decode_answer(_frame(client)).accepted
        far, _ = one.node.accept()
        far.settimeout(0.2)
        with far:
            with contextlib.suppress(TimeoutError):
                while True:
                    far.sendall(bytes(1 << 20))
            told(caplog, "it has taken nothing of an answer for 1 s")
            # The node can say all that it has, and is told that nothing more is asked.
            far.settimeout(5)
            far.sendall(bytes(MEGABYTES))
            assert far.recv(1) == b""


def test_both_directions_at_once_do_not_wait_for_each_other(pair):
    near, far = connect(*pair)
    data = os.urandom(MEGABYTES)
    received: dict[str, int] = {"near": 0, "far": 0}

    def drain(name: str, stream: socket.socket) -> None:
        while received[name] < len(data):
            received[name] += len(stream.recv(1 << 20))

    with near, far:
        threads = [
            threading.Thread(target=near.sendall, args=(data,)),
            threading.Thread(target=far.sendall, args=(data,)),
            threading.Thread(target=drain, args=("near", near)),
            threading.Thread(target=drain, args=("far", far)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)

    assert received == {"near": MEGABYTES, "far": MEGABYTES}


def test_the_end_of_either_side_ends_the_other(pair):
    for ends in (0, 1):
        streams = connect(*pair)
        streams[ends].close()
        assert streams[1 - ends].recv(10) == b""
        streams[1 - ends].close()


def test_a_client_connection_under_tls_reaches_the_node(pair):
    zero, one = pair

    async def talk() -> bytes:
        reader, writer = await zero.dialer.open_client(one.name)
        writer.write(b"hello")
        await writer.drain()
        inside, _ = await asyncio.to_thread(one.node.accept)
        with inside:
            received = inside.recv(100)
            inside.sendall(received[::-1])
            answer = await reader.readexactly(5)
        writer.transport.abort()
        return answer

    assert asyncio.run(talk()) == b"olleh"


def test_a_node_left_in_the_middle_of_an_answer_may_finish_it(pair):
    zero, one = pair

    async def leave() -> socket.socket:
        reader, writer = await zero.dialer.open_client(one.name)
        inside, _ = await asyncio.to_thread(one.node.accept)
        await asyncio.to_thread(inside.sendall, b"first part")
        await reader.readexactly(10)
        writer.transport.abort()
        return inside

    with asyncio.run(leave()) as inside:
        inside.settimeout(10)
        assert inside.recv(10) == b""  # Nothing more will be asked,
        inside.sendall(bytes(MEGABYTES))  # and the rest of the answer is still taken.


def test_a_question_is_asked_again_over_the_same_connection(pair):
    zero, one = pair

    async def ask() -> list[Answer]:
        conversation = Conversation(zero.dialer, "127.0.0.1")
        answers = [await conversation.ask() for _ in range(3)]
        connections = len(one.proxy._serving)
        conversation.close()
        assert connections == 1
        return answers

    assert [a.controller_id for a in asyncio.run(ask())] == ["1", "1", "1"]


def test_a_question_is_asked_over_a_new_connection_when_the_old_one_was_dropped(pair):
    zero, one = pair

    async def ask() -> Answer:
        conversation = Conversation(zero.dialer, "127.0.0.1")
        await conversation.ask()
        await one.proxy.drop_connections()
        answer = await conversation.ask()
        conversation.close()
        return answer

    assert asyncio.run(ask()).controller_id == "1"


def test_dropping_closes_what_was_opened_from_here_too(pair):
    zero, one = pair
    near, far = connect(zero, one)

    asyncio.run(zero.proxy.drop_connections())

    with near, far:
        assert near.recv(10) == b""
        assert far.recv(10) == b""


def test_new_certificates_serve_new_connections_and_old_connections_live_on(pair, authority, tmp_path):
    zero, one = pair
    near, far = connect(zero, one)
    authority.rotate(retire=True)
    for i in ("0", "1"):
        authority.write(tmp_path / i, i)
    newer = connect(zero, one)

    for out, into in ((near, far), newer):
        with out, into:
            out.sendall(b"ping")
            assert into.recv(10) == b"ping"


# Who is refused, with what words on both sides.


def ask(controller: Controller) -> Answer:
    return asyncio.run(controller.dialer.ask("127.0.0.1"))


def every_way(zero: Controller, one: Controller) -> Iterator[str]:
    """Dial in each of the ways there are; yield what the caller learns from being refused."""
    for dial in (
        lambda: zero.dialer.raft_connect(one.name),
        lambda: asyncio.run(zero.dialer.open_client(one.name)),
        lambda: ask(zero),
        lambda: asyncio.run(zero.dialer.membership(one.name, joining(zero), 5)),
    ):
        with pytest.raises(DialError) as refused:
            dial()
        yield str(refused.value)


def joining(controller: Controller, operation: Any = "join") -> MembershipRequest:
    return MembershipRequest(
        operation=operation,
        controller_id=controller.controller_id,
        dqlite_id=controller.dqlite_id,
        name=controller.name,
    )


def test_a_certificate_of_another_authority_is_refused_and_both_sides_know_why(pair, tmp_path, caplog):
    zero, one = pair
    zero.use(Keyring(TestAuthority().write(tmp_path / "other", "0"), "0"))

    for words in every_way(zero, one):
        assert "its certificate is not of a trusted authority" in words
    told(caplog, "127.0.0.1: refused: it does not trust the authority of this controller's certificate")


def test_a_caller_that_is_not_trusted_learns_so_even_where_it_trusts(pair, authority, tmp_path, caplog):
    zero, one = pair
    foreign = TestAuthority()
    foreign.trusted += authority.trusted
    zero.use(Keyring(foreign.write(tmp_path / "other", "0"), "0"))

    for words in every_way(zero, one):
        assert "it does not trust the authority of this controller's certificate" in words
    told(caplog, "127.0.0.1: refused: its certificate is not of a trusted authority")


def test_a_caller_with_the_certificate_of_another_controller_is_refused(pair, authority, tmp_path, caplog):
    zero, one = pair
    zero.use(Keyring(authority.write(tmp_path / "seven", "7")))
    words = "the caller says that it is controller 0, and its certificate is that of controller 7"

    for refusal in every_way(zero, one):
        assert words in refusal
    told(caplog, words)
    assert one.hellos == []  # What it says of itself counts for nothing.


def test_a_caller_finds_out_that_another_controller_has_the_address(pair, authority, tmp_path):
    zero, one = pair
    one.use(Keyring(authority.write(tmp_path / "seven", "7")))

    raft, client, question, membership = every_way(zero, one)

    for words in (raft, client, membership):
        assert "it shows the certificate of controller 7, and controller 1 was dialled" in words
    assert "it says that it is controller 1, and shows that of controller 7" in question


def test_a_caller_in_clear_is_refused_and_both_sides_know_why(start, caplog):
    zero, one = start("0", tls=False), start("1")
    zero.meet(one)

    for words in every_way(zero, one):
        assert "refuses: this controller requires TLS" in words
    told(caplog, "127.0.0.1: refused: it does not speak TLS")


def test_a_controller_that_speaks_no_tls_is_not_talked_to(start, caplog):
    zero, one = start("0"), start("1", tls=False)
    zero.meet(one)

    for words in every_way(zero, one):
        assert "it closed the connection during the handshake" in words or "it does not speak TLS" in words
    told(caplog, "127.0.0.1: refused: the other side speaks TLS, and it is off here")


def test_without_a_certificate_of_its_own_a_controller_says_what_is_missing(pair, tmp_path):
    zero, one = pair
    zero.use(Keyring(tmp_path / "nothing", "0"))

    for words in every_way(zero, one):
        assert "cert.pem is not there yet" in words


def members(*controllers: Controller) -> tuple[MemberFact, ...]:
    return tuple(MemberFact(c.dqlite_id, c.name, "voter") for c in controllers)


class TestGoneForGood:
    @pytest.fixture(params=["departed", "retired"])
    def gone(self, request, pair, authority, tmp_path) -> tuple[Controller, Controller]:
        zero, one = pair
        if request.param == "departed":
            one.proxy.departed = frozenset({"0"})
        else:
            authority.rotate(retire=True)
            authority.write(tmp_path / "1", "1")
        return zero, one

    def test_it_is_refused_and_told_who_is_there(self, gone):
        zero, one = gone
        for dial in (
            lambda: zero.dialer.raft_connect(one.name),
            lambda: asyncio.run(zero.dialer.open_client(one.name)),
            lambda: asyncio.run(zero.dialer.membership(one.name, joining(zero), 5)),
        ):
            with pytest.raises(RefusedByPeer, match=r"has departed for good|of an authority that was replaced"):
                dial()
        assert ask(zero).epoch == EPOCH

    def test_while_raft_counts_it_as_a_member_it_is_served_but_may_not_join_again(self, gone):
        zero, one = gone
        one.proxy.facts = msgspec.structs.replace(one.proxy.facts, members=members(zero, one))

        near, far = connect(zero, one)

        near.close()
        far.close()
        with pytest.raises(RefusedByPeer):
            asyncio.run(zero.dialer.membership(one.name, joining(zero), 5))
        assert asyncio.run(zero.dialer.membership(one.name, joining(zero, "leave"), 5)).done

    def test_the_dqlite_id_of_a_member_that_it_is_not_opens_nothing(self, gone):
        """Who is a member it is told whenever it asks."""
        zero, one = gone
        one.proxy.facts = msgspec.structs.replace(one.proxy.facts, members=members(one))
        zero.dialer.caller = Caller("u", EPOCH, "0", one.dqlite_id)

        for dial in (
            lambda: zero.dialer.raft_connect(one.name),
            lambda: asyncio.run(zero.dialer.open_client(one.name)),
            lambda: asyncio.run(zero.dialer.open_terms(one.name)),
            lambda: asyncio.run(zero.dialer.membership(one.name, joining(zero, "leave"), 5)),
        ):
            with pytest.raises(RefusedByPeer, match=r"has departed for good|of an authority that was replaced"):
                dial()

    def test_nor_does_it_keep_anything_open(self, pair, caplog):
        zero, one = pair
        one.proxy.facts = msgspec.structs.replace(one.proxy.facts, members=members(one))
        zero.dialer.caller = Caller("u", EPOCH, "0", one.dqlite_id)
        near, far = connect(zero, one)
        with near, far:
            one.proxy.departed = frozenset({"0"})
            near.settimeout(5)
            assert near.recv(1) == b""
            told(caplog, "ended a connection of controller 0 (raft): controller 0 has departed for good")

    def test_what_it_opened_before_ends_with_its_membership_and_others_keep_theirs(self, pair, start, caplog):
        zero, one = pair
        two = start("2")
        two.meet(one)
        one.proxy.facts = msgspec.structs.replace(one.proxy.facts, members=members(zero, one, two))
        near, far = connect(zero, one)
        kept, kept_far = connect(two, one)
        with near, far, kept, kept_far:
            one.proxy.departed = frozenset({"0"})
            near.settimeout(2 * admitted.LOOK_SECONDS)
            with pytest.raises(TimeoutError):  # Raft counts it as a member still.
                near.recv(1)

            one.proxy.facts = msgspec.structs.replace(one.proxy.facts, members=members(one, two))
            near.settimeout(5)
            assert near.recv(1) == b""
            told(caplog, "ended a connection of controller 0 (raft): controller 0 has departed for good")
            kept.sendall(b"still here")
            assert kept_far.recv(100) == b"still here"

    def test_it_hears_of_a_newer_epoch_whoever_calls(self, gone):
        zero, one = gone
        newer = Epoch(2, "bb")
        one.proxy.facts = msgspec.structs.replace(one.proxy.facts, epoch=newer)
        one.dialer.caller = Caller("u", newer, "1", one.dqlite_id)

        ask(zero)
        ask(one)

        assert zero.answers[-1].epoch == newer
        assert zero.hellos[-1].epoch == newer

    def test_a_newer_epoch_that_a_retired_one_announces_is_not_heard(self, pair, authority, tmp_path):
        zero, one = pair
        authority.rotate(retire=True)
        authority.write(tmp_path / "1", "1")
        newer = Epoch(2, "bb")
        zero.proxy.facts = msgspec.structs.replace(zero.proxy.facts, epoch=newer)
        zero.dialer.caller = Caller("u", newer, "0", zero.dqlite_id)

        ask(one)
        ask(zero)

        assert one.answers == []
        assert one.hellos == []


def test_an_outsider_may_ask_and_be_a_client_and_nothing_more(pair, authority, tmp_path):
    _, one = pair
    outsider = one.outsider(Keyring(authority.write(tmp_path / "shown", "0")))

    async def talk() -> None:
        assert (await outsider.ask("127.0.0.1")).controller_id == "1"
        _, writer = await outsider.open_client(one.name)
        writer.transport.abort()
        with pytest.raises(RefusedByPeer, match="membership is for controllers"):
            await outsider.membership(one.name, joining(one), 5)

    asyncio.run(talk())


def test_nobody_asks_for_a_membership_that_is_not_its_own(pair):
    zero, one = pair

    with pytest.raises(RefusedByPeer, match="the caller asks for controller 1, and its certificate is that of"):
        asyncio.run(zero.dialer.membership(one.name, joining(one, "leave"), 5))


# What a bad peer cannot do.


def test_nothing_readable_is_on_the_wire(pair):
    zero, one = pair
    heard = bytearray()
    assert one.proxy.listening is not None
    with socket.create_server(("127.0.0.1", 0)) as between:

        def listen_in() -> None:
            caller, _ = between.accept()
            called = socket.create_connection(one.proxy.listening)
            with caller, called:
                threads = [threading.Thread(target=pass_on, args=ends) for ends in ((caller, called), (called, caller))]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()

        def pass_on(source: socket.socket, sink: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while part := source.recv(1 << 16):
                    heard.extend(part)
                    sink.sendall(part)
                sink.shutdown(socket.SHUT_WR)

        spy = threading.Thread(target=listen_in)
        spy.start()
        zero.dialer.book = AddressBook(between.getsockname()[1], {"1": "127.0.0.1"})
        near, far = connect(zero, one)
        near.sendall(b"the plainest text")
        assert far.recv(100) == b"the plainest text"
        near.close()
        far.close()
        spy.join()

    assert len(heard) > 1000
    for secret in (preamble.MAGIC, b"cluster-uuid", b"controller-", b"the plainest text"):
        assert secret not in heard


@pytest.mark.parametrize("says", [b"", b"\x16\x03\x01", b"HAC1"])
def test_who_does_not_say_in_time_who_it_is_has_to_go(pair, says, monkeypatch, caplog):
    monkeypatch.setattr(proxy, "_PREAMBLE_SECONDS", 0.3)
    _, one = pair

    with raw(one) as stream:
        stream.sendall(says)
        with contextlib.suppress(ConnectionResetError):
            while stream.recv(1000):
                pass
    if says != b"HAC1":
        told(caplog, "did not say within 0.3 s who it is")


def test_a_handshake_without_a_hello_has_to_go_too(pair, monkeypatch, caplog):
    monkeypatch.setattr(proxy, "_PREAMBLE_SECONDS", 0.5)
    zero, one = pair
    assert zero.dialer.keyring is not None

    with raw(one) as stream, zero.dialer.keyring.current().client.wrap_socket(stream) as secured:
        assert secured.version() == "TLSv1.3"
        assert secured.recv(100) == b""
    told(caplog, "did not say within 0.5 s who it is")


def test_who_begins_tls_and_is_gone_at_once_costs_a_count_and_no_traceback(pair, caplog):
    zero, one = pair
    words: list[str] = []
    one.proxy.on_refused = words.append
    held = threading.Event()
    one.proxy._loop.call_soon_threadsafe(held.wait, 5)  # It looks when all of them have been and gone.
    for _ in range(10):
        with raw(one) as stream:
            stream.sendall(b"\x16")
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    held.set()

    deadline = time.monotonic() + 5
    while len(words) < 10 or one.proxy._serving:
        assert time.monotonic() < deadline, words
        time.sleep(0.01)

    assert words == ["tls"] * 10
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR] == []
    told(caplog, "127.0.0.1: refused: it closed the connection during the handshake")
    assert ask(zero).controller_id == "1"


def test_a_crowd_that_says_nothing_keeps_no_controller_out(pair):
    zero, one = pair
    with contextlib.ExitStack() as stack:
        for _ in range(proxy._MAX_STRANGERS + 20):
            stack.enter_context(raw(one))
        assert ask(zero).controller_id == "1"
        near, far = connect(zero, one)
        near.close()
        far.close()


def flood(controller: Controller, stack: contextlib.ExitStack, count: int) -> list[int]:
    """Connect so often before the proxy can accept any. Return how many it serves, turn by turn, until all are taken
    or nothing changes for long."""
    served: list[int] = []
    done = threading.Event()
    own = controller.proxy

    async def look() -> None:
        while own._serving and served.count(len(own._serving)) < 500:
            served.append(len(own._serving))
            await asyncio.sleep(0)
        done.set()

    def connect_all() -> None:
        """On the proxy's own thread, so nothing else happens there meanwhile."""
        for _ in range(count):
            stack.enter_context(raw(controller))
        own._loop.call_soon(begin)

    def begin() -> None:
        if not own._serving:
            own._loop.call_soon(begin)
            return
        looking.append(own._loop.create_task(look()))

    looking: list[asyncio.Task[None]] = []
    own._loop.call_soon_threadsafe(connect_all)
    assert done.wait(10)
    return served


def test_a_flood_is_taken_one_a_turn_and_others_have_their_turns_too(pair, monkeypatch):
    monkeypatch.setattr(proxy, "_MAX_STRANGERS", 1000)
    monkeypatch.setattr(proxy, "_PREAMBLE_SECONDS", 30)
    _, one = pair
    with contextlib.ExitStack() as stack:
        served = flood(one, stack, 100)

    assert max(served) == 100
    assert len(set(served)) > 50, "others looked while it was taken"


def test_of_a_flood_of_strangers_each_that_is_over_the_limit_costs_another_its_place(pair, monkeypatch):
    monkeypatch.setattr(proxy, "_MAX_STRANGERS", 4)
    monkeypatch.setattr(proxy, "_PREAMBLE_SECONDS", 30)
    _, one = pair
    with contextlib.ExitStack() as stack:
        served = flood(one, stack, 100)

    assert served[-1] == 4
    assert max(served) < 20, "those that had to go went before all were taken"


def test_more_connections_than_the_limit_are_refused_at_once(pair, monkeypatch, caplog):
    monkeypatch.setattr(proxy, "_MAX_CONNECTIONS", 1)
    zero, one = pair
    near, far = connect(zero, one)

    with pytest.raises(DialError):
        ask(zero)
    told(caplog, "more than 1 connections; one more was refused")
    near.close()
    far.close()


@pytest.mark.parametrize("tls", [True, False])
def test_a_crowd_of_clients_keeps_no_raft_out(start, monkeypatch, caplog, tls):
    assert proxy._MAX_CLIENTS + proxy._MAX_STRANGERS < proxy._MAX_CONNECTIONS
    monkeypatch.setattr(proxy, "_MAX_CONNECTIONS", 12)
    monkeypatch.setattr(proxy, "_MAX_CLIENTS", 3)
    zero, one = start("0", tls=tls), start("1", tls=tls)
    zero.meet(one)
    words: list[str] = []
    one.proxy.on_refused = words.append

    async def crowd() -> None:
        writers = [(await zero.dialer.open_client(one.name))[1] for _ in range(2)]
        writers.append((await zero.dialer.open_terms(one.name))[1])
        for open_one in (zero.dialer.open_client, zero.dialer.open_terms) * 3:
            with pytest.raises(RefusedByPeer, match="this node has 3 clients, and takes no more of them"):
                await open_one(one.name)
        assert (await zero.dialer.ask("127.0.0.1")).controller_id == "1"
        assert (await zero.dialer.membership(one.name, joining(zero), 5)).done
        os.close(await asyncio.to_thread(zero.dialer.raft_connect, one.name))

        writers[-1].transport.abort()
        while len(one.proxy._clients) > 2:
            await asyncio.sleep(0.01)
        writers.append((await zero.dialer.open_client(one.name))[1])
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0.05)  # What was aborted is closed in a later turn.

    asyncio.run(asyncio.wait_for(crowd(), 20))

    assert words == ["crowded"] * 6
    told(caplog, "refused controller 0 (client): this node has 3 clients")


def test_those_that_are_refused_make_room_like_strangers(pair, monkeypatch):
    """They read nothing and close nothing, so that each farewell lasts as long as it may."""
    monkeypatch.setattr(proxy, "_MAX_CLIENTS", 0)
    monkeypatch.setattr(proxy, "_MAX_STRANGERS", 4)
    zero, one = pair

    assert zero.dialer.keyring is not None
    hello = preamble.encode(zero.dialer.caller.hello("client", target=one.name))
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            context = zero.dialer.keyring.current().client
            stream = stack.enter_context(context.wrap_socket(stack.enter_context(raw(one))))
            stream.sendall(hello)
            assert not preamble.decode_answer(_frame(stream)).accepted
        assert len(one.proxy._serving) <= 8


def test_what_waits_for_a_slow_peer_is_bounded_and_others_are_served_meanwhile(pair):
    """A peer that reads nothing: the node that answers it is held up, and nobody else is."""
    zero, one = pair
    near, far = connect(zero, one)
    far.setblocking(False)
    sent = 0
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        try:
            sent += far.send(bytes(1 << 16))
        except BlockingIOError:
            time.sleep(0.01)

    # What the kernel holds on the way (two unix sockets and the two ends of TCP), and next to nothing of ours.
    assert sent < 32 << 20
    assert ask(zero).controller_id == "1"
    near.close()
    far.close()


def test_a_peer_that_is_not_there_fails_within_the_time_for_connecting(pair):
    zero, _ = pair
    with socket.create_server(("127.0.0.1", 0)) as silent:  # The kernel accepts, and nobody answers.
        zero.dialer.book = AddressBook(silent.getsockname()[1], {"1": "127.0.0.1"})
        started = time.monotonic()
        with pytest.raises(DialError, match="no answer in time"):
            zero.dialer.raft_connect(node_name("1", 1))

    assert time.monotonic() - started < 2 * zero.dialer.timing.connect_seconds


def test_a_stopped_proxy_fails_those_who_dial_through_it(authority, tmp_path):
    async def stopped() -> None:
        controller = Controller("0", Keyring(authority.write(tmp_path / "0", "0"), "0"))
        controller.proxy.start()
        await controller.proxy.stop()
        controller.dialer.book = AddressBook(1, {"1": "127.0.0.1"})
        with pytest.raises(DialError, match="this controller is stopping"):
            await asyncio.to_thread(controller.dialer.raft_connect, node_name("1", 1))
        controller.node.close()

    asyncio.run(stopped())


def test_garbage_under_tls_is_refused(pair, caplog):
    zero, one = pair
    assert zero.dialer.keyring is not None
    with raw(one) as stream, zero.dialer.keyring.current().client.wrap_socket(stream) as secured:
        secured.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ssl.SSLError, ConnectionResetError):
            assert secured.recv(100) == b""
    told(caplog, "the other side does not speak the preamble of this program")

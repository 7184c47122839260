"""Whole controllers under TLS: certificates that come late, change under load, or are somebody else's."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dbaccessor import errors, timing, tlsfiles
from dbaccessor.database import Database
from dbaccessor.dial import AddressBook, Caller, Dialer
from dbaccessor.dqlite.connection import Connection
from dbaccessor.identity import Epoch
from dbaccessor.tls import Keyring
from dbaccessor.tlsstream import Stream
from loopback import Cluster
from testauthority import TestAuthority

PORT = 17666


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, block=78, tls=True) as made:
        yield made


class Writer:
    """Appends numbers through whoever leads, on a thread of its own, and remembers which ones were acknowledged."""

    def __init__(self, cluster: Cluster, *numbers: int) -> None:
        self._database = Database(cluster.connector(*numbers), "t")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._write()))
        self.acknowledged: list[int] = []
        self.rows: list[int] = []

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop writing, and read what is there."""
        self._stop.set()
        self._thread.join()

    async def _write(self) -> None:
        await self._database.run(
            lambda tx: tx.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER NOT NULL PRIMARY KEY)"), deadline_seconds=10
        )
        number = 0
        while not self._stop.is_set():
            number += 1
            try:
                await self._database.run(
                    lambda tx, n=number: tx.execute("INSERT INTO t (n) VALUES (?)", (n,)), deadline_seconds=10
                )
            except errors.DbAccessorError:
                continue
            self.acknowledged.append(number)
        found = await self._database.read("SELECT n FROM t ORDER BY n", deadline_seconds=10)
        self.rows = [int(row[0]) for row in found.rows]
        self._database.close()

    def has_written(self, count: int) -> bool:
        return len(self.acknowledged) >= count

    def lost(self) -> set[int]:
        return set(self.acknowledged) - set(self.rows)


def certificate_wait(cluster: Cluster, n: int) -> str:
    found = [w for w in cluster.status(n).get("waits", []) if w["for"] == "certificate"]
    return f"{found[0]['reason']}; {found[0]['remedy']}" if found else ""


def log(cluster: Cluster, n: int) -> str:
    return (cluster.root / f"{n}.log").read_text()


def test_the_leader_is_killed_and_the_writes_go_on(cluster: Cluster):
    cluster.form(3)
    leader = cluster.leader(0)
    assert leader is not None
    others = [n for n in range(3) if n != leader]

    with Writer(cluster, *others, leader) as writer:
        cluster.wait(lambda: writer.has_written(20), "it writes")
        cluster.kill(leader)
        before = len(writer.acknowledged)
        cluster.wait(lambda: writer.has_written(before + 20), "it writes again")

    assert writer.lost() == set()


def test_without_a_certificate_it_waits_and_goes_on_when_one_comes(cluster: Cluster):
    cluster.configure([0])
    folder = cluster.state_dir(0) / tlsfiles.DIRECTORY
    for file in folder.iterdir():
        file.unlink()
    cluster.start(0)
    cluster.wait(lambda: cluster.state(0) == "waiting", "it waits")

    assert certificate_wait(cluster, 0).startswith("cert.pem is not there yet; ")
    assert cluster.status(0)["cluster"] is None
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((cluster.address(0), PORT), timeout=5)

    cluster.certify(0)
    cluster.wait(lambda: cluster.serving(0), "it serves")
    assert certificate_wait(cluster, 0) == ""


def test_the_certificate_of_another_controller_is_waited_over_and_named(cluster: Cluster):
    cluster.form(1)
    cluster.configure([0, 1])
    assert cluster.authority is not None
    cluster.authority.write(cluster.state_dir(1) / tlsfiles.DIRECTORY, "0")
    cluster.start(1)
    cluster.wait(lambda: cluster.state(1) == "waiting", "it waits")

    assert "cert.pem is of controller 0, and this is controller 1" in cluster.status(1)["reason"]
    cluster.certify(1)
    cluster.wait(lambda: cluster.serving(1), "it joins", 40)


def test_a_controller_of_another_authority_stays_out_and_both_sides_say_why(cluster: Cluster):
    cluster.form(1)
    cluster.configure([0, 1])
    TestAuthority().write(cluster.state_dir(1) / tlsfiles.DIRECTORY, "1")
    cluster.start(1)
    cluster.wait(lambda: "127.0.0.1: refused: " in log(cluster, 0), "the one that is there says so")

    cluster.wait(lambda: cluster.state(1) == "waiting", "the other waits")
    waits = {w["for"]: w["reason"] for w in cluster.status(1)["waits"]}
    assert "its certificate is not of a trusted authority" in waits["certificate of 0"]
    assert cluster.roles(0) == {0: "voter"}
    cluster.certify(1)
    cluster.wait(lambda: cluster.serving(1), "it joins with the right one", 40)
    cluster.wait(lambda: not cluster.status(1)["waits"], "nothing is wrong any more")


def test_a_peer_in_clear_gets_nothing_but_the_word_that_it_needs_tls(cluster: Cluster):
    cluster.form(1)
    with socket.create_connection((cluster.address(0), PORT), timeout=5) as stream:
        stream.sendall(b"HAC1" + (200).to_bytes(4, "little"))
        answer = b""
        while part := stream.recv(4096):
            answer += part

    assert b"requires TLS" in answer
    for secret in ("loopback", "controller-0", str(cluster.status(0)["cluster"]["members"][0]["dqlite-id"])):
        assert secret.encode() not in answer
    cluster.wait(lambda: "refused: it does not speak TLS" in log(cluster, 0), "it is logged")


def test_certificates_are_replaced_under_load_without_a_lost_write(cluster: Cluster):
    """A whole rotation, controller by controller, and the leader killed once in the middle of it."""
    cluster.form(3)
    assert cluster.authority is not None
    with Writer(cluster, 0, 1, 2) as writer:
        cluster.wait(lambda: writer.has_written(20), "it writes")
        for retire in (False, True):
            cluster.authority.rotate(retire=retire)
            for n in range(3):
                cluster.certify(n)
                before = len(writer.acknowledged)
                cluster.wait(lambda wanted=before + 10: writer.has_written(wanted), "it goes on writing")
            if not retire:
                leader = cluster.leader(0)
                assert leader is not None
                cluster.kill(leader)
                cluster.start(leader)
                cluster.wait(lambda: cluster.serving(0, 1, 2), "they are three again", 40)

    assert writer.lost() == set()
    assert len(writer.acknowledged) > 60
    assert cluster.role_counts(0) == (3, 0, 0)


def test_an_answer_of_megabytes_comes_through_whole(cluster: Cluster):
    cluster.form(3)
    text = "x" * 100_000

    async def big() -> int:
        database = Database(cluster.connector(0, 1, 2), "t")
        await database.run(lambda tx: tx.execute("CREATE TABLE b (n INTEGER NOT NULL PRIMARY KEY, t TEXT)"))
        for first in range(0, 60, 10):

            async def insert(tx, first=first):
                for n in range(first, first + 10):
                    await tx.execute("INSERT INTO b (n, t) VALUES (?, ?)", (n, text))

            await database.run(insert, deadline_seconds=10)
        found = await database.read("SELECT t FROM b", deadline_seconds=10)
        database.close()
        return sum(len(str(row[0])) for row in found.rows if row[0] == text)

    assert asyncio.run(big()) == 60 * len(text)
    # What they were sent as raft's entries has arrived at the others as well.
    cluster.kill(*[n for n in range(3) if n == cluster.leader(0)])


def test_one_left_behind_with_a_retired_certificate_still_learns_that_it_is(cluster: Cluster):
    """Its authority is gone and it is not let in, and yet it must not go on in the old epoch with the old majority."""
    cluster.form(3)
    assert cluster.authority is not None
    cluster.kill(1, 2)
    cluster.configure([0], departed=["1", "2"])
    cluster.wait(lambda: cluster.epoch(0) == 2 and cluster.serving(0), "0 goes on alone")
    cluster.authority.rotate(retire=True)
    cluster.certify(0)

    cluster.start(1, 2)

    for n in (1, 2):
        cluster.wait(lambda n=n: list((cluster.state_dir(n) / "aside").glob("dqlite-*")), "its data is put aside")
    cluster.wait(lambda: cluster.status(0)["cluster"]["dropped"] == [], "they met the new epoch")
    assert cluster.roles(0) == {0: "voter"}
    assert json.loads((cluster.state_dir(0) / "identity.json").read_text())["epoch"]["number"] == 2


async def as_member(cluster: Cluster, n: int, leader: str) -> Connection:
    """Return a connection to the leader that is, by all it shows, the controller's own."""
    own = json.loads((cluster.state_dir(n) / "identity.json").read_text())
    caller = Caller(own["cluster-uuid"], Epoch(**own["epoch"]), str(n), own["dqlite-id"])
    book = AddressBook(PORT, {str(i): cluster.address(i) for i in range(3)})
    dialer = Dialer(caller, book, timing.for_latency(10))
    dialer.keyring = Keyring(cluster.state_dir(n) / tlsfiles.DIRECTORY, str(n))
    connection = await Connection.open(*await dialer.open_client(leader), deadline_seconds=5, name=leader)
    await connection.open_database("controller", deadline_seconds=5)
    return connection


def test_what_a_removed_controller_has_open_is_closed_within_seconds(cluster: Cluster):
    cluster.form(3)
    cluster.terminate(2)
    cluster.wait(lambda: cluster.leader(0) in (0, 1), "one of the others leads")
    status = cluster.status(0)["cluster"]
    leader = next(m["name"] for m in status["members"] if m["leader"])
    stays = 1 - cluster.leader(0)

    async def story() -> None:
        removed, kept = await as_member(cluster, 2, leader), await as_member(cluster, stays, leader)
        await removed.query("SELECT 1")
        cluster.configure([0, 1], departed=["2"])
        deadline = asyncio.get_running_loop().time() + 15
        with pytest.raises(errors.DbAccessorError):
            while asyncio.get_running_loop().time() < deadline:
                await removed.query("SELECT 1")
                await asyncio.sleep(0.1)
        assert set(cluster.roles(0)) == {0, 1}
        await kept.query("SELECT 1")
        kept.close()

    asyncio.run(story())


@pytest.mark.parametrize("how", ["reading", "writing", "bidding farewell"])
def test_a_connection_that_is_reset_takes_no_other_of_its_thread_with_it(tmp_path: Path, how: str):
    """Python 3.13 on OpenSSL 3.5 reports the failure of one for every other that has nothing to read just then."""
    contexts = Keyring(TestAuthority().write(tmp_path, "0"), "0").current()

    async def pair() -> tuple[Stream, Stream]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            near = Stream(socket.create_connection(listener.getsockname()))
            served = Stream(listener.accept()[0])
        await asyncio.gather(
            served.secure(contexts.server, server_side=True), near.secure(contexts.client, server_side=False)
        )
        return served, near

    async def fail(served: Stream) -> None:
        if how == "reading":
            with pytest.raises((OSError, EOFError)):
                await served.read_exactly(1)
        elif how == "writing":
            with pytest.raises(OSError):
                while True:
                    await served.write(b"x")
        else:
            await served.bid_farewell()

    async def play() -> None:
        kept, friend = await pair()
        lost, enemy = await pair()
        enemy.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        enemy.close()
        await fail(lost)
        reading = asyncio.create_task(kept.read_exactly(1))
        await asyncio.sleep(0.01)
        await friend.write(b"!")
        assert await reading == b"!"
        for stream in (kept, friend, lost):
            stream.close()

    asyncio.run(play())

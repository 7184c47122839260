"""Committers of two controllers make common batches; whatever keeps them from it, each outcome stays true."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest

from dbaccessor import errors, exchange, preamble
from dbaccessor.database import Database
from dbaccessor.exchange import Exchange
from dbaccessor.groupcommit import Batch, GroupCommit
from sqlitenode import SqliteNode

SCHEMA = "CREATE TABLE t (k TEXT NOT NULL PRIMARY KEY, v TEXT NOT NULL CHECK (v <> 'bad'), n INTEGER NOT NULL)"
ROWS = Batch(
    write="INSERT INTO t (k, v, n) SELECT value->>0, value->>1, 1 FROM json_each(?) WHERE true"
    " ON CONFLICT (k) DO UPDATE SET v = excluded.v, n = n + 1",
    ask="SELECT j.key, t.v, t.n FROM json_each(?) AS j JOIN t ON t.k = j.value->>0",
    rising=True,
)
LEADER, FOLLOWER = "controller-0-7", "controller-1-8"


class Controller:
    """One end: a database on the common node, an exchange, and the way to the other one."""

    def __init__(self, node: SqliteNode, name: str) -> None:
        self.own_name = name
        self.identity: object = "epoch 1"
        self.leader = LEADER
        self.other: Controller | None = None
        self.serving: set[asyncio.Task[None]] = set()
        self.bundles = 0
        self.dialled = 0
        # What is done instead of answering a bundle.
        self.instead: Callable[[], Awaitable[None]] | None = None
        self.exchange = Exchange(self, lambda: self.leader == self.own_name)
        self.database = Database(node, "data", exchange=self.exchange)  # type: ignore[arg-type]

    async def follows(self) -> str:
        return self.leader

    async def open_batches(self, name: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self.dialled += 1
        if self.other is None:
            raise ConnectionRefusedError
        near, far = socket.socketpair()
        task = asyncio.create_task(self.other.serve(far))
        self.serving.add(task)
        return await asyncio.open_unix_connection(sock=near)

    async def serve(self, far: socket.socket) -> None:
        """What the proxy does with a connection for bundles."""
        reader, writer = await asyncio.open_unix_connection(sock=far)
        try:
            while True:
                header = await reader.readexactly(preamble.HEADER.size)
                body = await reader.readexactly(preamble.body_length(header))
                self.bundles += 1
                if self.instead is not None:
                    await self.instead()
                    return
                answer = await self.exchange.serve(body)
                writer.write(preamble.HEADER.pack(preamble.MAGIC, len(answer)) + answer)
        except (OSError, EOFError):
            pass
        finally:
            writer.transport.abort()

    async def close(self) -> None:
        self.database.close()
        for task in self.serving:
            task.cancel()
        await asyncio.gather(*self.serving, return_exceptions=True)


Play = Callable[[SqliteNode, Controller, Controller], Awaitable[None]]


def hold(play: Play) -> None:
    async def run() -> None:
        async with two() as (node, leader, follower):
            await play(node, leader, follower)

    asyncio.run(run())


@contextlib.asynccontextmanager
async def two() -> AsyncIterator[tuple[SqliteNode, Controller, Controller]]:
    node = SqliteNode(SCHEMA)
    leader, follower = Controller(node, LEADER), Controller(node, FOLLOWER)
    follower.other = leader
    try:
        yield node, leader, follower
    finally:
        await leader.close()
        await follower.close()
        node.sqlite.close()


async def submit(committer: GroupCommit, who: str, count: int, rounds: int = 1) -> None:
    async def caller(number: int) -> None:
        for turn in range(1, rounds + 1):
            assert await committer.submit(f"{who}.{number}", f"v{turn}") == (f"v{turn}", turn)

    await asyncio.gather(*(caller(number) for number in range(count)))


def test_many_callers_of_two_controllers_share_batches_and_each_gets_its_own_row():
    async def play(node: SqliteNode, leader: Controller, follower: Controller) -> None:
        here, there = leader.database.group_commit(ROWS), follower.database.group_commit(ROWS)
        await asyncio.gather(submit(here, "here", 20, 20), submit(there, "there", 20, 20))
        assert leader.bundles >= 20
        assert follower.dialled == 1
        # 800 requests, at most 40 of them at once; by themselves each controller would need 20 batches of its own.
        assert any("here" in batch and "there" in batch for batch in node.batches)
        assert node.sqlite.execute("SELECT count(*), sum(n) FROM t").fetchone() == (40, 800)

    hold(play)


def test_each_verdict_reaches_its_caller_also_where_requests_have_one_key():
    async def play(node: SqliteNode, leader: Controller, follower: Controller) -> None:
        leader.database.group_commit(ROWS)
        committer = follower.database.group_commit(ROWS)
        said = await asyncio.gather(
            *(committer.submit("same", f"v{n}") for n in range(3)),
            committer.submit("wrong", "bad"),
            committer.submit("right", "good"),
            return_exceptions=True,
        )
        assert sorted(row[1] for row in said[:3]) == [1, 2, 3]  # type: ignore[index,union-attr,arg-type]
        assert isinstance(said[3], errors.Refused)
        assert said[3].code == 19
        assert said[4] == ("good", 1)
        assert leader.bundles

    hold(play)


@pytest.mark.parametrize(
    "why", ["no such committer", "does not lead", "cannot be reached", "draining", "follows nobody"]
)
def test_a_bundle_that_is_not_taken_is_committed_directly(why: str):
    async def play(node: SqliteNode, leader: Controller, follower: Controller) -> None:
        if why != "no such committer":
            leader.database.group_commit(ROWS)
        if why == "does not lead":
            leader.leader = FOLLOWER
        if why == "cannot be reached":
            follower.other = None
        if why == "draining":
            await leader.exchange.drain(1)
        if why == "follows nobody":
            follower.leader = ""
        committer = follower.database.group_commit(ROWS)
        await submit(committer, "there", 5, 10)
        assert node.sqlite.execute("SELECT count(*), sum(n) FROM t").fetchone() == (5, 50)
        # It is not asked again by every batch.
        assert leader.bundles <= 1
        assert follower.dialled <= 1

    hold(play)


def test_what_was_provably_not_done_there_is_done_again():
    async def play(node: SqliteNode, leader: Controller, follower: Controller) -> None:
        node.troubles = iter([("before", errors.NotReady("busy", code=5))] * 3)
        leader.database.group_commit(ROWS)
        await submit(follower.database.group_commit(ROWS), "there", 5, 2)
        assert node.sqlite.execute("SELECT count(*), sum(n) FROM t").fetchone() == (5, 10)

    hold(play)


def test_what_is_in_doubt_there_is_in_doubt_here():
    async def play(node: SqliteNode, leader: Controller, follower: Controller) -> None:
        node.troubles = iter([("after", errors.Indefinite("leadership lost", code=10506))])
        leader.database.group_commit(ROWS)
        with pytest.raises(errors.Indefinite, match="leadership lost") as caught:
            await follower.database.group_commit(ROWS).submit("k", "v")
        assert caught.value.code == 10506

    hold(play)


def test_a_leader_that_goes_without_an_answer_leaves_doubt_and_nothing_is_done_twice():
    async def play(node: SqliteNode, leader: Controller, follower: Controller) -> None:
        async def end() -> None:
            pass

        leader.database.group_commit(ROWS)
        committer = follower.database.group_commit(ROWS)
        leader.instead = end
        said = await asyncio.gather(*(committer.submit(f"k{n}", "v") for n in range(5)), return_exceptions=True)
        assert {type(one) for one in said} == {errors.Indefinite}
        assert node.batches == []
        leader.instead = None
        assert await committer.submit("k0", "v") == ("v", 1)

    hold(play)


def test_a_leader_that_is_silent_is_left_when_another_leads():
    async def play(node: SqliteNode, leader: Controller, follower: Controller) -> None:
        async def freeze() -> None:
            await asyncio.sleep(60)

        leader.database.group_commit(ROWS)
        leader.instead = freeze
        committer = follower.database.group_commit(ROWS)
        waiting = asyncio.create_task(committer.submit("k", "v", deadline_seconds=30))
        while not leader.bundles:
            await asyncio.sleep(0.001)
        follower.leader = "controller-2-9"
        async with asyncio.timeout(5):
            with pytest.raises(errors.Indefinite, match="controller-2-9 leads"):
                await waiting

    hold(play)


def test_a_silent_leader_makes_the_deadline_indefinite():
    async def play(node: SqliteNode, leader: Controller, follower: Controller) -> None:
        async def freeze() -> None:
            await asyncio.sleep(60)

        leader.database.group_commit(ROWS)
        leader.instead = freeze
        with pytest.raises(errors.Indefinite):
            await follower.database.group_commit(ROWS).submit("k", "v", deadline_seconds=0.2)

    hold(play)


def test_a_connection_of_another_epoch_is_not_used_any_more():
    async def play(node: SqliteNode, leader: Controller, follower: Controller) -> None:
        leader.database.group_commit(ROWS)
        committer = follower.database.group_commit(ROWS)
        await submit(committer, "before", 1)
        follower.identity = "epoch 2"
        await submit(committer, "after", 1)
        assert follower.dialled == 2

    hold(play)


def test_draining_answers_what_was_taken():
    async def play(node: SqliteNode, leader: Controller, follower: Controller) -> None:
        leader.database.group_commit(ROWS)
        committer = follower.database.group_commit(ROWS)
        node.hangs = True
        waiting = asyncio.create_task(committer.submit("k", "v", deadline_seconds=0.3))
        while not node.batches:
            await asyncio.sleep(0.001)
        await leader.exchange.drain(5)
        # Its deadline passed there, and the answer to that is on its way or was told here already.
        with pytest.raises(errors.Indefinite):
            await waiting

    hold(play)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        msgspec.msgpack.encode(["data"]),
        msgspec.msgpack.encode(["data", "w", "a", 1, True, ["text"], [1.0]]),
    ],
)
def test_a_bundle_that_cannot_be_read_is_a_bad_frame(body: bytes):
    async def play(node: SqliteNode, leader: Controller, follower: Controller) -> None:
        with pytest.raises(preamble.BadFrame):
            await leader.exchange.serve(body)

    hold(play)


def test_a_request_that_no_committer_would_have_sent_is_refused_alone():
    async def play(node: SqliteNode, leader: Controller, follower: Controller) -> None:
        leader.database.group_commit(ROWS)
        requests = (b'["good", "v"]', b"{}", b"[1.5]", b"nonsense", b'["short"]')
        bundle = exchange.Bundle("data", ROWS.write, ROWS.ask, 1, True, requests, (5.0,) * len(requests))
        answer = msgspec.msgpack.decode(
            await leader.exchange.serve(msgspec.msgpack.encode(bundle)), type=exchange.Verdicts
        )
        assert answer.taken
        assert [verdict.word for verdict in answer.verdicts] == ["done", *["refused"] * 4]

    hold(play)


def test_values_of_every_kind_come_back_as_they_were():
    row = ("text", 2**63 - 1, -(2**63), 1.5, b"\x00\xff", None, "")
    verdict = exchange.Verdict("done", row)
    packed = msgspec.msgpack.encode(exchange.Verdicts(True, (verdict,)))
    assert msgspec.msgpack.decode(packed, type=exchange.Verdicts).verdicts[0].row == row

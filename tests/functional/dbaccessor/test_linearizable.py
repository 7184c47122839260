"""A leader that was paused and deposed answers from old data. Nobody who reads here ever gets it (C14)."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from dbaccessor import errors
from dbaccessor.database import Consistency, Database, Transaction
from dbaccessor.dqlite.connection import Connection
from dbaccessor.identity import controller_of
from dbaccessor.leader import OutsideConnector
from loopback import Cluster

TRIALS = 4


@pytest.fixture
def cluster(tmp_path: Path):
    with Cluster(tmp_path, 81) as made:
        yield made


def database(cluster: Cluster, *numbers: int) -> Database:
    return Database(cluster.connector(*numbers), "t")


class Followed:
    """A connector that remembers whom it took for the leader."""

    def __init__(self, inner: OutsideConnector) -> None:
        self._inner = inner
        self.leaders: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def to_leader(self, *, deadline: float) -> Connection:
        connection = await self._inner.to_leader(deadline=deadline)
        self.leaders.append(int(controller_of(connection.name)))
        return connection


async def set_value(where: Database, value: int) -> None:
    async def write(tx: Transaction) -> None:
        await tx.execute("CREATE TABLE IF NOT EXISTS t (k INTEGER NOT NULL PRIMARY KEY, v INTEGER NOT NULL)")
        await tx.execute("INSERT INTO t (k, v) VALUES (1, ?) ON CONFLICT (k) DO UPDATE SET v = excluded.v", (value,))

    await where.run(write, deadline_seconds=20)


async def eventually(fact: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not await asyncio.to_thread(fact):
            await asyncio.sleep(0.02)


async def read_past_a_thawing_leader(
    cluster: Cluster, count: int, ask: Callable[[Database], Awaitable[int]]
) -> list[tuple[int, int]]:
    """Freeze the leader with a question waiting before it, let another be elected and write, thaw the first.

    Return (what was answered, what was the truth when it was asked to answer) for each trial in which the question
    waited before the frozen one.
    """
    numbers = range(count)
    found: list[tuple[int, int]] = []
    trial = 0
    while len(found) < TRIALS:
        trial += 1
        assert trial < 6 * TRIALS, "the question hardly ever waited before the one that was frozen"
        # The asker has met the leader before: its connections to it and to the voters are open.
        connector = Followed(cluster.connector(*numbers))
        asker = Database(connector, "t")
        await set_value(asker, 10 * trial)
        await ask(asker)
        await eventually(lambda: cluster.leader(0) is not None)
        old = await asyncio.to_thread(cluster.leader, 0)
        assert old is not None
        cluster.freeze(old)
        try:
            answer = asyncio.create_task(ask(asker))
            rest = [n for n in numbers if n != old]
            writer = database(cluster, *rest)
            await set_value(writer, 10 * trial + 1)
            writer.close()
            # Whoever has found the new leader may have asked it before the write: then the old value is the truth.
            waited = not answer.done() and set(connector.leaders) == {old}
        finally:
            cluster.signal(old, signal.SIGCONT)
        got = await answer
        if waited:
            found.append((got, 10 * trial + 1))
        asker.close()
        await eventually(lambda: cluster.role_counts(0)[0] == min(3, count))
    return found


def reading(consistency: Consistency) -> Callable[[Database], Awaitable[int]]:
    async def ask(where: Database) -> int:
        found = await where.read("SELECT v FROM t", consistency=consistency, deadline_seconds=20)
        return int(str(found.rows[0][0]))

    return ask


async def reading_in_a_transaction(where: Database) -> int:
    async def look(tx: Transaction) -> int:
        await tx.query("SELECT count(*) FROM t")
        return int(str((await tx.query("SELECT v FROM t")).rows[0][0]))

    return await where.run(look, read_only=True, deadline_seconds=20)


async def writing_nothing(where: Database) -> int:
    """A write that finds nothing to do and tells why: how a lease is denied."""

    async def claim(tx: Transaction) -> int:
        await tx.execute("UPDATE t SET v = -1 WHERE v < -1")
        await tx.execute("INSERT INTO t (k, v) VALUES (1, -1) ON CONFLICT (k) DO NOTHING")
        return int(str((await tx.query("SELECT v FROM t")).rows[0][0]))

    return await where.run(claim, deadline_seconds=20)


async def updating_to_the_same(where: Database) -> int:
    """SQLite counts a row that gets the values it has, and writes no page: raft is never asked."""
    seen = 0

    async def update(tx: Transaction) -> int:
        nonlocal seen
        seen = int(str((await tx.query("SELECT v FROM t")).rows[0][0]))
        result = await tx.execute("UPDATE t SET v = ?", (seen,))
        assert result.rows_affected == 1
        return seen

    return await where.run(update, deadline_seconds=20)


@pytest.mark.parametrize(
    ("count", "ask"),
    [
        (3, reading("linearizable")),
        (3, writing_nothing),
        (3, updating_to_the_same),
        (5, reading_in_a_transaction),
    ],
)
def test_no_answer_is_older_than_what_was_committed_before_it(
    cluster: Cluster, count: int, ask: Callable[[Database], Awaitable[int]]
):
    cluster.form(count)

    found = asyncio.run(read_past_a_thawing_leader(cluster, count, ask))

    assert [answer for answer, _ in found] == [truth for _, truth in found]


def test_without_the_confirmation_the_same_trials_end_in_old_values(cluster: Cluster):
    """The mode that says so in its name; and the proof that the test above would notice."""
    cluster.form(3)

    found = asyncio.run(read_past_a_thawing_leader(cluster, 3, reading("leader")))

    assert any(answer < truth for answer, truth in found), found


@pytest.mark.parametrize("count", [1, 2, 5])
def test_clusters_of_other_sizes_read_and_write(cluster: Cluster, count: int):
    cluster.form(count)

    async def play() -> None:
        where = database(cluster, *range(count))
        for value in range(5):
            await set_value(where, value)
            assert await reading("linearizable")(where) == value
            assert await reading_in_a_transaction(where) == value
            assert await writing_nothing(where) == value
        where.close()

    asyncio.run(play())


def test_the_survivor_of_two_voters_answers_nobody_until_the_other_is_back(cluster: Cluster):
    cluster.form(2)

    async def play() -> None:
        where = database(cluster, 0, 1)
        await set_value(where, 1)
        leader = await asyncio.to_thread(cluster.leader, 0)
        cluster.freeze(1 - (leader or 0))
        try:
            with pytest.raises(errors.NotReady):
                await where.read("SELECT v FROM t", deadline_seconds=1)
        finally:
            cluster.signal(1 - (leader or 0), signal.SIGCONT)
        assert await reading("linearizable")(where) == 1
        where.close()

    asyncio.run(play())


def test_a_frozen_leader_costs_a_caller_its_patience_and_not_its_deadline(cluster: Cluster):
    """Its connections stay open and answer nothing; the others have elected another long before."""
    cluster.form(3)

    async def play() -> None:
        where = database(cluster, 0, 1, 2)
        await set_value(where, 1)
        leader = await asyncio.to_thread(cluster.leader, 0)
        assert leader is not None
        cluster.freeze(leader)
        try:
            async with asyncio.timeout(25):
                await where.run(lambda tx: tx.execute("INSERT INTO t (k, v) VALUES (2, 2)"), deadline_seconds=60)
                found = await where.read("SELECT count(*) FROM t", deadline_seconds=60)
            assert found.rows == ((2,),)
        finally:
            cluster.signal(leader, signal.SIGCONT)
        where.close()

    asyncio.run(play())

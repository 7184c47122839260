"""What passes on its way into real nodes is understood to the last byte, whatever they say to each other."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from dbaccessor import errors
from dbaccessor.database import Database
from dbaccessor.dqlite.connection import Member
from dbaccessor.identity import controller_of
from dbaccessor.terms import Word
from loopback import Cluster

BIG = "x" * (3 << 20)


@pytest.fixture(params=[False, True], ids=["clear", "tls"])
def cluster(tmp_path: Path, request: pytest.FixtureRequest):
    with Cluster(tmp_path, 83, tls=request.param) as made:
        yield made


async def words(cluster: Cluster, *numbers: int) -> tuple[Member, dict[int, Word | None]]:
    """Return the leader, and what each of these tells."""
    connector = cluster.connector(*numbers)
    loop = asyncio.get_running_loop()
    leader = await connector.to_leader(deadline=loop.time() + 20)
    members = await leader.cluster()
    leader.close()
    said: dict[int, Word | None] = {}
    for member in members:
        number = int(controller_of(member.name))
        if number in numbers:
            link = await connector.to_terms(member.name, deadline=loop.time() + 5)
            answer: asyncio.Future[Word | None] = loop.create_future()
            said[number] = await answer if link.ask(answer.set_result, deadline_seconds=5) else None
            link.close()
    return next(m for m in members if m.name == leader.name), said


async def all_tell_of(cluster: Cluster, *numbers: int) -> int:
    """Wait until everybody tells of one term, in which the leader led the others; return that term."""
    async with asyncio.timeout(20):
        while True:
            try:
                leader, said = await words(cluster, *numbers)
                assert None not in said.values(), [p.read_text()[-3000:] for p in sorted(cluster.root.glob("*.log"))]
                others = {word for number, word in said.items() if number != int(controller_of(leader.name))}
                newest = {word.newest for word in said.values() if word is not None}
                if len(newest) == 1 and others == {Word(*newest, leader.dqlite_id, *newest)}:
                    return newest.pop()
            except (errors.DbAccessorError, OSError):
                pass  # An election.
            await asyncio.sleep(0.05)


async def write(cluster: Cluster, *numbers: int, rows: int = 20, value: str = "x") -> None:
    database = Database(cluster.connector(*numbers), "t")
    await database.run(lambda tx: tx.execute("CREATE TABLE IF NOT EXISTS t (v TEXT)"), deadline_seconds=20)
    for _ in range(rows):
        await database.run(lambda tx: tx.execute("INSERT INTO t VALUES (?)", (value,)), deadline_seconds=20)
    database.close()


def test_everybody_tells_of_the_leader_s_term_through_elections_restarts_joins_and_large_entries(cluster: Cluster):
    cluster.form(3)

    async def play() -> None:
        first = await all_tell_of(cluster, 0, 1, 2)
        await write(cluster, 0, 1, 2)
        await write(cluster, 0, 1, 2, rows=2, value=BIG)
        assert await all_tell_of(cluster, 0, 1, 2) == first

        leader, _ = await words(cluster, 0, 1, 2)
        old = int(controller_of(leader.name))
        cluster.kill(old)
        others = [n for n in range(3) if n != old]
        await write(cluster, *others, rows=5)
        second = await all_tell_of(cluster, *others)
        assert second > first
        cluster.start(old)
        third = await all_tell_of(cluster, 0, 1, 2)
        assert third >= second

        # One that was restarted says no less than before, though nobody has said anything to it yet.
        cluster.kill(old)
        cluster.start(old)
        await asyncio.to_thread(cluster.wait, lambda: cluster.serving(old), "it serves again")
        _, said = await words(cluster, 0, 1, 2)
        word = said[old]
        assert word is not None
        assert word.newest >= third

    asyncio.run(play())


@pytest.mark.long
def test_a_snapshot_that_a_late_one_needs_is_understood_as_well(tmp_path: Path):
    """The library keeps some 8,000 entries; whoever needs older ones is sent everything."""
    with Cluster(tmp_path, 83) as cluster:
        cluster.form(2)
        asyncio.run(write(cluster, 0, 1, rows=10_000))
        cluster.configure([0, 1, 2])
        cluster.start(2)
        cluster.wait(lambda: cluster.role_counts(0) == (3, 0, 0), "the third is a voter", 60)
        snapshots = [p for p in (cluster.state_dir(2) / "dqlite").iterdir() if p.name.startswith("snapshot")]
        assert snapshots, "it was not sent a snapshot"
        asyncio.run(write(cluster, 0, 1, 2))
        asyncio.run(all_tell_of(cluster, 0, 1, 2))

"""Group commit on real nodes: committers on several controllers at once, and leaders that die under them."""

from __future__ import annotations

import asyncio

import pytest

from dbaccessor import errors
from dbaccessor.database import Database, Transaction
from dbaccessor.groupcommit import Batch, GroupCommit
from dqlitenodes import InProcess, Processes

ROWS = Batch(
    write="INSERT INTO t (k, v, n) SELECT value->>0, value->>1, 1 FROM json_each(?) WHERE true"
    " ON CONFLICT (k) DO UPDATE SET v = excluded.v, n = n + 1",
    ask="SELECT j.key, t.v, t.n FROM json_each(?) AS j JOIN t ON t.k = j.value->>0",
)
LEASES = Batch(
    write="INSERT INTO lease (name, holder, counter) SELECT value->>0, value->>1, value->>2 + 1 FROM json_each(?)"
    " WHERE true ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, counter = excluded.counter"
    " WHERE lease.counter = excluded.counter - 1",
    ask="SELECT j.key, l.holder, l.counter FROM json_each(?) AS j JOIN lease AS l ON l.name = j.value->>0",
    rising=True,
)
CHILDREN = Batch(
    write="INSERT INTO child (k, parent) SELECT value->>0, value->>1 FROM json_each(?)",
    ask="SELECT j.key, child.parent FROM json_each(?) AS j JOIN child ON child.k = j.value->>0",
)


async def create(database: Database) -> None:
    async def tables(tx: Transaction) -> None:
        await tx.execute("CREATE TABLE t (k TEXT NOT NULL PRIMARY KEY, v INTEGER NOT NULL CHECK (v >= 0), n INTEGER)")
        await tx.execute("CREATE TABLE lease (name TEXT NOT NULL PRIMARY KEY, holder TEXT, counter INTEGER NOT NULL)")

    await database.run(tables, deadline_seconds=30)


def test_one_wrong_request_spoils_it_for_nobody_else(nodes: InProcess):
    async def play() -> None:
        await asyncio.to_thread(nodes.found)
        database = Database(nodes, "data")
        await create(database)
        committer = database.group_commit(ROWS)
        said = await asyncio.gather(
            *(committer.submit(f"k{n}", -1 if n in (3, 17) else n) for n in range(40)), return_exceptions=True
        )
        for n, outcome in enumerate(said):
            assert isinstance(outcome, errors.Refused) if n in (3, 17) else outcome == (n, 1)
        found = await database.read("SELECT count(*) FROM t")
        assert found.rows == ((38,),)
        database.close()

    asyncio.run(play())


def test_one_that_breaks_a_deferred_constraint_spoils_it_for_nobody_else(nodes: InProcess):
    """Of such a constraint only COMMIT tells, and it leaves the transaction open."""

    async def tables(tx: Transaction) -> None:
        await tx.execute("CREATE TABLE parent (name TEXT NOT NULL PRIMARY KEY)")
        await tx.execute(
            "CREATE TABLE child (k TEXT NOT NULL PRIMARY KEY,"
            " parent TEXT NOT NULL REFERENCES parent DEFERRABLE INITIALLY DEFERRED)"
        )
        await tx.execute("INSERT INTO parent VALUES ('ok')")

    async def play() -> None:
        await asyncio.to_thread(nodes.found)
        database = Database(nodes, "data")
        await database.run(tables, deadline_seconds=30)
        committer = database.group_commit(CHILDREN)
        said = await asyncio.gather(
            *(committer.submit(k, v) for k, v in (("a", "ok"), ("b", "absent"), ("d", "ok"))), return_exceptions=True
        )
        assert said[0] == said[2] == ("ok",)
        assert isinstance(said[1], errors.Refused)
        # It is refused by itself as well, at once.
        with pytest.raises(errors.Refused, match="FOREIGN KEY"):
            await committer.submit("b", "absent")
        assert await committer.submit("e", "ok") == ("ok",)
        assert (await database.read("SELECT k FROM child ORDER BY k")).rows == (("a",), ("d",), ("e",))
        database.close()

    asyncio.run(play())


def test_a_transaction_beside_makes_batches_wait_and_none_of_them_half_done(nodes: InProcess):
    async def play() -> None:
        await asyncio.to_thread(nodes.found)
        database, other = Database(nodes, "data"), Database(nodes, "data")
        await create(database)
        committer = other.group_commit(ROWS)
        async with database.transaction() as transaction:
            await transaction.execute("INSERT INTO t VALUES ('mine', 1, 1)")
            waiting = [asyncio.create_task(committer.submit(f"k{n}", n)) for n in range(10)]
            # Longer than the server's own busy timeout, so that BEGIN fails and the rest of the send must do nothing.
            await asyncio.sleep(1.5)
            assert (await transaction.query("SELECT count(*) FROM t")).rows == ((1,),)
            assert not any(task.done() for task in waiting)
        assert await asyncio.gather(*waiting) == [(n, 1) for n in range(10)]
        database.close()
        other.close()

    asyncio.run(play())


def test_leaders_die_under_three_committers_and_every_outcome_is_true(three: Processes):
    async def play() -> None:
        await three.grow()
        await three.wait_for_roles(3, 0)
        databases = [Database(three, "data") for _ in range(3)]
        await create(databases[0])
        acknowledged: set[str] = set()
        refused: set[str] = set()
        doubtful: set[str] = set()
        stop = asyncio.Event()

        async def call(committer: GroupCommit, caller: str) -> None:
            number = 0
            while not stop.is_set():
                number += 1
                key = f"{caller}.{number}"
                try:
                    assert await committer.submit(key, number, deadline_seconds=3) == (number, 1)
                    acknowledged.add(key)
                except errors.Indefinite:
                    doubtful.add(key)
                except (errors.NotReady, errors.Refused):
                    refused.add(key)

        async def lease(committer: GroupCommit, holder: str) -> None:
            """Raise one counter in competition; who is told that it holds it raised it by exactly one."""
            seen = 0
            while not stop.is_set():
                try:
                    row = await committer.submit("lease", holder, seen, deadline_seconds=3)
                except errors.DbAccessorError:
                    continue
                assert row is not None
                if row[0] == holder and row[1] == seen + 1:
                    granted.append(int(str(row[1])))
                seen = int(str(row[1]))

        granted: list[int] = []
        async with asyncio.TaskGroup() as group:
            for which, database in enumerate(databases):
                rows, leases = database.group_commit(ROWS), database.group_commit(LEASES)
                for caller in range(10):
                    group.create_task(call(rows, f"{which}.{caller}"))
                group.create_task(lease(leases, f"holder {which}"))
            for _ in range(3):
                before = len(acknowledged)
                while len(acknowledged) < before + 300:
                    await asyncio.sleep(0.01)
                leader = await three.wait_for_leader()
                await asyncio.to_thread(three.kill, leader)
                await three.wait_for_leader(other_than=leader)
                await asyncio.to_thread(three.start, leader)
                await three.wait_for_roles(3, 0)
            stop.set()

        there = {str(k): n for k, n in (await databases[0].read("SELECT k, n FROM t")).rows}
        assert acknowledged <= there.keys()
        assert not refused & there.keys()
        assert there.keys() <= acknowledged | doubtful
        assert set(there.values()) == {1}
        assert len(acknowledged) > 900
        # Nobody is granted what another was granted.
        assert len(granted) == len(set(granted))
        for database in databases:
            database.close()

    asyncio.run(play())

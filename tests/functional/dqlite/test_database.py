"""The transaction API on real clusters: what is committed, what is retried, what is left open to doubt."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from dbaccessor import errors
from dbaccessor.database import Database, Transaction
from dbaccessor.dqlite.results import Rows
from dqlitenodes import InProcess, Processes


def on_one_node(nodes: InProcess, play: Callable[[Database], Awaitable[None]]) -> None:
    async def run() -> None:
        await asyncio.to_thread(nodes.found)
        database = Database(nodes, "data")
        async with database.transaction(deadline_seconds=30) as transaction:
            await transaction.execute("CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT UNIQUE)")
        await play(database)
        database.close()

    asyncio.run(run())


async def content(database: Database) -> list[object]:
    return [value for (value,) in (await database.read("SELECT b FROM t ORDER BY b")).rows]


def test_a_transaction_lasts_when_its_block_ends_and_leaves_nothing_when_it_raises(nodes: InProcess):
    async def fail(transaction: Transaction) -> None:
        await transaction.execute("INSERT INTO t(b) VALUES(?)", ("two",))
        raise ZeroDivisionError

    async def play(database: Database) -> None:
        async with database.transaction() as transaction:
            result = await transaction.execute("INSERT INTO t(b) VALUES(?)", ("one",))
            assert (result.last_insert_id, result.rows_affected) == (1, 1)
            assert (await transaction.query("SELECT b FROM t")).rows == (("one",),)
        with pytest.raises(ZeroDivisionError):
            await database.run(fail)

        assert await content(database) == ["one"]
        with pytest.raises(errors.Refused, match="over"):
            await transaction.execute("INSERT INTO t(b) VALUES(?)", ("late",))

    on_one_node(nodes, play)


def test_a_failed_statement_ends_its_transaction_even_where_sqlite_would_go_on(nodes: InProcess):
    """OR ROLLBACK ends SQLite's transaction inside; what follows would be committed statement by statement."""

    async def go_on(transaction: Transaction) -> None:
        await transaction.execute("INSERT INTO t(b) VALUES('y')")
        with pytest.raises(errors.Refused, match="UNIQUE"):
            await transaction.execute("INSERT OR ROLLBACK INTO t(b) VALUES('x')")
        with pytest.raises(errors.Refused, match="failed already"):
            await transaction.execute("INSERT INTO t(b) VALUES('z')")

    async def play(database: Database) -> None:
        async with database.transaction() as transaction:
            await transaction.execute("INSERT INTO t(b) VALUES('x')")
        with pytest.raises(errors.Refused, match="nothing was committed"):
            await database.run(go_on)

        assert await content(database) == ["x"]

    on_one_node(nodes, play)


def test_what_is_refused_before_it_is_sent_leaves_the_transaction_as_it_was(nodes: InProcess):
    async def play(database: Database) -> None:
        async with database.transaction() as transaction:
            await transaction.execute("INSERT INTO t(b) VALUES('x')")
            for sql in ("COMMIT", "ROLLBACK", "VACUUM", "SELECT 1", "INSERT INTO t(b) VALUES('y') RETURNING a"):
                with pytest.raises(errors.Refused):
                    await transaction.execute(sql)
        assert await content(database) == ["x"]

    on_one_node(nodes, play)


def test_a_deferred_constraint_is_refused_at_the_end_and_the_database_goes_on(nodes: InProcess):
    async def play(database: Database) -> None:
        async with database.transaction() as transaction:
            await transaction.execute("CREATE TABLE child(p INTEGER REFERENCES t(a) DEFERRABLE INITIALLY DEFERRED)")
        with pytest.raises(errors.Refused, match="FOREIGN KEY"):
            async with database.transaction() as transaction:
                await transaction.execute("INSERT INTO child VALUES(99)")
        async with database.transaction() as transaction:
            assert (await transaction.query("SELECT count(*) FROM child")).rows == ((0,),)

    on_one_node(nodes, play)


def test_many_tasks_and_two_accessors_share_one_database(nodes: InProcess):
    async def play(database: Database) -> None:
        other = Database(nodes, "data")

        async def add(transaction: Transaction) -> None:
            rows = await transaction.query("SELECT count(*) FROM t")
            await transaction.execute("INSERT INTO t(b) VALUES(?)", (f"{rows.rows[0][0]:03}",))

        async with asyncio.TaskGroup() as group:
            for number in range(40):
                group.create_task((database, other)[number % 2].run(add, deadline_seconds=60))
        assert await content(database) == [f"{number:03}" for number in range(40)]
        other.close()

    on_one_node(nodes, play)


def test_a_cancelled_transaction_leaves_nothing_and_blocks_nobody(nodes: InProcess):
    async def play(database: Database) -> None:
        begun = asyncio.Event()

        async def stay() -> None:
            async with database.transaction() as transaction:
                await transaction.execute("INSERT INTO t(b) VALUES('never')")
                begun.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(stay())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with database.transaction() as transaction:
            await transaction.execute("INSERT INTO t(b) VALUES('after')")
        assert await content(database) == ["after"]

    on_one_node(nodes, play)


def test_nobody_leads_is_not_ready_at_the_deadline(nodes: InProcess):
    async def play() -> None:
        await asyncio.to_thread(nodes.start, 0)  # An empty directory under a random id: no cluster at all.
        database = Database(nodes, "data")
        with pytest.raises(errors.NotReady, match="leads"):
            await database.read("SELECT 1", deadline_seconds=0.3)
        with pytest.raises(errors.NotReady, match="leads"):
            async with database.transaction(deadline_seconds=0.3):
                raise AssertionError

    asyncio.run(play())


def test_run_goes_on_with_the_next_leader_and_loses_nothing_acknowledged(three: Processes):
    """A counter raised while leaders are killed: everything acknowledged is there, nothing is there twice."""

    async def play() -> None:
        await three.grow()
        await three.wait_for_roles(3, 0)
        database = Database(three, "data")
        acknowledged: set[int] = set()
        doubtful: set[int] = set()

        async def create(transaction: Transaction) -> None:
            await transaction.execute("CREATE TABLE t(n INTEGER NOT NULL)")

        await database.run(create)

        async def write(stop: asyncio.Event) -> None:
            number = 0
            while not stop.is_set():
                number += 1

                async def insert(transaction: Transaction, number: int = number) -> None:
                    await transaction.execute("INSERT INTO t VALUES(?)", (number,))

                try:
                    await database.run(insert, deadline_seconds=20)
                except errors.Indefinite:
                    doubtful.add(number)
                else:
                    acknowledged.add(number)

        stop = asyncio.Event()
        writing = asyncio.create_task(write(stop))
        for _ in range(3):
            before = len(acknowledged)
            while len(acknowledged) < before + 30:
                assert not writing.done()
                await asyncio.sleep(0.01)
            leader = await three.wait_for_leader()
            await asyncio.to_thread(three.kill, leader)
            await three.wait_for_leader(other_than=leader)
            await asyncio.to_thread(three.start, leader)
            await three.wait_for_roles(3, 0)
        stop.set()
        await writing

        found = [n for (n,) in (await database.read("SELECT n FROM t ORDER BY n")).rows]
        assert len(found) == len(set(found))
        assert acknowledged <= set(found) <= acknowledged | doubtful
        assert len(acknowledged) >= 90
        database.close()

    asyncio.run(play())


def test_a_commit_without_an_answer_is_indefinite_and_is_not_tried_again(three: Processes):
    async def play() -> None:
        # The leader must lead still when COMMIT comes: it notices after 15 times this that nobody answers it.
        three.latency_ms = 50
        await three.grow()
        await three.wait_for_roles(3, 0)
        database = Database(three, "data")
        async with database.transaction() as transaction:
            await transaction.execute("CREATE TABLE t(a)")
        leader = await three.wait_for_leader()
        followers = {0, 1, 2} - {leader}
        attempts = 0

        async def insert(transaction: Transaction) -> None:
            nonlocal attempts
            attempts += 1
            await transaction.execute("INSERT INTO t VALUES(1)")
            # No follower can confirm any more: COMMIT will be answered by "leadership lost".
            for index in followers:
                three.freeze(index)

        try:
            with pytest.raises(errors.Indefinite):
                await database.run(insert)
        finally:
            for index in followers:
                three.thaw(index)
        assert attempts == 1

        rows = await database.read("SELECT count(*) FROM t", deadline_seconds=30)
        assert rows in (Rows(("count(*)",), ((0,),)), Rows(("count(*)",), ((1,),)))
        database.close()

    asyncio.run(play())


def test_a_leader_that_dies_before_the_commit_did_nothing_and_run_begins_again(three: Processes):
    async def play() -> None:
        await three.grow()
        await three.wait_for_roles(3, 0)
        database = Database(three, "data")
        async with database.transaction() as transaction:
            await transaction.execute("CREATE TABLE t(a)")
        attempts = 0

        async def insert(transaction: Transaction) -> None:
            nonlocal attempts
            attempts += 1
            await transaction.execute("INSERT INTO t VALUES(?)", (attempts,))
            if attempts == 1:
                await asyncio.to_thread(three.kill, await three.wait_for_leader())
                with pytest.raises(errors.NotReady):
                    await transaction.execute("INSERT INTO t VALUES(0)")
                raise errors.NotReady("as a caller that passes it on")

        await database.run(insert, deadline_seconds=30)

        assert attempts == 2
        assert (await database.read("SELECT a FROM t")).rows == ((2,),)
        database.close()

    asyncio.run(play())

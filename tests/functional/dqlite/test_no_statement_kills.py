"""C15: whatever a caller sends through the API, no node dies of it, and nobody else waits for it."""

from __future__ import annotations

import asyncio
import time

import pytest

from dbaccessor import errors
from dbaccessor.database import Database, Transaction
from dqlitenodes import Processes
from libraryversion import queries_on_threads

# docs/decisions/10-what-a-client-may-not-ask.md, and what else people write. Each is refused, or harmless.
HOSTILE = [
    "INSERT INTO t(b) VALUES('x') RETURNING a",
    "UPDATE t SET b = 'y' RETURNING a, b",
    "DELETE FROM t RETURNING *",
    "WITH x AS (SELECT 1) INSERT INTO t(b) SELECT 'z' FROM x RETURNING 1",
    "SELECT 1; DELETE FROM t",
    "CREATE TABLE bad (a BOOLEAN)",
    "CREATE TABLE bad (a DATE, b DATETIME)",
    "ALTER TABLE t ADD COLUMN c TIMESTAMP",
    "CREATE TEMP TABLE x (a)",
    "ATTACH ':memory:' AS m",
    "DETACH main",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA locking_mode = EXCLUSIVE",
    "PRAGMA page_size = 512",
    "PRAGMA writable_schema = ON",
    "PRAGMA wal_checkpoint(TRUNCATE)",
    "BEGIN EXCLUSIVE",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT s",
    "VACUUM",
    "VACUUM INTO '/tmp/copy'",
    "REINDEX",
    "ANALYZE",
    "SELECT load_extension('x')",
    "SELECT zeroblob(2147483647)",
    "SELECT randomblob(20000000) AS b",
    "SELECT " + ",".join(["a"] * 2100) + " FROM t",
    "SELECT 1 AS " + "x" * 5000,
    "SELECT abs(-9223372036854775808)",
    "SELECT * FROM sqlite_schema",
    "DROP TABLE sqlite_schema",
    "DELETE FROM sqlite_schema",
    "SELECT '" + "x" * 900_000 + "'",
    "SELECT '" + "x" * 900_000 + "' AS long",
    "",
    ";",
    "EXPLAIN SELECT 1",
    "EXPLAIN PRAGMA delete_database",
    "EXPLAIN QUERY PLAN PRAGMA query_only = 1",
    'PRAGMA "query_only" = table_info',
    "SELECT * FROM pragma_optimize(65538)",
    "CREATE TABLE bad (e\u0301 BOOLEAN, a \vDATE)",
    "\ufeffCREATE TEMP TABLE x (a)",
    "(SELECT 1)",
]


def test_none_of_these_ends_a_node_or_a_leadership(three: Processes):
    async def play() -> None:
        await three.grow()
        await three.wait_for_roles(3, 0)
        database = Database(three, "data")

        async def create(tx: Transaction) -> None:
            await tx.execute("CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT)")

        await database.run(create, deadline_seconds=30)
        for number, sql in enumerate(HOSTILE):
            for ask in (
                lambda sql=sql: database.read(sql, deadline_seconds=10),
                lambda sql=sql: database.run(lambda tx: tx.query(sql), deadline_seconds=10),
                lambda sql=sql: database.run(lambda tx: tx.execute(sql), deadline_seconds=10),
            ):
                try:
                    await ask()
                except errors.DbAccessorError:
                    pass
            await database.run(
                lambda tx, n=number: tx.execute("INSERT INTO t(b) VALUES(?)", (f"after {n}",)), deadline_seconds=20
            )
        found = await database.read("SELECT count(*) FROM t WHERE b LIKE 'after %'")
        assert found.rows == ((len(HOSTILE),),)
        assert all(child.poll() is None for child in three.children.values())
        database.close()
        for index in list(three.children):
            assert await asyncio.to_thread(three.command, index, "stop") == "stopped"

    asyncio.run(play())


# Minutes of work for one thread, and a single row at its end.
ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 40000000) SELECT count(*) FROM c"


@queries_on_threads
@pytest.mark.parametrize("in_transaction", [False, True])
def test_a_long_query_can_be_given_up_and_holds_nobody_up(three: Processes, in_transaction: bool):
    async def play() -> None:
        await three.grow()
        await three.wait_for_roles(3, 0)
        database, other = Database(three, "data"), Database(three, "other")
        for where in (database, other):
            await where.run(lambda tx: tx.execute("CREATE TABLE t(a)"), deadline_seconds=30)
        leader = await three.wait_for_leader()
        if in_transaction:
            long = asyncio.create_task(database.run(lambda tx: tx.query(ENDLESS), read_only=True, deadline_seconds=2))
        else:
            long = asyncio.create_task(database.read(ENDLESS, deadline_seconds=2))  # type: ignore[arg-type]
        await asyncio.sleep(0.2)
        slowest = 0.0
        while not long.done():
            began = time.monotonic()
            await other.run(lambda tx: tx.execute("INSERT INTO t VALUES (1)"), deadline_seconds=10)
            await database.run(lambda tx: tx.execute("INSERT INTO t VALUES (1)"), deadline_seconds=10)
            await database.read("SELECT count(*) FROM t")
            slowest = max(slowest, time.monotonic() - began)
        with pytest.raises(errors.NotReady):
            await long
        # A node whose loop ran the query itself would have been silent for seconds.
        assert slowest < 1.5
        assert await three.wait_for_leader() == leader
        assert all(child.poll() is None for child in three.children.values())
        database.close()
        other.close()

    asyncio.run(play())

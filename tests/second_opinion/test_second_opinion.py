"""Another client of Dqlite, written by others, and ours read and write the same cluster and agree.

Not part of the default run: the package needs Python 3.13 (`tox -e second-opinion`).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dbaccessor import errors
from dbaccessor.database import Database, Transaction
from dqlitenodes import Processes

if sys.version_info < (3, 13):
    pytest.skip("dqlite-client needs Python 3.13: tox -e second-opinion", allow_module_level=True)

import dqliteclient

# SQLite's five storage classes, with their edges. Text with NUL and NaN are refused by ours, so nothing to agree on.
VALUES = [
    None,
    0,
    -1,
    2**63 - 1,
    -(2**63),
    0.0,
    -1.5,
    1e300,
    5e-324,
    float("inf"),
    "",
    "1234567",
    "12345678",
    "é🙂",
    "x" * 5000,
    b"",
    b"\0\xff",
    b"12345678",
    b"y" * 5001,
]


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Processes]:
    cluster = Processes(tmp_path, 3)
    yield cluster
    cluster.close()


@asynccontextmanager
async def theirs(cluster: Processes) -> AsyncIterator[dqliteclient.DqliteConnection]:
    """Their connection to the leader. Names of nodes are no addresses here, so the leader is told."""
    leader = await cluster.wait_for_leader()
    async with dqliteclient.DqliteConnection(f"127.0.0.1:{cluster.ports[leader]}", database="data") as connection:
        yield connection


async def prepared(cluster: Processes) -> Database:
    await cluster.grow()
    await cluster.wait_for_roles(3, 0)
    database = Database(cluster, "data")

    async def create(transaction: Transaction) -> None:
        await transaction.execute("CREATE TABLE t(n INTEGER PRIMARY KEY, v)")

    await database.run(create, deadline_seconds=30)
    return database


def typed(rows: object) -> list[tuple[object, ...]]:
    """Values with their types: 1 and 1.0 are equal in Python, and no agreement."""
    return [(n, type(v), v) for n, v in rows]  # type: ignore[attr-defined]


def test_what_ours_wrote_is_what_theirs_reads(three: Processes):
    async def play() -> None:
        ours = await prepared(three)

        async def insert(transaction: Transaction) -> None:
            for value in VALUES:
                await transaction.execute("INSERT INTO t(v) VALUES(?)", (value,))

        await ours.run(insert)
        expected = typed(enumerate(VALUES, 1))
        assert typed((await ours.read("SELECT n, v FROM t ORDER BY n")).rows) == expected
        async with theirs(three) as other:
            assert typed(await other.fetchall("SELECT n, v FROM t ORDER BY n")) == expected
        ours.close()

    asyncio.run(play())


def test_what_theirs_wrote_is_what_ours_reads(three: Processes):
    async def play() -> None:
        ours = await prepared(three)
        async with theirs(three) as other:
            for value in VALUES:
                await other.execute("INSERT INTO t(v) VALUES(?)", [value])
            expected = typed(enumerate(VALUES, 1))
            assert typed(await other.fetchall("SELECT n, v FROM t ORDER BY n")) == expected
        assert typed((await ours.read("SELECT n, v FROM t ORDER BY n")).rows) == expected
        ours.close()

    asyncio.run(play())


def test_both_see_the_same_columns_many_parts_many_parameters_and_results(three: Processes):
    async def play() -> None:
        ours = await prepared(three)
        numbers = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x<3000)"
        many = f"{numbers} SELECT x AS n, 'some text to fill a page' AS v FROM c"
        wide = "SELECT " + ", ".join(f"{n} AS c{n}" for n in range(40))
        parameters = "SELECT " + "+".join("?" * 300) + " AS n, 1 AS v"
        async with theirs(three) as other:
            for sql, params in ((many, ()), (wide, ()), (parameters, tuple(range(300)))):
                rows = await ours.read(sql, params)
                columns, found = await other.query_raw(sql, list(params))
                assert list(rows.columns) == list(columns)
                assert [tuple(row) for row in found] == list(rows.rows)
            last, changed = await other.execute("INSERT INTO t(v) VALUES(1), (2), (3)")

        async def insert(transaction: Transaction) -> tuple[int, int]:
            result = await transaction.execute("INSERT INTO t(v) VALUES(1), (2), (3)")
            return result.last_insert_id, result.rows_affected

        assert (last, changed) == (3, 3)
        assert await ours.run(insert) == (6, 3)
        ours.close()

    asyncio.run(play())


def test_both_name_the_same_leader_and_the_same_codes_of_failures(three: Processes):
    async def play() -> None:
        ours = await prepared(three)
        leader = await three.wait_for_leader()
        async with three.connect(leader) as connection:
            members = {(m.dqlite_id, m.name) for m in await connection.cluster()}
            led = await connection.leader()
        async with theirs(three) as other:
            await other.execute("INSERT INTO t(n, v) VALUES(7, 1)")
            for sql in ("INSERT INTO t(n, v) VALUES(7, 1)", "SELECT * FROM nowhere"):
                with pytest.raises(dqliteclient.OperationalError) as their_error:
                    await (other.fetchall if sql.startswith("SELECT") else other.execute)(sql)
                async with three.connect(leader) as connection:
                    await connection.open_database("data")
                    with pytest.raises(errors.Refused) as our_error:
                        await (connection.query if sql.startswith("SELECT") else connection.execute)(sql)
                assert their_error.value.code == our_error.value.code
            assert other._protocol is not None
            assert await other._protocol.get_leader() == led
            assert {(node.node_id, node.address) for node in await other._protocol.cluster()} == members
        ours.close()

    asyncio.run(play())

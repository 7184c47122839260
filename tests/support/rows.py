"""Rows written to and read from a loopback cluster, from outside, through whoever leads."""

from __future__ import annotations

import asyncio

from dbaccessor.database import Database
from loopback import Cluster


def database(cluster: Cluster, *numbers: int) -> Database:
    return Database(cluster.connector(*numbers), "t")


def write(cluster: Cluster, *numbers: int, value: int) -> None:
    """Write one row through whoever leads, creating the table first."""

    async def inside() -> None:
        where = database(cluster, *numbers)

        async def insert(tx):
            await tx.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER NOT NULL PRIMARY KEY)")
            await tx.execute("INSERT OR IGNORE INTO t (n) VALUES (?)", (value,))

        await where.run(insert, deadline_seconds=15)
        where.close()

    asyncio.run(inside())


def read(cluster: Cluster, *numbers: int) -> list[int]:
    async def inside() -> list[int]:
        where = database(cluster, *numbers)
        found = await where.read("SELECT n FROM t ORDER BY n")
        where.close()
        return [int(row[0]) for row in found.rows]

    return asyncio.run(inside())

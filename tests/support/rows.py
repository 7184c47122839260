"""Rows written to and read from a loopback cluster, from outside, through whoever leads."""

from __future__ import annotations

import asyncio
import contextlib

from dbaccessor.database import Database
from loopback import Cluster


def database(cluster: Cluster, *numbers: int) -> Database:
    return Database(cluster.connector(*numbers), "t")


def write(cluster: Cluster, *numbers: int, value: int) -> None:
    """Write one row through whoever leads, creating the table first."""

    async def inside() -> None:
        async def insert(tx):
            await tx.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER NOT NULL PRIMARY KEY)")
            await tx.execute("INSERT OR IGNORE INTO t (n) VALUES (?)", (value,))

        with contextlib.closing(database(cluster, *numbers)) as where:
            await where.run(insert, deadline_seconds=15)

    asyncio.run(inside())


def read(cluster: Cluster, *numbers: int) -> list[int]:
    async def inside() -> list[int]:
        with contextlib.closing(database(cluster, *numbers)) as where:
            found = await where.read("SELECT n FROM t ORDER BY n")
        return [int(row[0]) for row in found.rows]

    return asyncio.run(inside())

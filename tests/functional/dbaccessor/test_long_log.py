"""Readers that never pause: the leader's write-ahead log grows, leadership moves, and nobody's node is aborted."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import time

import pytest

from dbaccessor import confsocket, errors, logwatch
from dbaccessor.database import Database
from loopback import Cluster

# Each write changes a page for every fourth row.
_ROWS = 1000
_SECONDS = 90


def metric(cluster: Cluster, n: int, series: str) -> float:
    _, page = confsocket.request(cluster.state_dir(n) / confsocket.CONTROL, "GET", "/metrics")
    found = re.search(rf"^{re.escape(series)} (\S+)$", page.decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


async def fill(database: Database) -> None:
    async def create(tx):
        await tx.execute("CREATE TABLE big (id INTEGER NOT NULL PRIMARY KEY, n INTEGER NOT NULL, pad TEXT NOT NULL)")

    async def insert(tx):
        await tx.execute(
            "INSERT INTO big (n, pad) WITH RECURSIVE s (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 250)"
            " SELECT i, hex(zeroblob(1800)) FROM s"
        )

    await database.run(create)
    for _ in range(_ROWS // 250):
        await database.run(insert)


async def read_on(database: Database) -> None:
    """One read-only transaction after another, each for a while."""
    await asyncio.sleep(random.random() / 3)
    while True:
        try:
            async with database.transaction(read_only=True) as tx:
                await tx.query("SELECT n FROM big WHERE id = 1")
                await asyncio.sleep(0.3)
        except errors.DbAccessorError:
            await asyncio.sleep(0.05)


async def come_anew(cluster: Cluster, *numbers: int) -> None:
    """Read on a fresh connection, time and again: each asks for the newest part of the index first."""
    while True:
        newcomer = Database(cluster.connector(*numbers), "t")
        with contextlib.suppress(errors.DbAccessorError):
            await newcomer.read("SELECT count(*) FROM big")
        newcomer.close()
        await asyncio.sleep(0.3)


@pytest.mark.parametrize(
    ("count", "how", "length"), [(3, "handover", logwatch.LONG_FRAMES), (1, "restart", logwatch.HUGE_FRAMES)]
)
def test_readers_that_never_pause_cost_a_change_of_leader_and_no_controller(
    cluster: Cluster, count: int, how: str, length: int
):
    everybody = range(count)
    cluster.form(count)
    seen = {0.0}

    def relieved() -> float:
        return sum(metric(cluster, n, f'ha_controller_db_log_relieved_total{{how="{how}"}}') for n in everybody)

    async def watch() -> None:
        while True:
            await asyncio.sleep(0.1)
            for n in everybody:
                seen.add(await asyncio.to_thread(metric, cluster, n, "ha_controller_db_log_frames"))

    async def story() -> None:
        database = Database(cluster.connector(*everybody), "t")
        await fill(database)
        beside = [asyncio.create_task(read_on(database)) for _ in range(4)]
        beside += [asyncio.create_task(come_anew(cluster, *everybody)), asyncio.create_task(watch())]
        deadline = time.monotonic() + _SECONDS
        while not await asyncio.to_thread(relieved):
            assert time.monotonic() < deadline, f"nothing was done about {max(seen)} frames"
            with contextlib.suppress(errors.Indefinite):
                await database.run(lambda tx: tx.execute("UPDATE big SET n = n + 1 WHERE id % 4 = 0"))
            if max(seen) == 0 and time.monotonic() > deadline - _SECONDS / 2:
                pytest.skip("this libdqlite does not show how long its log is")
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        database.close()

    asyncio.run(story())

    assert max(seen) >= length
    assert all(cluster.alive(n) for n in everybody)
    cluster.wait(lambda: cluster.role_counts(0) == (count, 0, 0) and cluster.serving(*everybody), "all is well")

"""What a leader gave up with its leadership is in nobody's database, also not in its own when it leads again."""

from __future__ import annotations

import asyncio
import contextlib
import signal

import pytest

from dbaccessor import errors
from dbaccessor.dqlite import nodedir
from dbaccessor.dqlite.connection import Connection
from dbaccessor.identity import DATA
from loopback import Cluster

# SQLite needs half a page for each row.
_ROWS = (
    "INSERT INTO big (pad) WITH RECURSIVE s (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 1000)"
    " SELECT randomblob(2000) FROM s"
)


async def leader_of(cluster: Cluster) -> Connection:
    return await cluster.connector(0, 1, 2).to_leader(deadline=asyncio.get_running_loop().time() + 20)


async def fill(cluster: Cluster, thousands: int) -> None:
    with contextlib.closing(await leader_of(cluster)) as connection:
        await connection.open_database("large")
        await connection.execute("CREATE TABLE big (id INTEGER NOT NULL PRIMARY KEY, pad BLOB NOT NULL)")
        for _ in range(thousands):
            await connection.execute(_ROWS, deadline_seconds=20)


async def count(cluster: Cluster) -> tuple[str, object]:
    """Return who leads, and how many rows it has."""
    with contextlib.closing(await leader_of(cluster)) as connection:
        await connection.open_database("large")
        rows = await connection.query("SELECT count(*) FROM big", deadline_seconds=10)
        return connection.name.split("-")[1], rows.rows[0][0]


def last_index(cluster: Cluster, n: int) -> int:
    return nodedir.last_index_on_disk(cluster.state_dir(n) / DATA)


async def lead(cluster: Cluster, n: int) -> None:
    with contextlib.closing(await leader_of(cluster)) as connection:
        (heir,) = [m for m in await connection.cluster() if m.name.startswith(f"controller-{n}-")]
        with contextlib.suppress(errors.DbAccessorError):
            await connection.transfer(heir.dqlite_id)


async def lose_leadership_with(cluster: Cluster, leader: int, others: list[int], statement: str) -> None:
    """Carry the statement out on a leader that is alone by then, and let the others elect one of them."""
    with contextlib.closing(await leader_of(cluster)) as connection:
        await connection.open_database("large")
        cluster.kill(*others)
        with pytest.raises(errors.Indefinite):
            await connection.execute(statement, deadline_seconds=20)
    cluster.freeze(leader)
    cluster.start(*others)
    await asyncio.to_thread(cluster.wait, lambda: cluster.leader(others[0]) in others, "one of the others leads")


@pytest.mark.parametrize(("thousands", "deleted"), [(3, 1200), (4, 3900)])
def test_what_a_leader_gave_up_is_not_there_when_it_leads_again(cluster: Cluster, thousands: int, deleted: int):
    """With three thousand rows the database would be malformed by then, with four only wrong."""
    cluster.form(3)
    leader = cluster.leader(0)
    assert leader is not None
    others = [n for n in range(3) if n != leader]
    asyncio.run(fill(cluster, thousands))
    cluster.wait(lambda: len({last_index(cluster, n) for n in range(3)}) == 1, "all have it")
    asyncio.run(lose_leadership_with(cluster, leader, others, f"DELETE FROM big WHERE id <= {deleted}"))
    cluster.signal(leader, signal.SIGCONT)
    cluster.wait(lambda: cluster.leader(leader) in others and cluster.serving(leader), "it follows")

    def leads() -> bool:
        asyncio.run(lead(cluster, leader))
        return cluster.leader(leader) == leader

    cluster.wait(leads, "it leads again", 30)
    assert asyncio.run(count(cluster)) == (str(leader), thousands * 1000)

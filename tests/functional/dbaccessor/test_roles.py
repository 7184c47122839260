"""Roles are Dqlite's own business; but its queue of changes, once stuck, is not left to itself."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import time

import pytest

from dbaccessor import errors
from dbaccessor.dqlite.connection import Role
from loopback import Cluster


async def change_roles_as_fast_as_it_goes(cluster: Cluster, count: int, seconds: float) -> int:
    """Give every follower one role after the other, from outside. Returns how many changes were carried out."""
    loop = asyncio.get_running_loop()
    connector = cluster.connector(*range(count))
    end, changes = loop.time() + seconds, 0
    while loop.time() < end:
        connection = await connector.to_leader(deadline=loop.time() + 10)
        try:
            leader = await connection.leader()
            followers = [m for m in await connection.cluster() if (m.dqlite_id, m.name) != leader]
            for member, role in itertools.product(followers, (Role.SPARE, Role.STANDBY, Role.VOTER, Role.SPARE)):
                with contextlib.suppress(errors.Refused):
                    await connection.assign(member.dqlite_id, role, deadline_seconds=1)
                    changes += 1
        except errors.DbAccessorError:
            pass  # Its leader has changed; the next one is found above.
        finally:
            connection.close()
        await asyncio.sleep(0.01)
    return changes


@pytest.mark.long
@pytest.mark.timeout(180)
def test_roles_end_at_their_target_although_a_client_changed_them_while_dqlite_did(cluster: Cluster):
    """Of such clusters about two in three stay at one voter for ever when nobody helps."""
    cluster.form(1)
    cluster.configure(range(5))
    cluster.start(1, 2, 3, 4)

    changes = asyncio.run(change_roles_as_fast_as_it_goes(cluster, 5, 8))

    assert changes > 10
    cluster.wait(lambda: cluster.role_counts(0) == (3, 2, 0), "3 voters and 2 stand-bys", 120)


async def write_rows(cluster: Cluster, n: int, count: int) -> None:
    """Write so many rows, each an entry of the log, over one connection to the node of `n`, which leads."""
    connection = await cluster.connector(n).to_leader(deadline=asyncio.get_running_loop().time() + 10)
    with contextlib.closing(connection):
        await connection.open_database("missed")
        await connection.execute("CREATE TABLE row (k INTEGER PRIMARY KEY, v TEXT NOT NULL, n INTEGER)")
        for _ in range(count):
            await connection.execute(
                "INSERT INTO row VALUES (1, ?, 1) ON CONFLICT (k) DO UPDATE SET n = n + 1", ("x" * 64,)
            )


@pytest.mark.long
@pytest.mark.timeout(240)
def test_who_comes_back_after_much_was_written_has_a_vote_as_soon_as_it_is_a_voter(cluster: Cluster):
    """It applies what it has missed for seconds. Dqlite makes it a voter then, and it refuses its vote until it has
    heard of that: with the leader gone by then, two of three would have no majority for good."""
    cluster.form(3)
    leader = cluster.leader(0)
    assert leader is not None
    back, third = (leader + 1) % 3, (leader + 2) % 3
    cluster.freeze(back)
    cluster.wait(lambda: cluster.role_counts(leader) == (2, 0, 1), "it is demoted")
    asyncio.run(write_rows(cluster, leader, 5000))

    cluster.signal(back, signal.SIGCONT)
    cluster.wait(lambda: cluster.role_counts(leader) == (3, 0, 0), "it is a voter again", 60)
    time.sleep(0.5)  # A few heartbeats, which is what it may take to hear of that.
    cluster.kill(leader)

    cluster.wait(lambda: cluster.leader(third) in (back, third), "one of the two that are left leads")

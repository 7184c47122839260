"""Roles are Dqlite's own business; but its queue of changes, once stuck, is not left to itself."""

from __future__ import annotations

import asyncio
import contextlib
import itertools

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

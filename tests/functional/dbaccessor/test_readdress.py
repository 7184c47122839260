"""A changed address is another listener, not another membership: of one, of all at once, with a quorum or without."""

from __future__ import annotations

import asyncio

import pytest

from loopback import Cluster
from rows import database, read, write


def ids(cluster: Cluster, n: int) -> set[int]:
    return {member["dqlite-id"] for member in cluster.status(n)["cluster"]["members"]}


def listens(cluster: Cluster, seen_by: int, *numbers: int) -> bool:
    """Whether this controller tells the others' present addresses, and all of them answer it."""
    members = {int(m["controller-id"]): m for m in cluster.status(seen_by)["cluster"]["members"]}
    return all(members[n]["address"].startswith(cluster.address(n) + ":") and members[n]["answers"] for n in numbers)


@pytest.mark.parametrize("moved", [(0,), (1, 2), (0, 1, 2)])
def test_writes_go_on_while_controllers_move(cluster: Cluster, moved: tuple[int, ...]):
    cluster.form(3)
    write(cluster, 0, 1, 2, value=0)
    before = ids(cluster, 0)

    async def play() -> list[int]:
        where = database(cluster, 0, 1, 2)
        done: list[int] = []
        stop = asyncio.Event()

        async def keep_writing() -> None:
            while not stop.is_set():
                value = len(done) + 1

                async def insert(tx, value=value):
                    await tx.execute("INSERT INTO t (n) VALUES (?)", (value,))

                await where.run(insert, deadline_seconds=15)
                done.append(value)

        writer = asyncio.create_task(keep_writing())
        cluster.move(*moved)
        await asyncio.to_thread(cluster.configure, range(3))
        await asyncio.to_thread(cluster.wait, lambda: all(listens(cluster, n, 0, 1, 2) for n in range(3)), "all moved")
        seen = len(done)
        await asyncio.to_thread(cluster.wait, lambda: len(done) > seen + 5, "rows written afterwards")
        stop.set()
        await writer
        where.close()
        return done

    done = asyncio.run(play())
    assert read(cluster, 0, 1, 2) == [0, *done]
    assert ids(cluster, 0) == before
    assert cluster.epoch(0) == 1


def test_two_that_swap_their_addresses_go_on(cluster: Cluster):
    cluster.form(3)
    write(cluster, 0, 1, 2, value=0)

    cluster.swap(1, 2)
    cluster.configure(range(3))

    cluster.wait(lambda: all(listens(cluster, n, 0, 1, 2) for n in range(3)), "both answer at their new addresses")
    write(cluster, 0, 1, 2, value=1)
    assert cluster.role_counts(0) == (3, 0, 0)


@pytest.mark.parametrize("count", [2, 3])
def test_a_renumbered_subnet_found_after_a_power_cut(cluster: Cluster, count: int):
    cluster.form(count)
    everybody = range(count)
    write(cluster, *everybody, value=0)
    before = ids(cluster, 0)

    cluster.kill(*everybody)
    cluster.move(*everybody)
    cluster.start(*everybody)  # Their configuration is still the old one.
    cluster.configure(everybody)

    cluster.wait(lambda: cluster.serving(*everybody), "all serve", 30)
    cluster.wait(lambda: all(listens(cluster, n, *everybody) for n in everybody), "all are seen at their new addresses")
    write(cluster, *everybody, value=1)
    assert read(cluster, *everybody) == [0, 1]
    assert ids(cluster, 0) == before


def test_moving_without_a_quorum_gives_the_quorum_back_and_reconfigures_nothing(cluster: Cluster):
    cluster.form(3)
    write(cluster, 0, 1, 2, value=0)
    cluster.kill(1, 2)
    cluster.wait(lambda: cluster.state(0) == "waiting", "no quorum")

    cluster.move(0, 1, 2)
    cluster.configure(range(3))
    cluster.start(1, 2)

    cluster.wait(lambda: cluster.serving(0, 1, 2), "all serve", 30)
    write(cluster, 0, 1, 2, value=1)
    assert read(cluster, 0, 1, 2) == [0, 1]
    assert cluster.epoch(0) == 1

"""A leader that was stopped while another was elected and wrote: what it answers when it goes on."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path

import pytest

from dbaccessor import errors
from dbaccessor.database import Database, Transaction
from loopback import Cluster

_ROUNDS = 2


def database(cluster: Cluster) -> Database:
    return Database(cluster.connector(*range(3)), "t")


async def write(where: Database, value: int) -> None:
    async def insert(tx: Transaction) -> None:
        await tx.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER NOT NULL PRIMARY KEY, value INTEGER NOT NULL)")
        await tx.execute(
            "INSERT INTO t (id, value) VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET value = ?", (value,) * 2
        )

    await where.run(insert, deadline_seconds=20)


async def read(where: Database) -> int:
    ((value,),) = (await where.read("SELECT value FROM t", deadline_seconds=20)).rows
    return int(value)


async def swap_in_vain(where: Database) -> int:
    """A write that changes no row, and what it saw instead."""

    async def swap(tx: Transaction) -> int:
        changed = await tx.execute("UPDATE t SET value = -1 WHERE value = -2")
        assert changed.rows_affected == 0
        ((value,),) = (await tx.query("SELECT value FROM t")).rows
        return int(value)

    return await where.run(swap, deadline_seconds=20)


@pytest.mark.parametrize("question", [read, swap_in_vain])
def test_a_leader_that_was_deposed_while_it_slept_answers_nothing_old(tmp_path: Path, question):
    async def one_round(cluster: Cluster, value: int) -> None:
        before, after, reader = database(cluster), database(cluster), database(cluster)
        with contextlib.closing(before), contextlib.closing(after), contextlib.closing(reader):
            await stopped(cluster, value, before, after, reader)
        await asyncio.to_thread(cluster.settled, 3)

    async def stopped(cluster: Cluster, value: int, before: Database, after: Database, reader: Database) -> None:
        await write(before, value)
        assert await question(reader) == value  # From here on it has a connection to whoever leads.
        leader = cluster.leader(0)
        assert leader is not None
        others = [n for n in range(3) if n != leader]
        cluster.signal(leader, signal.SIGSTOP)
        try:
            await asyncio.to_thread(cluster.wait, lambda: cluster.leader(others[0]) in others, "another leads")
            await write(after, value + 1)
            asked = asyncio.create_task(question(reader))
            await asyncio.sleep(0.2)  # So that the question waits in the stopped leader's socket.
        finally:
            cluster.signal(leader, signal.SIGCONT)
        try:
            assert await asked == value + 1
        except errors.Indefinite:
            pass  # Honest as well: it may be asked again.

    with Cluster(tmp_path, block=61) as cluster:
        cluster.form(3)
        for number in range(_ROUNDS):
            asyncio.run(one_round(cluster, 10 * number))

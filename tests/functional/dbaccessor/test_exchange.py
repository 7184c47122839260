"""Committers of three controllers make common batches on real nodes; each outcome is true when their leader goes."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from dbaccessor import errors, schema
from dbaccessor.accessor import DbAccessor
from dbaccessor.groupcommit import Batch, GroupCommit
from loopback import Cluster

PATCHES = (schema.parse("0001-t.sql", "CREATE TABLE t (k TEXT NOT NULL PRIMARY KEY, v INTEGER NOT NULL, n INTEGER);"),)
ROWS = Batch(
    write="INSERT INTO t (k, v, n) SELECT value->>0, value->>1, 1 FROM json_each(?) WHERE true"
    " ON CONFLICT (k) DO UPDATE SET v = excluded.v, n = n + 1",
    ask="SELECT j.key, t.v, t.n FROM json_each(?) AS j JOIN t ON t.k = j.value->>0",
    rising=True,
)
_SECONDS = 60


class Callers:
    """Each writes keys of its own, one after another, and remembers what it was told of each."""

    def __init__(self) -> None:
        self.done: set[str] = set()
        self.doubtful: set[str] = set()
        self.undone: set[str] = set()
        self.stop = asyncio.Event()

    async def call(self, committer: GroupCommit, caller: str) -> None:
        number = 0
        while not self.stop.is_set():
            number += 1
            key = f"{caller}.{number}"
            try:
                assert await committer.submit(key, number, deadline_seconds=5) == (number, 1)
                self.done.add(key)
            except errors.Indefinite:
                self.doubtful.add(key)
            except errors.NotReady:
                self.undone.add(key)
                await asyncio.sleep(0.01)

    async def more(self, count: int) -> None:
        """Wait until so many more are done."""
        before = len(self.done)
        async with asyncio.timeout(_SECONDS):
            while len(self.done) < before + count:
                await asyncio.sleep(0.01)


def leading(accessors: dict[int, DbAccessor]) -> int:
    return int(next(a.status()["cluster"]["leader"] for a in accessors.values()))


async def until_three_vote(accessor: DbAccessor) -> None:
    async with asyncio.timeout(_SECONDS):
        while [m["role"] for m in accessor.status()["cluster"]["members"]] != ["voter"] * 3:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("tls", [False, True])
def test_a_leader_that_stops_in_order_leaves_every_outcome_true(tmp_path: Path, tls: bool):
    async def play(cluster: Cluster) -> None:
        accessors: dict[int, DbAccessor] = {}
        async with contextlib.AsyncExitStack() as stack:
            owned = {n: await stack.enter_async_context(contextlib.AsyncExitStack()) for n in range(3)}
            cluster.configure([0])
            accessors[0] = await owned[0].enter_async_context(DbAccessor(cluster.state_dir(0)))
            cluster.configure(range(3))
            for n in (1, 2):
                accessors[n] = await owned[n].enter_async_context(DbAccessor(cluster.state_dir(n)))
            await until_three_vote(accessors[0])
            await accessors[0].create_database("data", PATCHES)

            callers = Callers()
            tasks = []
            for n, accessor in accessors.items():
                committer = accessor.database("data").group_commit(ROWS)
                tasks += [asyncio.create_task(callers.call(committer, f"{n}.{caller}")) for caller in range(10)]
            await callers.more(300)
            leader = leading(accessors)
            exchange = accessors[leader]._running._exchange
            served = [exchange]
            inner = exchange.serve

            async def count(body: bytes) -> bytes:
                served.append(exchange)
                return await inner(body)

            exchange.serve = count  # type: ignore[method-assign]
            await callers.more(300)
            assert len(served) > 5, "the others did not hand their requests over"

            # Its own callers go with it.
            for task in tasks[leader * 10 : leader * 10 + 10]:
                task.cancel()
            await owned[leader].aclose()
            del accessors[leader]
            await callers.more(300)
            callers.stop.set()
            said = await asyncio.gather(*tasks, return_exceptions=True)
            assert not [s for s in said if isinstance(s, Exception)]
            rows = (await next(iter(accessors.values())).database("data").read("SELECT k, n FROM t")).rows
        there = {str(k) for k, _ in rows}
        assert {n for _, n in rows} == {1}
        assert callers.done <= there
        assert not callers.undone & there
        # Those of the cancelled callers were asked by nobody to the end.
        mine = {k for k in there if not k.startswith(f"{leader}.")}
        assert mine <= callers.done | callers.doubtful

    with Cluster(tmp_path, block=72 + tls, tls=tls) as cluster:
        asyncio.run(play(cluster))

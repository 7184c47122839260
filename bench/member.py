"""One controller of a bench: embeds the node and makes the load that it is told to, as a service would.

`python -m bench.member STATE_DIR`: lines of JSON on stdin, a line of JSON on stdout for each; the end of stdin ends it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from bench.leases import Leases
from bench.numbers import summary
from dbaccessor import errors, process, schema
from dbaccessor.accessor import DbAccessor
from dbaccessor.database import Transaction
from dbaccessor.groupcommit import Batch

_PATCHES = (
    schema.parse("0001-entry.sql", "CREATE TABLE entry (k TEXT NOT NULL PRIMARY KEY, v TEXT NOT NULL, n INTEGER);"),
)
_UPSERT = "INSERT INTO entry (k, v, n) VALUES (?, ?, 1) ON CONFLICT (k) DO UPDATE SET v = excluded.v, n = n + 1"
_BATCH = Batch(
    write="INSERT INTO entry (k, v, n) SELECT value->>0, value->>1, 1 FROM json_each(?) WHERE true"
    " ON CONFLICT (k) DO UPDATE SET v = excluded.v, n = n + 1",
    ask="SELECT j.key, e.n FROM json_each(?) AS j JOIN entry AS e ON e.k = j.value->>0",
    rising=True,
)
_VALUE = "x" * 64
_LONGEST_GAP_SECONDS = 60.0


class Member:
    """The commands, by name. Each returns numbers."""

    def __init__(self, accessor: DbAccessor, name: str) -> None:
        self._database = accessor.database("bench")
        self._accessor = accessor
        self._committer = self._database.group_commit(_BATCH)
        self._name = name
        self.leases = Leases(accessor, name)

    async def prepare(self, **_: Any) -> dict[str, Any]:
        await self._accessor.create_database("bench", _PATCHES)
        return {}

    async def status(self, **_: Any) -> dict[str, Any]:
        cluster = self._accessor.status()["cluster"]
        roles = {m["controller-id"]: m["role"] for m in cluster["members"]}
        return {"leader": cluster["leader"], "roles": roles}

    async def single(self, seconds: float, **_: Any) -> dict[str, Any]:
        """One writer, one row at a time."""

        async def write(tx: Transaction) -> None:
            await tx.execute(_UPSERT, (self._name, _VALUE))

        return await _repeat(lambda: self._database.run(write), 1, seconds)

    async def group(self, clients: int, seconds: float, **_: Any) -> dict[str, Any]:
        """So many callers at once, each with a key of its own."""
        return await _repeat_by(
            [lambda c=c: self._committer.submit(f"{self._name}.{c}", _VALUE) for c in range(clients)],  # type: ignore[misc]
            seconds,
        )

    async def read(self, seconds: float, consistency: Any = "linearizable", **_: Any) -> dict[str, Any]:
        question = "SELECT v FROM entry WHERE k = ?"
        return await _repeat(lambda: self._database.read(question, (self._name,), consistency=consistency), 1, seconds)

    async def gap(self, seconds: float, **_: Any) -> dict[str, Any]:
        """Write on through whatever happens; return the longest time between two acknowledged rows.

        Raises NotReady where that has become a minute.
        """
        longest, last, end = 0.0, time.monotonic(), time.monotonic() + seconds

        async def write(tx: Transaction) -> None:
            await tx.execute(_UPSERT, (self._name, _VALUE))

        while last < end:
            try:
                await self._database.run(write, deadline_seconds=10)
            except errors.DbAccessorError as error:
                if time.monotonic() > last + _LONGEST_GAP_SECONDS:
                    raise errors.NotReady(f"no row in {_LONGEST_GAP_SECONDS:g} s: {error}") from error
                continue
            now = time.monotonic()
            longest, last = max(longest, now - last), now
        return {"gap_ms": round(longest * 1000, 1)}

    async def hold(self, **_: Any) -> dict[str, Any]:
        return await self.leases.hold()

    async def give_up(self, **_: Any) -> dict[str, Any]:
        return await self.leases.give_up()


async def _repeat(call: Callable[[], Awaitable[Any]], clients: int, seconds: float) -> dict[str, Any]:
    return await _repeat_by([call] * clients, seconds)


async def _repeat_by(calls: list[Callable[[], Awaitable[Any]]], seconds: float) -> dict[str, Any]:
    taken: list[float] = []
    began = time.perf_counter()
    end = began + seconds

    async def client(call: Callable[[], Awaitable[Any]]) -> None:
        while (start := time.perf_counter()) < end:
            await call()
            taken.append(time.perf_counter() - start)

    async with asyncio.TaskGroup() as group:
        for call in calls:
            group.create_task(client(call))
    return summary(taken, time.perf_counter() - began)


async def _main(state_dir: Path) -> None:
    async with DbAccessor(state_dir) as accessor:
        member = Member(accessor, state_dir.name)
        print(json.dumps({"ready": True}), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            command = json.loads(line)
            try:
                said = await getattr(member, command.pop("do"))(**command)
            except errors.DbAccessorError as error:
                said = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(said), flush=True)
        await member.leases.end()


if __name__ == "__main__":
    process.prepare()
    asyncio.run(_main(Path(sys.argv[1])))

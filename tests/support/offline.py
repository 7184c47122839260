"""Running hactl on the state directories of a loopback cluster, and looking at what is in its databases."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dbaccessor.database import Database
from loopback import LIB, Cluster

CRASHING = Path(__file__).parent / "crashing_hactl.py"


def hactl(*words: str | Path, crash: int | None = None, timeout_seconds: float = 60) -> subprocess.CompletedProcess:
    """Run hactl. `crash`: SIGKILL itself at that durable step (crashing_hactl.py)."""
    program = [str(CRASHING), str(crash)] if crash is not None else ["-m", "controller.cli"]
    return subprocess.run(
        [sys.executable, *program, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        check=False,
        env={**os.environ, "PYTHONPATH": str(LIB), "COLUMNS": "200"},
    )


def told(done: subprocess.CompletedProcess) -> dict[str, Any]:
    """The JSON that hactl printed."""
    assert done.stdout, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def database(cluster: Cluster, numbers: Iterable[int], name: str = "t") -> Database:
    numbers = list(numbers)
    return Database(cluster.connector(*numbers), name)


def insert(cluster: Cluster, numbers: Iterable[int], values: Iterable[int]) -> None:
    """Write one acknowledged row for each value, creating the table first."""

    async def inside() -> None:
        where = database(cluster, numbers)

        async def create(tx):
            await tx.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER NOT NULL PRIMARY KEY)")

        await where.run(create, deadline_seconds=20)
        for value in values:

            async def add(tx, value=value):
                await tx.execute("INSERT OR IGNORE INTO t (n) VALUES (?)", (value,))

            await where.run(add, deadline_seconds=20)
        where.close()

    asyncio.run(inside())


def rows(cluster: Cluster, numbers: Iterable[int]) -> list[int]:
    async def inside() -> list[int]:
        where = database(cluster, numbers)
        found = await where.read("SELECT n FROM t ORDER BY n", deadline_seconds=20)
        where.close()
        return [int(row[0]) for row in found.rows]

    return asyncio.run(inside())

"""A single writer on a thread of the test, for what is measured from one acknowledgement to the next."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator, Sequence

from demo import history

from dbaccessor import errors
from dbaccessor.database import Database, Transaction
from loopback import Cluster


class Writer:
    """Knows only some controllers, and writes through them as often as it can."""

    def __init__(self, cluster: Cluster, numbers: Sequence[int], *, pause_seconds: float = 0.0) -> None:
        self.attempts: list[history.Attempt] = []
        self._pause_seconds = pause_seconds
        self._connector = cluster.connector(*numbers)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Write until the block ends."""
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join(20)

    def acknowledged(self, after: float = 0.0) -> list[history.Attempt]:
        """Return what was acknowledged later than `after`, on CLOCK_MONOTONIC."""
        return [a for a in list(self.attempts) if a.outcome == "acknowledged" and a.done > after]

    async def _run(self) -> None:
        with contextlib.closing(Database(self._connector, "t")) as database:
            while not self._stop.is_set():
                await self._append(database, len(self.attempts) + 1)
                await asyncio.sleep(self._pause_seconds)

    async def _append(self, database: Database, number: int) -> None:
        async def insert(tx: Transaction) -> None:
            if number == 1 or not self.acknowledged():
                await tx.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER NOT NULL)")
            await tx.execute("INSERT INTO t (n) VALUES (?)", [number])

        outcome: history.Outcome = "acknowledged"
        reason = ""
        sent = time.monotonic()
        try:
            await database.run(insert, deadline_seconds=2)
        except errors.Indefinite as error:
            outcome, reason = "indefinite", str(error)
        except errors.DbAccessorError as error:
            outcome, reason = "refused", str(error)
        self.attempts.append(history.Attempt(number, outcome, sent, time.monotonic(), reason))

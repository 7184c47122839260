"""Somebody who reads the row of one lease again and again, beside everything that is done to its holders.

It tells when the row was last changed by whom, and what the longest time was that it had to wait for an answer. What a
bystander had to wait for at once is what the database and the machine took for themselves: a bound in seconds that has
it added says something about leases, however busy the machine is.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from dataclasses import dataclass
from typing import Any

from controller.leases import Key
from dbaccessor import errors
from dbaccessor.database import Database

LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class Change:
    """A state of the row, and when the first answer that had it came."""

    at: float
    holder: str
    renewals: int


class Bystander:
    """A context manager with a thread of its own. `connector` is that of a Database, and nobody else's."""

    def __init__(self, connector: Any, key: Key) -> None:
        self._connector = connector
        self._key = key
        self._changes: list[Change] = []
        self._answers: list[float] = []
        self._failure: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bystander")

    def __enter__(self) -> Bystander:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    @property
    def sees_it(self) -> bool:
        return bool(self._changes)

    def longest_wait(self, since: float, until: float) -> float:
        """Return the longest time between two answers that touches this span, without the pause between two looks."""
        answers = list(self._answers)
        before = max((at for at in answers if at <= since), default=since)
        times = [before, *(at for at in answers if since < at < until), until]
        return max(0.0, max(b - a for a, b in itertools.pairwise(times)) - LOOK_SECONDS)

    def last_change_by(self, holder: str, until: float) -> float:
        """Return when the last change that this holder made before `until` was first seen."""
        return max(change.at for change in list(self._changes) if change.holder == holder and change.at <= until)

    def _run(self) -> None:
        try:
            asyncio.run(self._look())
        except BaseException as error:
            self._failure = error

    async def _look(self) -> None:
        leases = Database(self._connector, "leases")
        sql = "SELECT holder, renewals FROM lease WHERE namespace = ? AND model = ? AND name = ?"
        where = (self._key.namespace, self._key.model, self._key.name)
        while not self._stop.is_set():
            try:
                rows = (await leases.read(sql, where, deadline_seconds=5)).rows
            except errors.DbAccessorError:
                continue
            self._answers.append(time.monotonic())
            if rows:
                holder, renewals = str(rows[0][0]), int(str(rows[0][1]))
                if not self._changes or self._changes[-1].renewals != renewals:
                    self._changes.append(Change(self._answers[-1], holder, renewals))
            await asyncio.sleep(LOOK_SECONDS)
        leases.close()

"""The table of leases in memory: what controller.leases.store promises, without a database.

`Table` is the one truth that several stores share; a `MemoryStore` is one controller's way to it, with troubles that
the test orders. It passes the same tests as the real one (leasecontract.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from controller.leases.lease import Key
from controller.leases.store import Changes, Row, request
from dbaccessor import errors

# What becomes of the next move: carry it out (None), or raise this before or after having carried it out.
Trouble = tuple[str, errors.DbAccessorError] | None


class Table:
    """Rows by key, each with the number of the change that made it, and all the states that there ever were."""

    def __init__(self) -> None:
        self.rows: dict[Key, tuple[Row, int]] = {}
        self.changed = 0
        self.history: list[Row] = []

    def move(self, seen: Row | None, new: Row) -> Row | None:
        _, _, _, epoch, count, renewals, *_ = request(seen, new)
        row = self.rows[new.key][0] if new.key in self.rows else None
        now = (0, 0, 0) if row is None else (row.token.epoch, row.token.count, row.renewals)
        if now == (epoch, count, renewals):
            self.changed += 1
            self.rows[new.key] = (new, self.changed)
            self.history.append(new)
            return new
        return row

    def changes(self, mark: int) -> Changes:
        found = sorted((changed, row.key, row) for row, changed in self.rows.values() if changed >= mark)
        if not found and mark:
            return self.changes(0)
        return Changes(tuple(row for _, _, row in found), found[-1][0] if found else 0, complete=not mark)


class MemoryStore:
    """One controller's way to the table. `seconds` is how long every answer takes; while `cut` none comes, and while
    `deaf` none is heard, though what was asked for is done. What is asked before `silent_until`, on the loop's clock,
    is never answered."""

    def __init__(self, table: Table, seconds: float = 0.0) -> None:
        self.table = table
        self.seconds = seconds
        self.cut = False
        self.deaf = False
        self.silent_until = 0.0
        self.troubles: Iterator[Trouble] = iter(())
        self.moves = 0

    async def move(self, seen: Row | None, new: Row, *, deadline_seconds: float) -> Row | None:
        request(seen, new)
        self.moves += 1
        await self._travel(deadline_seconds)
        trouble = next(self.troubles, None)
        if trouble is not None and trouble[0] == "before":
            raise trouble[1]
        row = self.table.move(seen, new)
        if self.deaf:
            await asyncio.sleep(deadline_seconds)
            raise errors.Indefinite("no answer came", code=0)
        if trouble is not None:
            raise trouble[1]
        return row

    async def changes(self, mark: int, *, deadline_seconds: float) -> Changes:
        await self._travel(deadline_seconds)
        if self.deaf:
            await asyncio.sleep(deadline_seconds)
            raise errors.NotReady("no answer came")
        return self.table.changes(mark)

    async def _travel(self, deadline_seconds: float) -> None:
        if self.cut or asyncio.get_running_loop().time() < self.silent_until:
            await asyncio.sleep(deadline_seconds)
            raise errors.NotReady("no leader could be reached")
        await asyncio.sleep(self.seconds)

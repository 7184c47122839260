"""Leases in a member of a bench: who holds, who waits for it, and when each came to hold, on the machine's clock."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from controller.leases import Denied, Key, Manager, Responsibility, store
from controller.leases import timing as timings
from controller.leases.store import LeaseStore
from dbaccessor.accessor import DbAccessor
from dbaccessor.identity import Epoch

_KEY = Key("singular-controller", "bench", "bench")
# Of the timing table, which all members share. CLOCK_MONOTONIC is one clock for all processes of a machine.
_TIMING = timings.for_latency(10)


class Leases:
    """One member's lease manager, begun by the first command that needs it."""

    def __init__(self, accessor: DbAccessor, name: str) -> None:
        self._accessor = accessor
        self._name = name
        self._manager: Manager | None = None
        self._running: asyncio.Task[None] | None = None
        self._held: Responsibility | None = None

    async def hold(self) -> dict[str, Any]:
        """Wait until the lease can be had, and have it; tell when that was."""
        manager = await self._begun()
        while self._held is None:
            await manager.wait_until_free(_KEY)
            try:
                self._held = await manager.claim(_KEY, _TIMING.duration_seconds)
            except Denied:
                continue
        return {"at": time.monotonic(), "seconds": _TIMING.duration_seconds}

    async def give_up(self) -> dict[str, Any]:
        """Give it up, and tell when that began."""
        began, self._held = time.monotonic(), None
        await (await self._begun()).revoke(_KEY)
        return {"at": began}

    async def end(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def _begun(self) -> Manager:
        if self._manager is None:
            await self._accessor.create_database(store.DATABASE, store.patches())
            database = self._accessor.database(store.DATABASE)
            self._manager = Manager(LeaseStore(database), self._name, lambda: Epoch(0, ""), timing=_TIMING)
            self._running = asyncio.create_task(self._manager.run())
        return self._manager

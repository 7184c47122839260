"""The pruner, once in a controller set: removes rows that nothing will ever ask for again.

| what | where | when nothing asks for it |
|---|---|---|
| the lease on a model | `leases` | the model has no row, and nobody holds the lease |
| the fence of a model's undertaker | `controller` | the model has no row |

A model's uuid is random and never comes back, so a token that is forgotten with its row is never needed to be risen
above. A lease whose holder died with its model is first taken over by the rules of leases, and given up.

Everything is deleted in fenced transactions of a few rows each: renewals of leases wait for none of them for long.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from controller.leases import Denied, Key, Manager, Responsibility
from controller.leases import store as leasestore
from controller.leases.secretary import SINGULAR_CONTROLLER
from controller.models.service import Models
from dbaccessor import errors
from dbaccessor.database import Transaction
from dbaccessor.namespaces import CONTROLLER

log = logging.getLogger(__name__)

_EVERY_SECONDS = 60.0
_NEXT_BATCH_SECONDS = 1.0
BATCH: Final = 100
# Of leases whose holder died: each is a claim and a release.
_TAKEN_OVER = 8


class Pruner:
    """Prunes at once, and then every minute. Raises Lost and Fenced when it is another controller's turn."""

    def __init__(self, responsibility: Responsibility, models: Models, leases: Manager) -> None:
        self._responsibility = responsibility
        self._models = models
        self._leases = leases
        self._table = responsibility.fenced(models.databases.database(leasestore.DATABASE))
        self._controller = responsibility.fenced(models.databases.database(CONTROLLER))
        self._pruned = {"leases": 0, "fences": 0}
        self._problem = ""
        self._postponed = False

    async def run(self) -> None:
        while True:
            pause = _EVERY_SECONDS
            try:
                if await self.prune() >= BATCH:
                    pause = _NEXT_BATCH_SECONDS
                elif self._postponed:
                    # By then a lease that nobody renews was seen unchanged for its duration, and others have changed.
                    pause = 2 * self._leases.timing.duration_seconds
                self._problem = ""
            except errors.DbAccessorError as error:
                self._problem = str(error)
                log.info("not pruned: %s", error)
            await asyncio.sleep(pause)

    async def prune(self) -> int:
        """Delete one batch of each kind; return the size of the larger one. Raises DbAccessorError, Lost, Fenced."""
        leases, fences = await self._prune_leases(), await self._prune_fences()
        if leases or fences:
            log.info("pruned %d leases and %d fences of models that are gone", leases, fences)
        self._pruned["leases"] += leases
        self._pruned["fences"] += fences
        return max(leases, fences)

    async def _prune_leases(self) -> int:
        # First the leases, then the models: a model that is being made has its row before it has a lease.
        rows = await self._table.read(
            "SELECT model, holder FROM lease WHERE namespace = ? AND model = name", (SINGULAR_CONTROLLER,)
        )
        there = await self._in_use()
        gone = {str(model): str(holder) for model, holder in rows.rows if str(model) not in there}
        await self._free([model for model, holder in gone.items() if holder][:_TAKEN_OVER])
        if not gone:
            self._postponed = False
            return 0

        async def delete(tx: Transaction) -> int:
            # Never the row that was changed last: observers go on from its number.
            deleted = 0
            for model in list(gone)[:BATCH]:
                result = await tx.execute(
                    "DELETE FROM lease WHERE namespace = ? AND model = ? AND name = ? AND holder = ''"
                    " AND changed < (SELECT max(changed) FROM lease)",
                    (SINGULAR_CONTROLLER, model, model),
                )
                deleted += result.rows_affected
            return deleted

        deleted = await self._table.run(delete)
        self._postponed = deleted < len(gone)
        return deleted

    async def _free(self, models: list[str]) -> None:
        """Take over and give up leases that nobody renews and nobody waits for."""
        for model in models:
            self._responsibility.check()
            key = Key(SINGULAR_CONTROLLER, model, model)
            try:
                await self._leases.claim(key, self._leases.timing.duration_seconds)
                await self._leases.revoke(key)
            except Denied as error:  # Its holder may have yet to hear that the model is gone.
                log.debug("%s", error)

    async def _prune_fences(self) -> int:
        kept = await self._in_use()

        async def delete(tx: Transaction) -> int:
            names = [str(row[0]) for row in (await tx.query("SELECT name FROM fence")).rows]
            there = {str(row[0]) for row in (await tx.query("SELECT uuid FROM model")).rows} | kept
            gone = [name for name in names if (uuid := _model_of(name)) and uuid not in there][:BATCH]
            for name in gone:
                await tx.execute("DELETE FROM fence WHERE name = ?", (name,))
            return len(gone)

        return await self._controller.run(delete)

    async def _in_use(self) -> set[str]:
        """Return the names of leases that are somebody's: models, and the controller set itself."""
        return {model.uuid for model in await self._models.all()} | {self._responsibility.key.name}

    def report(self) -> dict[str, Any]:
        """Return how much was pruned since this controller is responsible for it."""
        return {"pruned": dict(self._pruned), **({"problem": self._problem} if self._problem else {})}


def _model_of(fence: str) -> str:
    """Return the model of the lease that a fence is named after; "" for another namespace's."""
    namespace, _, rest = fence.partition("/")
    model, _, name = rest.partition("/")
    return model if namespace == SINGULAR_CONTROLLER and model == name else ""

"""The undertaker of one model, single-instance: when the model is destroyed it ends what is in it, then the model.

Each step may be done again, by this one or by its successor on another controller:

| the row says | what is done | and then |
|---|---|---|
| dying | nothing begins in the model any more; what is in it is told to end; waiting until it has | the row says dead |
| dead | the model's database is deleted | the row is deleted |

A dead model's database is never made again (store.require_database), so deleting it needs no fence.
Making and deleting are guarded by the incarnation of its namespace instead
(docs/decisions/14-a-namespace-has-an-incarnation.md).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from controller.domainschema import until_done
from controller.leases import Responsibility
from controller.models import own, store
from controller.models.model import DYING, Model
from controller.models.remains import Remains
from controller.models.service import Models
from controller.models.watch import ModelWatch
from dbaccessor.database import Transaction
from dbaccessor.namespaces import CONTROLLER

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5


class Undertaker:
    """Waits for its model to be destroyed; returns when nothing of it is left. Raises Lost and Fenced."""

    def __init__(
        self, watch: ModelWatch, models: Models, responsibility: Responsibility, remains: Sequence[Remains]
    ) -> None:
        self._watch = watch
        self._models = models
        self._responsibility = responsibility
        self._remains = remains
        self._left: dict[str, int] = {}

    async def run(self) -> None:
        model = await self._watch.until_not_alive()
        controller = self._responsibility.fenced(self._models.databases.database(CONTROLLER))
        if model.life == DYING:
            log.info("model %s (%s) is being destroyed", model.name, model.uuid)
            await self._wind_up(model)
            await until_done(lambda: controller.run(lambda tx: store.bury(tx, model.uuid)))
        await until_done(lambda: self._models.databases.delete(model.database))
        await until_done(lambda: controller.run(lambda tx: store.forget(tx, model.uuid)))
        log.info("model %s (%s) is gone", model.name, model.uuid)
        self._models.changed()

    async def _wind_up(self, model: Model) -> None:
        """Return when nothing is in the model, and nothing can come into it."""
        # It may have been destroyed before anybody made its database; then there is nothing to look into.
        await until_done(lambda: self._models.make_database(model))
        database = self._responsibility.fenced(self._models.database(model))

        async def look(tx: Transaction) -> dict[str, int]:
            await own.close(tx)
            for kind in self._remains:
                await kind.wind_up(tx)
            counted = {kind.what: await kind.left(tx) for kind in self._remains}
            return {what: count for what, count in counted.items() if count}

        while True:
            left: dict[str, int] = await until_done(lambda: database.run(look))
            if left != self._left:
                log.info("model %s still has %s", model.name, told(left) or "nothing")
            self._left = left
            if not left:
                return
            await asyncio.sleep(_LOOK_SECONDS)

    def report(self) -> dict[str, Any]:
        """Return what the model still has, while it is destroyed."""
        return {"left": self._left}


def told(left: dict[str, int]) -> str:
    """Return what is left as words. Pure."""
    return ", ".join(f"{count} {what}" for what, count in sorted(left.items()))

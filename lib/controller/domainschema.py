"""The domain-schema manifold: brings the controller database up to date, and offers the databases from then on.

Whatever uses a database needs this one, so nothing of ours runs before the node serves, before the tables it uses are
there, or on a database that only a newer version of this program understands.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from controller import schema
from controller.engine import Bounce, Getter, Manifold, Offer, gate
from controller.models import store
from controller.node import Databases
from dbaccessor import errors
from dbaccessor import schema as patching
from dbaccessor.database import Transaction
from dbaccessor.namespaces import CONTROLLER
from dbaccessor.schema import Patch

log = logging.getLogger(__name__)

NAME = "domain-schema"

_T = TypeVar("_T")

_RETRY_SECONDS = 1.0
# Between two looks whether all controllers run the version that the next patch needs.
_AGAIN_SECONDS = 30.0


async def bring_up_to_date(databases: Databases) -> tuple[Patch, ...]:
    """Apply the patches of the controller database that are missing; return those that wait for older controllers.

    Idempotent. Raises Refused when only a newer version of this program understands the database.
    """
    patches = schema.controller_patches()

    async def apply(tx: Transaction) -> tuple[Patch, ...]:
        # The versions of all who have a row, this controller's own too: it was written before the node served.
        (lowest,) = (await tx.query("SELECT coalesce(min(application), 0) FROM controller_node")).rows[0]
        waiting = await patching.apply(
            tx, patches, own_version=schema.VERSION, lowest_version=int(str(lowest)), ledger=schema.LEDGER
        )
        await store.make_controller_model(tx)
        return waiting

    return await databases.database(CONTROLLER).run(apply)


class Patched(Offer):
    """Offers a value whose schema is up to date, and applies what had to wait once it need not any more.

    `again` brings it up to date and returns what still waits; idempotent.
    """

    def __init__(
        self, value: object, waiting: tuple[Patch, ...], again: Callable[[], Awaitable[tuple[Patch, ...]]]
    ) -> None:
        super().__init__(value)
        self._waiting = waiting
        self._again = again

    async def run(self) -> None:
        while self._waiting:
            for patch in self._waiting:
                log.info("%s waits until all controllers are of version %d", patch.name, patch.needs)
            await asyncio.sleep(_AGAIN_SECONDS)
            self._waiting = await until_done(self._again)
        await super().run()

    def report(self) -> dict[str, Any]:
        return {"version": schema.VERSION, "waiting": [patch.name for patch in self._waiting]}


class Schema(Patched):
    """That of the controller database. Ends when the databases are withdrawn, and with it whoever needs them."""

    async def run(self) -> None:
        assert isinstance(self.value, Databases)
        keeping = asyncio.create_task(super().run())
        withdrawn = asyncio.create_task(self.value.until_withdrawn())
        try:
            await asyncio.wait((keeping, withdrawn), return_when=asyncio.FIRST_COMPLETED)
            if keeping.done():
                keeping.result()
        finally:
            for task in (keeping, withdrawn):
                task.cancel()
            await asyncio.gather(keeping, withdrawn, return_exceptions=True)
        raise Bounce("this controller is leaving")


def manifold(node: str) -> Manifold:
    """Return the manifold. `node` is the name of the one whose output is the Databases."""

    def make(get: Getter) -> Callable[[], Awaitable[Offer]]:
        databases = get(node, Databases)

        async def prepare() -> Offer:
            async def apply() -> tuple[Patch, ...]:
                return await bring_up_to_date(databases)

            await databases.until_serving()
            return Schema(databases, await until_done(apply), apply)

        return prepare

    return gate(make, (node,))


async def until_done(attempt: Callable[[], Awaitable[_T]]) -> _T:
    """Return what `attempt`, which must be idempotent, returns; wait as long as the database is not there for it."""
    told = ""
    while True:
        try:
            return await attempt()
        except (errors.NotReady, errors.NotLeader, errors.Indefinite) as error:
            log.log(logging.DEBUG if told == str(error) else logging.INFO, "trying again: %s", error)
            told = str(error)
        await asyncio.sleep(_RETRY_SECONDS)

"""What can be done with models, from any controller. Every call is idempotent: a doubt is settled by calling again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from controller import schema
from controller.models import store
from controller.models.model import DEAD, Model, check_name, check_uuid, new_uuid
from controller.node import Databases
from dbaccessor import errors, retry
from dbaccessor.database import Database, Transaction
from dbaccessor.namespaces import CONTROLLER
from dbaccessor.schema import Patch

_T = TypeVar("_T")


class Models:
    """The models of one cluster."""

    def __init__(self, databases: Databases) -> None:
        self.databases = databases
        self._watchers: set[Callable[[], None]] = set()

    def watch(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed` after each change that is made through this object. Returns what ends that."""
        self._watchers.add(changed)
        return lambda: self._watchers.discard(changed)

    def changed(self) -> None:
        """Tell those who watch that there may be a change."""
        for watcher in tuple(self._watchers):
            watcher()

    async def all(self, *, deadline_seconds: float = 10) -> tuple[Model, ...]:
        """Return every model, by name."""
        return store.models(await self._database.read(store.ALL, deadline_seconds=deadline_seconds))

    async def add(self, name: str, uuid: str = "", owner: str = "", *, deadline_seconds: float = 15) -> Model:
        """Make a model with an empty database of its own. Raises Refused when the name is taken, or is none.

        With the uuid of an earlier call that is in doubt, it is the same model that results. When the row is made and
        the database not (NotReady), the model-worker-managers make it: the row decides.
        """
        check_name(name)
        uuid = check_uuid(uuid) if uuid else new_uuid()
        deadline = asyncio.get_running_loop().time() + deadline_seconds
        model = await self._run(lambda tx: store.add(tx, uuid, name, owner), deadline)
        await self.make_database(model, deadline_seconds=retry.left(deadline))
        return model

    async def destroy(self, name_or_uuid: str, *, deadline_seconds: float = 10) -> Model:
        """Begin to destroy a model, and return it as it is then; its undertaker does the rest. Raises Refused."""
        deadline = asyncio.get_running_loop().time() + deadline_seconds
        doubt: list[Model] = []

        async def begin(tx: Transaction) -> Model:
            if doubt and await store.find(tx, doubt[0].uuid) is None:
                return Model(doubt[0].uuid, doubt[0].name, doubt[0].owner, DEAD, doubt[0].created)
            model = await store.begin_to_destroy(tx, doubt[0].uuid if doubt else name_or_uuid)
            doubt[:] = [model]  # Were the answer to come to nothing, the next attempt means this one.
            return model

        return await self._run(begin, deadline)

    async def make_database(self, model: Model, *, deadline_seconds: float = 30) -> tuple[Patch, ...]:
        """Make the model's database exist, with its tables. Idempotent. Raises Refused when the model is gone.

        Returns the patches that wait until all controllers are of a newer version.
        """

        async def provided(tx: Transaction) -> None:
            await store.require_database(tx, model.uuid)

        return await self.databases.create(
            model.database, schema.model_patches(), provided=provided, deadline_seconds=deadline_seconds
        )

    def database(self, model: Model) -> Database:
        """Return the handle to the model's own database; Refused when used after it is gone."""
        return self.databases.database(model.database)

    def report(self) -> dict[str, Any]:
        return {}

    @property
    def _database(self) -> Database:
        return self.databases.database(CONTROLLER)

    async def _run(self, fn: Callable[[Transaction], Awaitable[_T]], deadline: float) -> _T:
        """As Database.run, and Indefinite is tried again: each `fn` here may be done twice."""
        while True:
            try:
                result = await self._database.run(fn, deadline_seconds=retry.left(deadline))
            except errors.Indefinite:
                if retry.left(deadline) <= 0:
                    raise
                continue
            self.changed()
            return result

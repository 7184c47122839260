"""What can be done with the machines of a model, from any controller. Every call may be repeated after a doubt."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from controller import changes
from controller.api import agentsecrets, passwords
from controller.models import own, store
from controller.models.model import Model, check_uuid
from controller.models.remains import Remains
from controller.models.service import Models
from controller.workers import enrolment, machinerows, machines
from controller.workers.enrolment import Enrolment
from controller.workers.machines import Machine, State
from dbaccessor import errors, retry
from dbaccessor.database import Transaction
from dbaccessor.namespaces import CONTROLLER

SUBJECT = "machine"
# In one request: a slip of the finger is not to become a thousand machines.
MOST = 100

_T = TypeVar("_T")


class Machines:
    """The machines of all models."""

    def __init__(self, models: Models, enrolment: Enrolment) -> None:
        self._models = models
        self._enrolment = enrolment

    async def all(self, model: str, *, deadline_seconds: float = 10) -> tuple[Machine, ...]:
        """Return the model's machines by number, stopped ones too. `model` is a name or a uuid. Raises Refused."""
        return await self._run(model, machinerows.listed, deadline_seconds, read_only=True)

    async def add(
        self, model: str, uuids: Sequence[str], *, manual: bool = False, deadline_seconds: float = 15
    ) -> tuple[Machine, ...]:
        """Return the machines with these uuids, added unless they are there. Raises Refused."""
        if not 0 < len(set(uuids)) == len(uuids) <= MOST:
            raise errors.Refused(f"between one and {MOST} machines can be added at once, not {len(uuids)}")
        for uuid in uuids:
            check_uuid(uuid)

        async def add(tx: Transaction) -> tuple[Machine, ...]:
            await own.require_alive(tx)
            added = await machinerows.add(tx, uuids, manual=manual)
            await changes.bump(tx, SUBJECT)
            return added

        return await self._run(model, add, deadline_seconds)

    async def remove(self, model: str, numbers: Sequence[int], *, deadline_seconds: float = 15) -> tuple[Machine, ...]:
        """Return the machines with these numbers, not wanted from now on. Raises Refused, changing nothing."""

        async def remove(tx: Transaction) -> tuple[Machine, ...]:
            removed = await machinerows.remove(tx, numbers)
            for machine in removed:
                await enrolment.shut_out(tx, machine)
            await changes.bump(tx, SUBJECT)
            return removed

        return await self._run(model, remove, deadline_seconds)

    async def retry(self, model: str, numbers: Sequence[int], *, deadline_seconds: float = 15) -> tuple[Machine, ...]:
        """Return the machines with these numbers, which did not start, to be tried again now.

        Raises Refused, changing nothing: one is not there, or is not in error.
        """

        async def retry(tx: Transaction) -> tuple[Machine, ...]:
            await own.require_alive(tx)
            tried = await machinerows.retry(tx, numbers)
            await changes.bump(tx, SUBJECT)
            return tried

        return await self._run(model, retry, deadline_seconds)

    async def enrol(self, model: str, number: int, *, deadline_seconds: float = 15) -> str:
        """Return a new agent.conf for a machine that somebody brings; an earlier one lets nobody in any more.

        Raises Refused, changing nothing: no such machine, not a manual one, or there is no API to log in to.
        """
        deadline = asyncio.get_running_loop().time() + deadline_seconds
        draft = await self._enrolment.draft((await self._find(model, deadline)).uuid)
        if draft is None:
            raise errors.Refused("there is no API that an agent could log in to: TLS is off")
        secret = passwords.new_secret()

        async def enrol(tx: Transaction) -> Machine:
            found = [m for m in await machinerows.listed(tx) if m.number == number]
            if not found or not found[0].manual or found[0].state is State.STOPPED:
                raise errors.Refused(
                    f"there is no manual machine {number} in model {model}: add-machine --manual adds one"
                )
            await agentsecrets.provide(tx, enrolment.tag_of(found[0]), passwords.hashed_secret(secret))
            return found[0]

        return draft.text(await self._run(model, enrol, retry.left(deadline)), secret)

    async def _run(
        self, model: str, fn: Callable[[Transaction], Awaitable[_T]], seconds: float, *, read_only: bool = False
    ) -> _T:
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            try:
                found = await self._find(model, deadline)
                database = self._models.database(found)
                return await database.run(fn, read_only=read_only, deadline_seconds=retry.left(deadline))
            except errors.Indefinite:
                if retry.left(deadline) <= 0:
                    raise

    async def _find(self, model: str, deadline: float) -> Model:
        database = self._models.databases.database(CONTROLLER)
        found = await database.run(
            lambda tx: store.find(tx, model), read_only=True, deadline_seconds=retry.left(deadline)
        )
        if found is None:
            raise errors.Refused(f"there is no model {model}")
        return found


async def _wind_up(tx: Transaction) -> None:
    for machine in await machinerows.listed(tx):
        after = machines.unwanted(machine)
        if after != machine:
            await machinerows.replace(tx, machine, after)
            await enrolment.shut_out(tx, machine)
            await changes.bump(tx, SUBJECT)


async def _left(tx: Transaction) -> int:
    rows = (await tx.query("SELECT count(*) FROM machine WHERE state != ?", (State.STOPPED.value,))).rows
    return int(str(rows[0][0]))


# A model is destroyed only when every provider has said that nothing of its machines is left.
REMAINS = Remains("machines", _wind_up, _left)

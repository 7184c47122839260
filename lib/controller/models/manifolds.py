"""The workers of one model: the one table from which each model's engine is made, on every controller.

| manifold | offers | runs |
|---|---|---|
| model | ModelWatch: the model's row, as last seen here | everywhere |
| models | Models: the controller's own | everywhere |
| lease-manager | Manager: the controller's own | everywhere |
| model-database | Database: the model's own, once it is there with its tables | everywhere |
| is-responsible | Singular: the responsibility for the model, where this controller has it | everywhere |
| controller-config | ControllerConfig: the controller's own | everywhere |
| enrolment | Enrolment: the controller's own; what new agents begin with | everywhere |
| undertaker | nothing | where responsible |
| compute-provisioner | nothing | where responsible |
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from controller.controllerconfig import ControllerConfig
from controller.domainschema import Patched, until_done
from controller.engine import Getter, Manifold, Manifolds, Missing, Offer, gate, lend
from controller.leases import Key, Manager, Responsibility, Singular, is_responsible, singular
from controller.leases.secretary import SINGULAR_CONTROLLER
from controller.models.model import DEAD, Model
from controller.models.remains import Remains
from controller.models.service import Models
from controller.models.undertaker import Undertaker
from controller.models.watch import ModelWatch
from controller.workers import computemanifolds, machineservice
from controller.workers.enrolment import Enrolment
from dbaccessor.schema import Patch

# What has to be gone before a model is.
REMAINS: tuple[Remains, ...] = (machineservice.REMAINS,)

_AT_ONCE = 4


def key_of(model: Model) -> Key:
    """Return the key of the lease on a model: who holds it is responsible for the model."""
    return Key(SINGULAR_CONTROLLER, model.uuid, model.uuid)


def model_manifolds(
    watch: ModelWatch,
    models: Models,
    leases: Manager,
    config: ControllerConfig,
    enrolment: Enrolment,
    turns: asyncio.Semaphore,
) -> Manifolds:
    """Return the table of one model. `turns` bounds how many models' databases are made at the same time."""
    return {
        "model": lend(watch),
        "models": lend(models),
        "lease-manager": lend(leases),
        "controller-config": lend(config),
        "enrolment": lend(enrolment),
        "model-database": gate(lambda get: _database(get, turns), ("model", "models")),
        "is-responsible": singular("lease-manager", key_of(watch.model), leases.timing.duration_seconds),
        "undertaker": is_responsible()(Manifold(_undertaker, ("model", "models"))),
        computemanifolds.NAME: computemanifolds.manifold(),
    }


def new_turns() -> asyncio.Semaphore:
    """Return what all models of one controller share as their `turns`."""
    return asyncio.Semaphore(_AT_ONCE)


def responsibility(get: Getter, flag: str = "is-responsible") -> Responsibility:
    """Return the responsibility of a flag, in the start of a manifold that is_responsible decorates."""
    found = get(flag, Singular).responsibility  # type: ignore[type-abstract]
    if found is None:
        raise Missing(f"{flag} says no")
    return found


def _undertaker(get: Getter) -> Undertaker:
    return Undertaker(get("model", ModelWatch), get("models", Models), responsibility(get), REMAINS)


def _database(get: Getter, turns: asyncio.Semaphore) -> Callable[[], Awaitable[Offer]]:
    watch, models = get("model", ModelWatch), get("models", Models)

    async def prepare() -> Offer:
        async def make() -> tuple[Patch, ...]:
            return await models.make_database(watch.model)

        if watch.model.life == DEAD:
            raise Missing("the model is dead")
        async with turns:
            waiting = await until_done(make)
        return Patched(models.database(watch.model), waiting, make)

    return prepare

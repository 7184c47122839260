"""Flow 2, hop 5: the compute provisioner as a manifold of each model's table, where responsible for it."""

from __future__ import annotations

from controller import changes
from controller.controllerconfig import LOCAL_PROVIDER, ControllerConfig
from controller.engine import Getter, Manifold, Missing
from controller.leases import FencedDatabase, Responsibility, Singular, is_responsible
from controller.models.service import Models
from controller.models.watch import ModelWatch
from controller.workers import agentfiles
from controller.workers.computeprovisioner import ComputeProvisioner
from controller.workers.enrolment import Enrolment
from controller.workers.localprovider import PYTHON, LocalProvider
from controller.workers.machineservice import SUBJECT
from controller.workers.provider import Provider

NAME = "compute-provisioner"


def manifold(flag: str = "is-responsible") -> Manifold:
    """Return the manifold. Its inputs are manifolds of a model's table."""
    inputs = ("model", "models", "model-database", "controller-config", "enrolment")
    return is_responsible(flag)(Manifold(lambda get: _provisioner(get, flag), inputs))


def _provisioner(get: Getter, flag: str) -> ComputeProvisioner:
    model, models = get("model", ModelWatch).model, get("models", Models)
    database, config = get("model-database", FencedDatabase), get("controller-config", ControllerConfig)
    enrolment = get("enrolment", Enrolment)
    held = get(flag, Singular).responsibility  # type: ignore[type-abstract]
    if held is None:
        raise Missing(f"{flag} says no")
    tags = {"controller": models.databases.identity.cluster_uuid, "model": model.uuid}

    async def find() -> Provider | None:
        url = (await config.all())[LOCAL_PROVIDER]
        return LocalProvider(url, tags, asker(held)) if url else None

    def epoch() -> int:
        known = models.databases.epoch
        return max(held.token.epoch, known.number if known else 0)

    async def count() -> int:
        return await changes.peek(database, SUBJECT)

    return ComputeProvisioner(
        database,
        held.check,
        find,
        lambda machine: agentfiles.spec(machine, model.uuid, PYTHON),
        changed=count,
        draft=lambda: enrolment.draft(model.uuid),
        epoch=epoch,
    )


def asker(held: Responsibility) -> str:
    """Return what a provider writes into its log: who asks, and by which token."""
    return f"controller {held.holder}, token {held.token}"

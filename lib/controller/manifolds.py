"""Where the flows meet: the one table of the workers that controllerd runs, and what each of them needs.

| manifold | offers | runs |
|---|---|---|
| sockets | nothing; somebody who answers as long as anything runs | everywhere, always |
| notifier | nothing; asks the charm for a hook | everywhere, always |
| db-accessor | Databases | everywhere, always |
| domain-schema | Databases, once the node serves and their tables are there: what most others need | everywhere |
| models | Models: what can be done with models | everywhere |
| controller-config | ControllerConfig: the settings of the controller set | everywhere |
| machines | Machines: what can be done with machines | everywhere |
| lease-manager | Manager | everywhere |
| is-primary-controller | Singular: the responsibility for what runs once in a controller set | everywhere |
| model-worker-manager | nothing; an engine for each model, with the table of models/manifolds.py | everywhere |
| pruner | nothing; removes rows that nothing asks for any more | on the primary controller |
"""

from __future__ import annotations

from collections.abc import Callable

from controller import domainschema, leaseroutes, leases, node, sockets
from controller.answering import Route
from controller.controllerconfig import ControllerConfig
from controller.engine import Getter, Manifold, Manifolds, Worker, offer
from controller.leases import Key, Manager
from controller.leases import store as leasestore
from controller.leases.secretary import SINGULAR_CONTROLLER
from controller.leases.store import LeaseStore
from controller.models import manifolds as modelmanifolds
from controller.models import routes as modelroutes
from controller.models.manager import ModelWorkerManager
from controller.models.model import Model
from controller.models.service import Models
from controller.node import Databases, Node
from controller.notifier import Notifier
from controller.plugins import Plugins
from controller.sockets import Sockets
from controller.workers import machineroutes
from controller.workers.machineservice import Machines
from controller.workers.pruner import Pruner

LEASES = "lease-manager"
PRIMARY = "is-primary-controller"

# What control.socket answers beside the node's own: each names the manifold that answers it.
ROUTES: tuple[Route, ...] = (*modelroutes.ROUTES, *leaseroutes.ROUTES, *machineroutes.ROUTES)


# Makes a manifold run on the one controller of the set that is the primary one.
once = leases.is_responsible(PRIMARY)


def controller_manifolds(
    own: Node, doors: Sockets, notifier: Notifier, model_plugins: Plugins, on_model_start: Callable[[str], None]
) -> Manifolds:
    """Return the controller's table. Node, sockets and notifier are the daemon's: they are there without the engine."""
    return {
        sockets.NAME: Manifold(lambda _: doors, filter=node.as_fatal),
        "notifier": Manifold(lambda _: notifier),
        node.NAME: own.manifold(sockets.NAME),
        domainschema.NAME: domainschema.manifold(node.NAME),
        "models": offer(lambda get: Models(get(domainschema.NAME, Databases)), (domainschema.NAME,)),
        "controller-config": offer(
            lambda get: ControllerConfig(get(domainschema.NAME, Databases)), (domainschema.NAME,)
        ),
        "machines": offer(lambda get: Machines(get("models", Models)), ("models",)),
        LEASES: Manifold(_lease_manager, (domainschema.NAME,)),
        PRIMARY: Manifold(_is_primary, (LEASES, domainschema.NAME)),
        "model-worker-manager": Manifold(
            lambda get: _model_worker_manager(get, model_plugins, on_model_start),
            ("models", LEASES, "controller-config"),
        ),
        "pruner": once(Manifold(_pruner, ("models", LEASES))),
    }


def _lease_manager(get: Getter) -> Manager:
    databases = get(domainschema.NAME, Databases)
    return Manager(
        LeaseStore(databases.database(leasestore.DATABASE)),
        databases.identity.controller_id,
        lambda: databases.epoch,
        prepare=lambda: databases.create(leasestore.DATABASE, leasestore.patches()),
    )


def _is_primary(get: Getter) -> Worker:
    uuid = get(domainschema.NAME, Databases).identity.cluster_uuid
    seconds = get(LEASES, Manager).timing.duration_seconds
    return leases.singular(LEASES, Key(SINGULAR_CONTROLLER, uuid, uuid), seconds).start(get)


def _model_worker_manager(get: Getter, plugins: Plugins, on_start: Callable[[str], None]) -> ModelWorkerManager:
    models, manager, turns = get("models", Models), get(LEASES, Manager), modelmanifolds.new_turns()
    config = get("controller-config", ControllerConfig)

    async def gone(model: Model) -> None:
        try:
            # The flag may have claimed in the very moment in which it was stopped.
            await manager.revoke(modelmanifolds.key_of(model))
        finally:
            models.databases.forget(model.database)

    return ModelWorkerManager(
        models,
        lambda watch: plugins.merge(modelmanifolds.model_manifolds(watch, models, manager, config, turns), watch.model),
        gone,
        on_start,
        plugins.report,
    )


def _pruner(get: Getter) -> Pruner:
    return Pruner(modelmanifolds.responsibility(get, PRIMARY), get("models", Models), get(LEASES, Manager))

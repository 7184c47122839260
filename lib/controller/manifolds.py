"""Where the flows meet: the one table of the workers that controllerd runs, and what each of them needs.

| manifold | offers | runs |
|---|---|---|
| sockets | nothing; somebody who answers as long as anything runs | everywhere, always |
| notifier | nothing; asks the charm for a hook | everywhere, always |
| db-accessor | Databases | everywhere, always |
| domain-schema | Databases, once the node serves and their tables are there: what most others need | everywhere |
| models | Models: what can be done with models | everywhere |
| controller-config | ControllerConfig: the settings of the controller set | everywhere |
| spaces | SpaceService: what can be done with spaces | everywhere |
| enrolment | Enrolment: what new agents begin with | everywhere |
| machines | Machines: what can be done with machines | everywhere |
| lease-manager | Manager | everywhere |
| is-primary-controller | Singular: the responsibility for what runs once in a controller set | everywhere |
| api-server | ApiServer: agents and clients come in here | everywhere |
| address-reporter | nothing; reports where this controller can be dialled | everywhere |
| space-keeper | nothing; makes the spaces what the charm's option says | on the primary controller |
| api-address-setter | nothing; publishes where agents and clients are to go | on the primary controller |
| model-worker-manager | nothing; an engine for each model, with the table of models/manifolds.py | everywhere |
| pruner | nothing; removes rows that nothing asks for any more | on the primary controller |
"""

from __future__ import annotations

from collections.abc import Callable

from controller import domainschema, leaseroutes, leases, node, sockets
from controller.answering import Route
from controller.api import apiserver, spaces
from controller.api import routes as apiroutes
from controller.api.apiserver import ApiServer
from controller.api.pages import Sources
from controller.api.spaces import SpaceService
from controller.controllerconfig import ControllerConfig
from controller.engine import Getter, Manifold, Manifolds, Missing, Worker, offer
from controller.leases import Key, Manager
from controller.leases import store as leasestore
from controller.leases import timing as leasetiming
from controller.leases.secretary import SINGULAR_CONTROLLER
from controller.leases.store import LeaseStore
from controller.models import manifolds as modelmanifolds
from controller.models import routes as modelroutes
from controller.models.manager import ModelWorkerManager
from controller.models.model import Model
from controller.models.service import Models
from controller.models.watch import ModelWatch
from controller.node import Databases, Node
from controller.notifier import Notifier
from controller.plugins import Plugins
from controller.sockets import Sockets
from controller.workers import addressreporter, machineroutes
from controller.workers.addressreporter import AddressReporter
from controller.workers.addresssetter import AddressSetter
from controller.workers.enrolment import Enrolment
from controller.workers.machineservice import Machines
from controller.workers.pruner import Pruner
from controller.workers.spacekeeper import SpaceKeeper
from dbaccessor.namespaces import CONTROLLER

LEASES = "lease-manager"
PRIMARY = "is-primary-controller"

# What control.socket answers beside the node's own: each names the manifold that answers it.
ROUTES: tuple[Route, ...] = (
    *spaces.ROUTES,
    *modelroutes.ROUTES,
    *leaseroutes.ROUTES,
    *apiroutes.ROUTES,
    *machineroutes.ROUTES,
)


# Makes a manifold run on the one controller of the set that is the primary one.
once = leases.is_responsible(PRIMARY)


def controller_manifolds(
    own: Node,
    doors: Sockets,
    notifier: Notifier,
    pages: Sources,
    model_plugins: Plugins,
    on_model_start: Callable[[str], None],
) -> Manifolds:
    """Return the controller's table. Node, sockets and notifier are the daemon's: they are there without the engine."""
    return {
        sockets.NAME: Manifold(lambda _: doors, filter=node.as_fatal),
        "notifier": Manifold(lambda _: notifier),
        node.NAME: own.manifold(sockets.NAME),
        domainschema.NAME: domainschema.manifold(node.NAME),
        "models": offer(lambda get: Models(get(domainschema.NAME, Databases)), (domainschema.NAME,)),
        "controller-config": offer(
            lambda get: ControllerConfig(get(domainschema.NAME, Databases).database(CONTROLLER)), (domainschema.NAME,)
        ),
        spaces.NAME: offer(
            lambda get: SpaceService(get(domainschema.NAME, Databases).database(CONTROLLER)), (domainschema.NAME,)
        ),
        "enrolment": offer(
            lambda get: Enrolment(get(domainschema.NAME, Databases), own.state_dir, lambda: own.worker.conf),
            (domainschema.NAME,),
        ),
        "machines": offer(
            lambda get: Machines(get("models", Models), get("enrolment", Enrolment)), ("models", "enrolment")
        ),
        LEASES: Manifold(_lease_manager, (domainschema.NAME,)),
        PRIMARY: Manifold(_is_primary, (LEASES, domainschema.NAME)),
        apiserver.NAME: Manifold(lambda get: _api_server(get, own, pages), (domainschema.NAME, "models")),
        "address-reporter": Manifold(lambda get: _address_reporter(get, own), (domainschema.NAME,)),
        "space-keeper": once(Manifold(lambda get: _space_keeper(get, own), (domainschema.NAME,))),
        "api-address-setter": once(Manifold(lambda get: _address_setter(get, own), (domainschema.NAME,))),
        "model-worker-manager": Manifold(
            lambda get: _model_worker_manager(get, model_plugins, on_model_start),
            ("models", LEASES, "controller-config", "enrolment"),
        ),
        "pruner": once(Manifold(_pruner, ("models", LEASES))),
    }


def _lease_manager(get: Getter) -> Manager:
    databases = get(domainschema.NAME, Databases)
    return Manager(
        LeaseStore(databases.database(leasestore.DATABASE)),
        databases.identity.controller_id,
        lambda: databases.epoch,
        timing=leasetiming.for_latency(databases.network_latency_ms),
        prepare=lambda: databases.create(leasestore.DATABASE, leasestore.patches()),
    )


def _is_primary(get: Getter) -> Worker:
    uuid = get(domainschema.NAME, Databases).identity.cluster_uuid
    seconds = get(LEASES, Manager).timing.duration_seconds
    return leases.singular(LEASES, Key(SINGULAR_CONTROLLER, uuid, uuid), seconds).start(get)


def _api_server(get: Getter, own: Node, pages: Sources) -> ApiServer:
    databases, models = get(domainschema.NAME, Databases), get("models", Models)
    return ApiServer(own.state_dir, lambda: own.worker.conf, databases, models, pages)


def _address_reporter(get: Getter, own: Node) -> AddressReporter:
    databases = get(domainschema.NAME, Databases)
    database, controller_id = databases.database(CONTROLLER), databases.identity.controller_id
    return AddressReporter(database, controller_id, lambda: addressreporter.where(own.worker.conf))


def _address_setter(get: Getter, own: Node) -> AddressSetter:
    conf = own.worker.conf
    if conf is None:
        raise Missing("there is no configuration yet")
    held, databases = modelmanifolds.responsibility(get, PRIMARY), get(domainschema.NAME, Databases)
    return AddressSetter(held.fenced(databases.database(CONTROLLER)), conf.api_port)


def _space_keeper(get: Getter, own: Node) -> SpaceKeeper:
    held, databases = modelmanifolds.responsibility(get, PRIMARY), get(domainschema.NAME, Databases)
    return SpaceKeeper(held.fenced(databases.database(CONTROLLER)), lambda: own.worker.conf)


def _model_worker_manager(get: Getter, plugins: Plugins, on_start: Callable[[str], None]) -> ModelWorkerManager:
    models, manager, turns = get("models", Models), get(LEASES, Manager), modelmanifolds.new_turns()
    config, enrolment = get("controller-config", ControllerConfig), get("enrolment", Enrolment)

    def table(watch: ModelWatch) -> Manifolds:
        own = modelmanifolds.model_manifolds(watch, models, manager, config, enrolment, turns)
        return plugins.merge(own, watch.model)

    async def gone(model: Model) -> None:
        try:
            # The flag may have been granted its claim in the very moment in which it was stopped. A claim that was
            # cancelled before its outcome was known is not given up by this: then the lease runs out by itself.
            await manager.revoke(modelmanifolds.key_of(model))
        finally:
            models.databases.forget(model.database)

    return ModelWorkerManager(
        models,
        table,
        gone,
        on_start,
        plugins.report,
    )


def _pruner(get: Getter) -> Pruner:
    return Pruner(modelmanifolds.responsibility(get, PRIMARY), get("models", Models), get(LEASES, Manager))

"""Where the flows meet: the one table of the workers that controllerd runs, and what each of them needs.

| manifold | offers | runs |
|---|---|---|
| sockets | nothing; somebody who answers as long as anything runs | everywhere, always |
| notifier | nothing; asks the charm for a hook | everywhere, always |
| db-accessor | Databases | everywhere, always |
| domain-schema | Databases, once the node serves and their tables are there: what most others need | everywhere |
| models | Models: what can be done with models | everywhere |
"""

from __future__ import annotations

from controller import domainschema, node, sockets
from controller.answering import Route
from controller.engine import Manifold, Manifolds, offer
from controller.models import routes as modelroutes
from controller.models.service import Models
from controller.node import Databases, Node
from controller.notifier import Notifier
from controller.sockets import Sockets

# What control.socket answers beside the node's own: each names the manifold that answers it.
ROUTES: tuple[Route, ...] = (*modelroutes.ROUTES,)


def controller_manifolds(own: Node, doors: Sockets, notifier: Notifier) -> Manifolds:
    """Return the controller's table. The three are the daemon's own: they are there whether or not the engine runs."""
    return {
        sockets.NAME: Manifold(lambda _: doors, filter=node.as_fatal),
        "notifier": Manifold(lambda _: notifier),
        node.NAME: own.manifold(sockets.NAME),
        domainschema.NAME: domainschema.manifold(node.NAME),
        "models": offer(lambda get: Models(get(domainschema.NAME, Databases)), (domainschema.NAME,)),
    }

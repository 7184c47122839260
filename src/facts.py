"""Flow 1, hop 2: all that a hook may act on, read in one go before the hook writes anything.

Juju shows a hook its own writes at once and drops them all when the hook fails later. So only what was there
at the start is true, and only that is in `Facts`; nobody reads a databag again afterwards.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass, field

import msgspec
import ops
from ops import hookcmds

import bindaddress
import controllerconf
import controlsocket
import dbcluster
import managementspace
import paths
from dbaccessor import conf
from dbcluster import AppBag, UnitBag
from topology import Goal

logger = logging.getLogger(__name__)

_IDENTITY = "identity.json"


@dataclass(frozen=True)
class Network:
    """The choice among the binding's addresses, or (choice None) Juju's own words why there was no answer."""

    choice: bindaddress.Choice | None
    failure: str = ""


@dataclass(frozen=True)
class Facts:
    """What was true when this hook started.

    `peers` is read by the leader only: nobody else decides anything by it, but whose turn it is to restart. `problem`
    says why the app bag cannot be used ("": it can).
    """

    unit: str
    network: Network
    management: managementspace.Wish = field(default_factory=managementspace.Wish)
    relation: ops.Relation | None = None
    app: AppBag = field(default_factory=AppBag)
    own: UnitBag = field(default_factory=UnitBag)
    peers: dict[str, UnitBag] = field(default_factory=dict[str, UnitBag])
    goal: Goal | None = None
    leaving: bool = False
    on_disk: conf.ControllerConf | None = None
    disk_uuid: str = ""
    node_state: str = ""
    problem: str = ""

    @property
    def controller_id(self) -> str:
        """The id of this unit's controller: once given, it stays, whatever the unit's number is."""
        if self.own.controller_id:
            return self.own.controller_id
        return self.on_disk.controller_id if self.on_disk else dbcluster.assigned_id(self.unit)


def read(charm: ops.CharmBase, event: ops.EventBase) -> Facts:
    """Return the facts of this hook."""
    state_dir = paths.STATE_DIR
    unit = charm.unit.name
    goal = goal_state()
    facts = Facts(
        unit=unit,
        goal=goal,
        leaving=leaving(charm, event, goal),
        network=network(charm.model),
        management=management(charm),
        on_disk=controllerconf.read(state_dir),
        disk_uuid=disk_uuid(),
        node_state=controlsocket.db_state(state_dir) or "",
    )
    relation = charm.model.get_relation(dbcluster.ENDPOINT)
    # The peer databags of a unit cannot be used before it has entered the relation, which is after its
    # install.
    if relation is None or isinstance(event, ops.InstallEvent):
        return facts
    problem, app = "", AppBag()
    try:
        app = AppBag.parse(relation.data[charm.app])
    except dbcluster.BadBag as error:
        problem = str(error)
    return dataclasses.replace(
        facts,
        relation=relation,
        app=app,
        own=UnitBag.parse(relation.data[charm.unit]),
        peers=peers(relation, charm.unit) if charm.unit.is_leader() else {},
        problem=problem,
    )


def leaving(charm: ops.CharmBase, event: ops.EventBase, goal: Goal | None) -> bool:
    """Whether this unit is itself on its way out, and so must publish and render nothing more."""
    if isinstance(event, ops.RelationBrokenEvent):
        return True
    departing = event.departing_unit if isinstance(event, ops.RelationDepartedEvent) else None
    if departing is not None and departing.name == charm.unit.name:
        return True
    return goal is not None and charm.unit.name not in goal.alive


def goal_state() -> Goal | None:
    """Return the units of this application as Juju means them to be; None when Juju does not tell."""
    try:
        units = hookcmds.goal_state().units
    except hookcmds.Error as error:
        logger.warning("goal-state failed: %s", error.stderr.strip() or error)
        return None
    dying = frozenset(name for name, goal in units.items() if goal.status == "dying")
    return Goal(alive=frozenset(units) - dying, dying=dying)


def network(model: ops.Model) -> Network:
    """Ask Juju for the addresses of the binding. Never raises: a network that is not there is waited for."""
    candidates, failure = _candidates(model, dbcluster.ENDPOINT)
    return Network(None, failure) if failure else Network(bindaddress.choose(candidates))


def management(charm: ops.CharmBase) -> managementspace.Wish:
    """Return which management space is wanted, and this unit's part of it. Juju is asked only where one is."""
    wish = managementspace.check(str(charm.config.get(managementspace.OPTION, "")))
    if not wish.name:
        return wish
    return managementspace.find(wish.name, charm.app.name, *_candidates(charm.model, managementspace.BINDING))


def _candidates(model: ops.Model, binding: str) -> tuple[list[bindaddress.Candidate], str]:
    """Return the binding's addresses, or Juju's own words why there was no answer."""
    try:
        interfaces = model.get_binding(binding).network.interfaces
    except (
        ops.ModelError,
        ValueError,
    ) as error:  # ValueError: ops cannot read an address or subnet of the reply.
        words = " ".join(str(error).split()) or type(error).__name__
        return [], f"network-get failed: {words}"
    candidates = [
        bindaddress.Candidate(str(i.address), i.name or "", str(i.subnet) if i.subnet else "")
        for i in interfaces
        if i.address is not None
    ]
    return candidates, ""


def peers(relation: ops.Relation, own: ops.Unit) -> dict[str, UnitBag]:
    """Return the other units' bags. No write of this hook shows in them, so they may be read at any time in it."""
    return {peer.name: UnitBag.parse(relation.data[peer]) for peer in relation.units if peer != own}


def disk_uuid() -> str:
    """Return the uuid of the cluster that the data on disk belongs to; "" without a (readable) identity."""
    try:
        identity = msgspec.json.decode((paths.STATE_DIR / _IDENTITY).read_bytes(), type=dict[str, object])
    except FileNotFoundError:
        return ""
    except msgspec.DecodeError as error:
        logger.warning("%s cannot be read: %s", _IDENTITY, error)
        return ""
    found = identity.get("cluster-uuid")
    return found if isinstance(found, str) else ""

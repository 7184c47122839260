"""Flow 1, hop 2 to 3: what the leader sees -> what it publishes in the app bag, with a reason each time.

Pure, and computed anew from all facts in every hook of the leader, whoever that is by now. The rules are
contract C1's:

* the map is complete or unchanged: it changes only when the leader's view is whole, and an id leaves it only
  when goal-state no longer names its unit. A view is whole when every unit that is to be there is seen, and
  nobody is seen whom goal-state no longer names. One that is leaving may be either: Juju shows it until its own
  relation-broken has run, which is never while its machine is down, and it stays in the map for as long;
* the generation is one more than any that somebody may have rendered, so that it never runs backwards, not
  even after a leader rendered what its failed hook then did not publish;
* a cluster is founded once: the bootstrap controller moves only off a departed one, always with a new
  cluster-uuid, and only while nobody's databag or disk shows that the old one exists.

The limit of the last one: a founder that is removed by force within the seconds between its founding and the first
db-state that the leader sees, when another unit has joined it already, leaves that unit's data behind.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dbaccessor import conf
from dbcluster import SCHEMA, AppBag, DbState, UnitBag, assigned_id


@dataclass(frozen=True)
class Goal:
    """The units as Juju means them to be; one that leaves is first dying, then no longer named."""

    alive: frozenset[str]
    dying: frozenset[str] = frozenset()

    @property
    def named(self) -> frozenset[str]:
        return self.alive | self.dying


@dataclass(frozen=True)
class Rendered:
    """The controller configuration that stands on the leader's own disk."""

    generation: int = 0
    digest: str = ""


@dataclass(frozen=True)
class View:
    """All that the leader knows: the committed app bag, and the bag of every unit that it sees, itself too.

    `space` is the management space that the operator wants, "" for none; None: what is published stays.
    """

    app: AppBag
    units: Mapping[str, UnitBag]
    goal: Goal | None
    rendered: Rendered = Rendered()
    space: str | None = ""

    @property
    def staying(self) -> Mapping[str, UnitBag]:
        """The units that are seen and that Juju means to be there."""
        alive = self.goal.alive if self.goal is not None else frozenset[str]()
        return {unit: bag for unit, bag in self.units.items() if unit in alive}


@dataclass(frozen=True)
class Proposal:
    """What to publish, why, and what keeps the map from changing now ("": nothing does)."""

    app: AppBag
    reasons: tuple[str, ...]
    hole: str = ""

    def acts_on(self, committed: AppBag) -> bool:
        """Whether the leader may render this now.

        What says who founds which cluster is acted on only when it was read back: the writes of a hook that
        fails later vanish, and a cluster founded on them would be one that nobody knows of.
        """
        return (self.app.cluster_uuid, self.app.bootstrap_controller) == (
            committed.cluster_uuid,
            committed.bootstrap_controller,
        )


def propose(view: View, new_uuid: Callable[[], str]) -> Proposal:
    """Return what the leader is to publish now: the same as before when nothing is to change."""
    reasons: list[str] = []
    app = view.app
    hole = incomplete(view)
    if hole is None:
        app = _with_members(view, app, reasons)
    app = _with_space(view, app, hole is None, reasons)
    app = _with_cluster(view, app, hole is None, new_uuid, reasons)
    app = dataclasses.replace(app, db_state=newest_state(view, app.cluster_uuid))
    return Proposal(_numbered(view, app, reasons), tuple(reasons), hole or "")


def incomplete(view: View) -> str | None:
    """Say why the leader's view is not whole; None when it sees every unit that Juju means to be there."""
    if view.goal is None:
        return "goal-state is not known"
    seen = frozenset(view.units)
    if unseen := sorted(view.goal.alive - seen):
        return f"{', '.join(unseen)} not in the relation yet"
    if leaving := sorted(seen - view.goal.named):
        return f"{', '.join(leaving)} leaving"
    if newer := sorted(unit for unit, bag in view.units.items() if bag.schema > SCHEMA):
        return f"{', '.join(newer)} writes a newer schema: refresh this unit"
    return None


def newest_state(view: View, cluster_uuid: str) -> str:
    """Return the newest db-state of this cluster that anybody published, verbatim; it never gets older."""
    best, best_rank = "", (0, 0, -1)
    for text in (view.app.db_state, *(bag.db_state for _, bag in sorted(view.units.items()))):
        state = DbState.parse(text)
        if state is None or state.cluster_uuid != cluster_uuid:
            continue
        rank = (state.epoch.number, state.last_term, state.last_index)
        if rank > best_rank:
            best, best_rank = text, rank
    return best


def _with_members(view: View, old: AppBag, reasons: list[str]) -> AppBag:
    assert view.goal is not None
    ids = {unit: bag.controller_id or assigned_id(unit) for unit, bag in view.staying.items()}
    leaving = {i: unit for i, unit in old.units.items() if unit in view.goal.dying}
    units = {**leaving, **{i: unit for unit, i in ids.items() if i not in old.departed}}
    gone = set(old.units) - set(units)
    departed = tuple(sorted({*old.departed, *gone}))
    if gone:
        reasons.append(f"departed: {', '.join(sorted(gone))} (goal-state no longer names the unit)")

    addresses = _addresses(view, old, units, reasons)
    unresolved = tuple(sorted(set(units) - set(addresses)))
    return dataclasses.replace(
        old, addresses=dict(sorted(addresses.items())), unresolved=unresolved, departed=departed, units=units
    )


def _addresses(view: View, old: AppBag, units: Mapping[str, str], reasons: list[str]) -> dict[str, str]:
    """Return the new map: what each unit publishes now, else what it had last.

    An id once resolved stays so while nobody else has its address: a newer one replaces it, a missing one does not.
    Of two that publish one address, it belongs to whoever had it before, else to the lower id. Two units may swap
    theirs, and a whole subnet may be renumbered: the claims of now count before the addresses of then. One that is
    leaving publishes nothing any more, so what it claims counts after the claims of those that stay.
    """
    assert view.goal is not None
    dying = view.goal.dying
    claims: dict[str, str] = {}
    for i, unit in units.items():
        bag = view.units.get(unit)
        if bag is not None and bag.controller_id and bag.address:
            claims[i] = bag.address
    owners: dict[str, str] = {}
    for i in sorted(claims, key=lambda i: (units[i] in dying, claims[i] != old.addresses.get(i), _rank(i))):
        owner = owners.setdefault(claims[i], i)
        if owner != i:
            reasons.append(f"controller {i} does not get {claims[i]}, which is that of controller {owner}")
    for i in sorted(set(units) - set(owners.values()), key=_rank):
        if i in old.addresses:
            owners.setdefault(old.addresses[i], i)
    addresses = {i: address for address, i in owners.items()}
    changed = [i for i in sorted(addresses, key=_rank) if old.addresses.get(i) != addresses[i]]
    reasons.extend(f"controller {i} has address {addresses[i]}" for i in changed)
    return addresses


def _with_space(view: View, app: AppBag, whole: bool, reasons: list[str]) -> AppBag:
    """Return the bag with the management space: the operator names it, the units' bindings make its subnets.

    As the map it is complete or unchanged: it changes when every unit has said what its binding has, so never while one
    of a version runs that knows of no such space. That none is wanted any more needs nobody else's word.
    """
    space: conf.ManagementSpace | None = None
    if view.space is None:
        return app
    if view.space:
        said = [bag.management for bag in view.staying.values()]
        if not whole or None in said:
            return app
        space = conf.ManagementSpace(view.space, tuple(sorted({s for subnets in said for s in subnets or ()})))
    if space != app.management_space:
        told = f"{space.name} ({', '.join(space.subnets) or 'without a subnet'})" if space is not None else "not set"
        reasons.append(f"the management space is {told}")
    return dataclasses.replace(app, management_space=space)


def _with_cluster(view: View, app: AppBag, whole: bool, new_uuid: Callable[[], str], reasons: list[str]) -> AppBag:
    members = [s for s in map(DbState.parse, (view.units[u].db_state for u in sorted(view.units))) if s is not None]
    shown = [s.cluster_uuid for s in members]
    shown += [view.units[u].cluster_uuid for u in sorted(view.units) if view.units[u].cluster_uuid]
    if app.bootstrapped and app.cluster_uuid:
        return app
    if members:
        uuid = app.cluster_uuid if app.cluster_uuid in shown else members[0].cluster_uuid
        reasons.append(f"cluster {uuid} exists: controller {members[0].controller_id} is a member")
        return dataclasses.replace(app, cluster_uuid=uuid, bootstrapped=True)
    if not app.cluster_uuid and shown:
        reasons.append(f"cluster {shown[0]} is taken from a unit that shows it")
        return dataclasses.replace(app, cluster_uuid=shown[0])
    if not whole or app.cluster_uuid in shown or app.bootstrapped:
        return app
    if app.bootstrap_controller and app.bootstrap_controller not in (*app.departed, *app.unresolved):
        return app
    founder = _founder(view, app)
    if founder is None:
        return app
    reasons.append(f"controller {founder} is to found the cluster")
    return dataclasses.replace(app, cluster_uuid=new_uuid(), bootstrap_controller=founder)


def _founder(view: View, app: AppBag) -> str | None:
    fit = [i for i in app.addresses if app.units.get(i) in view.staying]
    return min(fit, key=_rank, default=None)


def _numbered(view: View, app: AppBag, reasons: list[str]) -> AppBag:
    known = [Rendered(bag.rendered, bag.digest) for bag in view.units.values()] + [view.rendered]
    old_digest = view.app.digest()
    stale = [
        r
        for r in known
        if r.generation > view.app.generation or (r.generation == view.app.generation > 0 and r.digest != old_digest)
    ]
    if app.digest() == old_digest and not stale:
        return app
    generation = 1 + max([view.app.generation, *(r.generation for r in known)])
    if stale:
        reasons.append(f"generation {stale[0].generation} was rendered with content that was never published")
    reasons.append(f"generation {view.app.generation} becomes {generation}")
    return dataclasses.replace(app, generation=generation)


def _rank(controller_id: str) -> tuple[int, str]:
    """Order ids by number where they are numbers: 2 before 10."""
    return (int(controller_id) if controller_id.isdecimal() else 1 << 62, controller_id)

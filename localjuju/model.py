"""The truth that Juju's controller would keep: applications, units, relations, config, spaces, secrets. No I/O.

Every change goes through a method here and ends in touch(), which is how agents and waiting clients learn of it.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from localjuju import config as configs
from localjuju import events, leadership, secretstore, spaces
from localjuju.charmfiles import Charm


class Refused(Exception):
    """The request cannot be carried out; the text says why."""


@dataclass
class Status:
    current: str
    message: str
    since: float


@dataclass
class Bag:
    """A relation databag. The version counts committed changes; the writer is not told of its own."""

    content: dict[str, str] = field(default_factory=dict)
    version: int = 0
    writer: str = ""

    def update(self, changes: dict[str, str], writer: str) -> bool:
        """Apply keys ("" deletes). Returns, and counts, only a real change."""
        merged = {k: v for k, v in (self.content | changes).items() if v != ""}
        if merged == self.content:
            return False
        self.content, self.writer = merged, writer
        self.version += 1
        return True


@dataclass
class Relation:
    id: int
    endpoint: str
    interface: str
    app: str
    app_bag: Bag = field(default_factory=Bag)
    unit_bags: dict[str, Bag] = field(default_factory=dict)  # Kept after a unit is gone: -departed may still read.
    scope: set[str] = field(default_factory=set)

    @property
    def key(self) -> str:
        return f"{self.endpoint}:{self.id}"

    def bag(self, unit: str) -> Bag:
        return self.unit_bags.setdefault(unit, Bag())


@dataclass
class Unit:
    name: str
    app: str
    machine: int
    workload: Status
    agent: Status
    seen: events.Seen = field(default_factory=events.Seen)
    dying: bool = False
    alive: bool = False  # Whether its agent runs, which is what holds a lease.
    ports: set[str] = field(default_factory=set)
    state: dict[str, str] = field(default_factory=dict)
    status_updates: int = 0
    hook_error: str = ""
    error_since: float = 0.0

    @property
    def number(self) -> int:
        return int(self.name.partition("/")[2])


@dataclass
class Application:
    name: str
    charm: Charm
    status: Status
    lease: leadership.Lease
    settings: dict[str, Any] = field(default_factory=dict)
    bindings: dict[str, str] = field(default_factory=dict)
    default_space: str = spaces.ALPHA
    version: str = ""
    next_unit: int = 0
    units: dict[str, Unit] = field(default_factory=dict)

    def space(self, endpoint: str) -> str:
        return self.bindings.get(endpoint, self.default_space)


@dataclass
class ModelSettings:
    update_status_seconds: float = 60.0
    lease_seconds: float = 3.0
    hook_seconds: float = 300.0
    retry_seconds: float = 1.0
    retry_most_seconds: float = 30.0


class Model:
    """One model. `on_change` is called after every change."""

    def __init__(self, name: str, settings: ModelSettings, clock: Callable[[], float] = time.time) -> None:
        self.name = name
        self.uuid = str(uuid.uuid4())
        self.controller_uuid = str(uuid.uuid4())
        self.settings = settings
        self.clock = clock
        self.apps: dict[str, Application] = {}
        self.relations: dict[int, Relation] = {}
        self.topology = spaces.Topology()
        self.topology.add_subnet("10.77.0.0/24", spaces.ALPHA)
        self.secrets = secretstore.SecretStore()
        self.next_machine = 0
        self.revision = 0
        self.on_change: Callable[[], None] = lambda: None

    def touch(self) -> None:
        self.revision += 1
        self.on_change()

    def status(self, current: str, message: str = "") -> Status:
        return Status(current, message, self.clock())

    # Looking up

    def app(self, name: str) -> Application:
        if name not in self.apps:
            raise Refused(f'application "{name}" not found')
        return self.apps[name]

    def unit(self, name: str) -> Unit:
        """A unit by its name, or the leader by `app/leader`."""
        app_name, _, number = name.partition("/")
        app = self.app(app_name)
        if number == "leader":
            name = app.lease.holder or ""
            if not name:
                raise Refused(f'application "{app_name}" has no leader')
        if name not in app.units:
            raise Refused(f'unit "{name}" not found')
        return app.units[name]

    def units(self) -> list[Unit]:
        return [u for a in self.apps.values() for u in a.units.values()]

    def is_leader(self, unit: str) -> bool:
        app = self.apps.get(secretstore.application_of(unit))
        return app is not None and app.lease.holder == unit

    def peers_of(self, app: str) -> list[Relation]:
        return [r for r in self.relations.values() if r.app == app]

    # Changing

    def add_app(self, name: str, charm: Charm, options: dict[str, str], bindings: dict[str, str]) -> Application:
        if name in self.apps:
            raise Refused(f'application "{name}" already exists')
        app = Application(name, charm, self.status("unknown"), leadership.Lease(self.settings.lease_seconds))
        app.settings = self._parsed(charm, options)
        self._set_bindings(app, bindings)
        self.apps[name] = app
        for endpoint, interface in charm.peers.items():
            rid = len(self.relations)
            self.relations[rid] = Relation(rid, endpoint, interface, name)
        self.touch()
        return app

    def add_unit(self, app: Application, extra_addresses: list[str]) -> Unit:
        """A new unit on a new machine. Neither number is ever used again, whatever becomes of the unit."""
        machine = self.next_machine
        cards = self.topology
        try:
            cards.add_address(machine, str(cards.subnets[0].cidr))
            for address in extra_addresses:
                cards.add_address(machine, address)
        except spaces.BadNetwork as error:
            cards.devices.pop(machine, None)
            raise Refused(str(error)) from None
        self.next_machine += 1
        name = f"{app.name}/{app.next_unit}"
        app.next_unit += 1
        waiting = self.status("waiting", "waiting for machine")
        unit = Unit(name, app.name, machine, waiting, self.status("allocating"))
        unit.status_updates = 0
        app.units[name] = unit
        self.touch()
        return unit

    def enter_scope(self, unit: Unit) -> None:
        """Installed: its peers may see it now. Not if it was told to leave meanwhile, else it would stay for ever."""
        if unit.dying:
            return
        for relation in self.peers_of(unit.app):
            relation.scope.add(unit.name)
            bag = relation.bag(unit.name)
            devices = self.topology.bound(unit.machine, self.apps[unit.app].space(relation.endpoint))
            address = next((str(a.ip) for d in devices for a in d.addresses), "")
            width = "128" if ":" in address else "32"
            # What Juju itself writes for every unit that enters a relation's scope.
            bag.update(
                {
                    "ingress-address": address,
                    "private-address": address,
                    "egress-subnets": f"{address}/{width}" if address else "",
                },
                unit.name,
            )
        self.touch()

    def start_dying(self, unit: Unit) -> None:
        """From now on it leaves, hook by hook. It keeps its lease until it is gone, as in Juju."""
        unit.dying = True
        self.touch()

    def leave_scope(self, unit: Unit, relation_id: int) -> None:
        """Its own -broken has ended well: only now, as in Juju, do its peers see it depart."""
        self.relations[relation_id].scope.discard(unit.name)
        self.touch()

    def remove_unit(self, unit: Unit, *, orderly: bool) -> None:
        """The unit is gone. A lease is given up only by one that left in order; else it must run out."""
        app = self.apps[unit.app]
        app.units.pop(unit.name, None)
        for relation in self.peers_of(unit.app):
            relation.scope.discard(unit.name)
        if orderly:
            app.lease.revoke(unit.name)
        self.secrets.forget_unit(unit.name)
        self.topology.devices.pop(unit.machine, None)
        self.touch()

    def tick_leases(self, now: float) -> None:
        """Renew, expire and grant the leadership of every application."""
        for app in self.apps.values():
            ready = [u.name for u in sorted(app.units.values(), key=lambda u: u.number) if u.alive]
            # A unit on its way out keeps a lease it has, but does not get a new one.
            ready = [u for u in ready if not app.units[u].dying or app.lease.holder == u]
            if app.lease.tick(now, ready):
                self.touch()

    def set_config(self, app: Application, changes: dict[str, str], reset: list[str]) -> None:
        parsed = self._parsed(app.charm, changes)
        for key in reset:
            if key not in app.charm.options:
                raise Refused(f'unknown option "{key}"')
            app.settings.pop(key, None)
        app.settings.update(parsed)
        self.touch()

    def bind(self, app: Application, bindings: dict[str, str], *, force: bool) -> None:
        before = dict(app.bindings), app.default_space
        self._set_bindings(app, bindings)
        wrong = [
            problem
            for unit in app.units.values()
            for space in {app.default_space, *app.bindings.values()}
            if (problem := self.topology.missing(unit.machine, space))
        ]
        if wrong and not force:
            app.bindings, app.default_space = before
            raise Refused(f"cannot set bindings: {'; '.join(sorted(set(wrong)))} (--force binds anyway)")
        self.touch()

    def refresh(self, app: Application, charm: Charm) -> None:
        if set(app.charm.peers) - set(charm.peers):
            raise Refused("the new charm lacks a peer relation that is in use")
        app.charm = charm
        for endpoint, interface in charm.peers.items():
            if not any(r.endpoint == endpoint for r in self.peers_of(app.name)):
                rid = len(self.relations)
                relation = Relation(rid, endpoint, interface, app.name)
                relation.scope = {u.name for u in app.units.values() if u.seen.installed and not u.dying}
                self.relations[rid] = relation
        self.touch()

    def _parsed(self, charm: Charm, options: dict[str, str]) -> dict[str, Any]:
        try:
            return {key: configs.parse(charm.options, key, value) for key, value in options.items()}
        except configs.BadOption as error:
            raise Refused(str(error)) from None

    def _set_bindings(self, app: Application, bindings: dict[str, str]) -> None:
        for endpoint, space in bindings.items():
            if endpoint and endpoint not in app.charm.endpoints:
                raise Refused(f'endpoint "{endpoint}" not found')
            if space not in self.topology.spaces():
                raise Refused(f'space "{space}" not found')
        app.default_space = bindings.get("", app.default_space)
        app.bindings.update({e: s for e, s in bindings.items() if e})

    # What a unit sees

    def facts(self, unit: Unit) -> events.Facts:
        """The model from one unit's view, as events.next_hook wants it."""
        app = self.apps[unit.app]
        leader = app.lease.holder == unit.name
        return events.Facts(
            unit=unit.name,
            dying=unit.dying,
            leader=leader,
            config=self._config_version(app, unit),
            charm=app.charm.revision,
            relations={r.id: self._relation_facts(r, unit) for r in self.peers_of(unit.app)},
            secret_revisions=self.secrets.changed_for(unit.name, leader),
            obsolete=self.secrets.obsolete_for(unit.name, leader),
            status_updates=unit.status_updates,
        )

    def _relation_facts(self, relation: Relation, unit: Unit) -> events.RelationFacts:
        members = {u: relation.bag(u).version for u in relation.scope if u != unit.name}
        news = relation.app_bag.version if relation.app_bag.writer != unit.name else 0
        return events.RelationFacts(relation.endpoint, relation.app, members, news)

    def _config_version(self, app: Application, unit: Unit) -> str:
        """Juju runs config-changed for new settings, and for new addresses or bindings of the unit, too."""
        seen_addresses = {
            e: [[str(a) for a in d.addresses] for d in self.topology.bound(unit.machine, app.space(e))]
            for e in app.charm.endpoints
        }
        return repr((sorted(configs.effective(app.charm.options, app.settings).items()), seen_addresses))

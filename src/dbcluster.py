"""Flow 1, hop 2: the databags of the peer relation `db-cluster` -> typed values, and back.

A unit bag holds what only that unit knows; the app bag holds what the leader decided (topology.py). Nothing
here reads or writes Juju: `parse` takes what was read at the start of the hook, `dump` returns what is to be
written.

The bags' keys are contract C1's and C6's (`certificate-request` and `certificates`), and more: `rendered-digest`
beside `rendered` (two configurations of one number can then be told apart), `cluster-uuid` in the unit bag (what its
disk shows, so that no leader invents another), `certificate` there (a digest of the one it uses) and `units` in the app
bag (which unit an id belongs to, so that nothing relies on an id being a unit number). The management space adds
`management-subnets` to the unit bag and `management-space` to the app bag.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

import bindaddress
from certificates import Papers
from dbaccessor import conf

ENDPOINT = "db-cluster"
SCHEMA = 1
SERVES_WITH = "serves-with"


class BadBag(ValueError):
    """A databag that this version cannot read. The message is one sentence that says what to do."""


class Epoch(msgspec.Struct, frozen=True):
    number: int
    tag: str


class DbState(msgspec.Struct, frozen=True, rename="kebab"):
    """What a member says of its cluster, as controllerd hands it out."""

    cluster_uuid: str
    epoch: Epoch
    controller_id: str
    role: str
    last_index: int
    voters: tuple[str, ...]
    last_term: int = 0

    @classmethod
    def parse(cls, text: str) -> DbState | None:
        """Return the state, or None for "" and for anything else: advice is never worth a failed hook."""
        try:
            state = msgspec.json.decode(text, type=cls) if text else None
        except msgspec.DecodeError:
            return None
        return state if state and state.cluster_uuid else None


@dataclass(frozen=True)
class UnitBag:
    """What one unit publishes of itself. An empty text is an absent key."""

    controller_id: str = ""
    address: str = ""
    rendered: int = 0
    digest: str = ""
    cluster_uuid: str = ""
    db_state: str = ""
    request: str = ""
    certificate: str = ""
    # Its subnets in the management space; None: it has not said, so it may be of a version that knows of none.
    management: tuple[str, ...] | None = None
    # Digests: of the code that its machine has, and of that which its controllerd was seen serving with.
    code: str = ""
    serves_with: str = ""
    schema: int = SCHEMA

    @classmethod
    def parse(cls, raw: Mapping[str, str]) -> UnitBag:
        """Return the bag. What is missing or makes no sense is as if it had not been published."""
        ip = bindaddress.parse(raw.get("db-bind-address", ""))
        return cls(
            controller_id=raw.get("agent-id", ""),
            address="" if ip is None else str(ip),
            rendered=_number(raw.get("rendered")),
            digest=raw.get("rendered-digest", ""),
            cluster_uuid=raw.get("cluster-uuid", ""),
            db_state=raw.get("db-state", ""),
            request=raw.get("certificate-request", ""),
            certificate=raw.get("certificate", ""),
            management=_subnets(raw.get("management-subnets", "")),
            code=raw.get("code", ""),
            serves_with=raw.get(SERVES_WITH, ""),
            schema=_number(raw.get("schema")) or SCHEMA,
        )

    def dump(self) -> dict[str, str]:
        return {
            "schema": str(self.schema),
            "agent-id": self.controller_id,
            "db-bind-address": self.address,
            "rendered": str(self.rendered) if self.rendered else "",
            "rendered-digest": self.digest,
            "cluster-uuid": self.cluster_uuid,
            "db-state": self.db_state,
            "certificate-request": self.request,
            "certificate": self.certificate,
            "management-subnets": "" if self.management is None else json.dumps(self.management),
            "code": self.code,
            SERVES_WITH: self.serves_with,
        }


@dataclass(frozen=True)
class AppBag:
    """What the leader published: all of a controller.conf but for what belongs to one controller alone."""

    generation: int = 0
    cluster_uuid: str = ""
    bootstrap_controller: str = ""
    bootstrapped: bool = False
    addresses: Mapping[str, str] = field(default_factory=dict[str, str])
    unresolved: tuple[str, ...] = ()
    departed: tuple[str, ...] = ()
    units: Mapping[str, str] = field(default_factory=dict[str, str])
    db_state: str = ""
    papers: Papers = field(default_factory=Papers)
    management_space: conf.ManagementSpace | None = None

    @classmethod
    def parse(cls, raw: Mapping[str, str]) -> AppBag:
        """Return the bag; an empty one has generation 0. Raises BadBag for one that cannot be read."""
        if _number(raw.get("schema")) > SCHEMA:
            raise BadBag(f"the leader writes schema {raw['schema']}, this unit knows {SCHEMA}: refresh this unit")
        try:
            return cls(
                generation=_number(raw.get("generation")),
                cluster_uuid=raw.get("cluster-uuid", ""),
                bootstrap_controller=raw.get("bootstrap-controller", ""),
                bootstrapped=raw.get("bootstrapped") == "true",
                addresses=msgspec.json.decode(raw.get("db-bind-addresses") or "{}", type=dict[str, str]),
                unresolved=msgspec.json.decode(raw.get("db-unresolved") or "[]", type=tuple[str, ...]),
                departed=msgspec.json.decode(raw.get("departed") or "[]", type=tuple[str, ...]),
                units=msgspec.json.decode(raw.get("units") or "{}", type=dict[str, str]),
                db_state=raw.get("db-state", ""),
                papers=Papers.parse(raw.get("certificates", "")),
                management_space=msgspec.json.decode(
                    raw.get("management-space") or "null", type=conf.ManagementSpace | None
                ),
            )
        except msgspec.DecodeError as error:
            raise BadBag(f"the application databag of {ENDPOINT} cannot be read: {error}") from error

    def dump(self) -> dict[str, str]:
        return {
            "schema": str(SCHEMA),
            "generation": str(self.generation),
            "cluster-uuid": self.cluster_uuid,
            "bootstrap-controller": self.bootstrap_controller,
            "bootstrapped": "true" if self.bootstrapped else "false",
            "db-bind-addresses": json.dumps(dict(self.addresses), sort_keys=True),
            "db-unresolved": json.dumps(sorted(self.unresolved)),
            "departed": json.dumps(sorted(self.departed)),
            "units": json.dumps(dict(self.units), sort_keys=True),
            "db-state": self.db_state,
            "certificates": self.papers.dump(),
            "management-space": ""
            if self.management_space is None
            else json.dumps(msgspec.to_builtins(self.management_space), sort_keys=True),
        }

    def conf(
        self, controller_id: str, *, network_latency_ms: int, extra: Mapping[str, object], application: str = ""
    ) -> conf.ControllerConf:
        """Return the controller configuration that one controller is to render from this bag."""
        newest = DbState.parse(self.db_state)
        return conf.ControllerConf(
            controller_id=controller_id,
            generation=self.generation,
            cluster_uuid=self.cluster_uuid,
            bootstrap_controller=self.bootstrap_controller,
            bootstrapped=self.bootstrapped,
            db_bind_addresses=dict(self.addresses),
            db_unresolved=tuple(self.unresolved),
            departed=tuple(self.departed),
            db_voters=newest.voters if newest else (),
            db_last_index=newest.last_index if newest else 0,
            db_last_term=newest.last_term if newest else 0,
            db_epoch=newest.epoch.number if newest else 0,
            network_latency_ms=network_latency_ms,
            management_space=self.management_space,
            application=application,
            extra=dict(extra),
        )

    def digest(self) -> str:
        return digest(self.conf("-", network_latency_ms=10, extra={}))


def digest(configuration: conf.ControllerConf) -> str:
    """Return a short text that differs when what the generation numbers differs."""
    text = json.dumps(configuration.covered(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def assigned_id(unit: str) -> str:
    """Return the id a unit's controller is given. Juju never uses a unit number twice, so neither do we."""
    return unit.rpartition("/")[2]


def _subnets(text: str) -> tuple[str, ...] | None:
    try:
        return msgspec.json.decode(text or "null", type=tuple[str, ...] | None)
    except msgspec.DecodeError:
        return None


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0

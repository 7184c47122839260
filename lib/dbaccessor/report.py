"""What the worker tells the world: the status document, the engine's report, and the db-state for the charm.

The document's shape is described in docs/reference/status.md; `hactl`, the charm and the tests read it. The report has
Juju's names where Juju has one (docs/reference/metrics.md).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from dbaccessor.conf import ControllerConf
from dbaccessor.dqlite import cluster
from dbaccessor.dqlite.connection import Member, Role
from dbaccessor.identity import DbState, Identity, controller_of, replace_file
from dbaccessor.preamble import MemberFact

log = logging.getLogger(__name__)

_ROLES = {str(role): role for role in Role}

# In the state directory: whoever stops is gone before anybody can ask how its handover went.
LAST_HANDOVER = "last-handover.json"


@dataclass(frozen=True)
class Waiting:
    """One wait: its topic, since when (seconds since 1970), why, and what would end it."""

    topic: str
    since: float
    reason: str
    remedy: str


class Handover(msgspec.Struct, frozen=True):
    """How giving leadership and voting right away ended: "done", "kept-vote" (nobody could take it) or "too-late"."""

    result: str
    seconds: float
    at: str = ""


class Accounts:
    """The worker's state and its waits, each with its reason and since when; and what happened to it so far."""

    def __init__(self, state_dir: Path) -> None:
        self._state = "starting"
        self._reason = "just started"
        self._since = time.time()
        self._waits: dict[str, Waiting] = {}
        self._leader = ""
        self._leader_changes = 0
        self._not_serving_since: float | None = time.monotonic()
        self._ready_seconds: float | None = None
        self._handover_file = state_dir / LAST_HANDOVER
        self._handover = self._load_handover()

    @property
    def state(self) -> str:
        return self._state

    def set_state(self, state: str, reason: str) -> None:
        if state != self._state:
            log.info("state %s: %s", state, reason)
            self._since = time.time()
        self._state, self._reason = state, reason
        if state != "serving":
            self._not_serving_since = self._not_serving_since or time.monotonic()
        elif self._not_serving_since is not None:
            self._ready_seconds = time.monotonic() - self._not_serving_since
            self._not_serving_since = None

    def heed(self, leader: str) -> None:
        """Take note of the leader that is known now ("": none). The same one after a gap is no change."""
        if leader and leader != self._leader:
            self._leader_changes += bool(self._leader)
            self._leader = leader

    def handed_over(self, handover: Handover | None) -> None:
        """Take note of how a handover ended, and keep it for the next process. None: there was none."""
        if handover is None:
            return
        self._handover = msgspec.structs.replace(handover, at=stamp(time.time()))
        try:
            replace_file(self._handover_file, msgspec.json.encode(self._handover) + b"\n")
        except OSError as error:
            log.warning("how the handover ended cannot be kept: %s", error)

    def _load_handover(self) -> Handover | None:
        try:
            return msgspec.json.decode(self._handover_file.read_bytes(), type=Handover)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            log.warning("%s cannot be read: %s", self._handover_file, error)
            return None

    def show(self, waits: Iterable[tuple[str, str, str]]) -> None:
        """Show exactly these waits: (topic, reason, remedy). One topic keeps its beginning, whatever it says now."""
        fresh: dict[str, Waiting] = {}
        for topic, reason, remedy in waits:
            before = self._waits.get(topic)
            log.log(logging.INFO if before is None else logging.DEBUG, "waiting (%s): %s", topic, reason)
            fresh[topic] = Waiting(topic, before.since if before is not None else time.time(), reason, remedy)
        self._waits = fresh

    def section(self) -> dict[str, Any]:
        waits = [
            {"for": w.topic, "since": stamp(w.since), "reason": w.reason, "remedy": w.remedy}
            for w in self._waits.values()
        ]
        return {
            "state": self._state,
            "reason": self._reason,
            "since": stamp(self._since),
            "waits": waits,
            "leader-changes": self._leader_changes,
            "ready-seconds": None if self._ready_seconds is None else round(self._ready_seconds, 3),
            "last-handover": None if self._handover is None else msgspec.to_builtins(self._handover),
        }


def members_of(facts: Iterable[MemberFact]) -> tuple[Member, ...]:
    """Turn what came over the wire into the cluster module's members; an unknown role counts as spare."""
    return tuple(Member(f.dqlite_id, f.name, _ROLES.get(f.role, Role.SPARE)) for f in facts)


def cluster_section(
    identity: Identity,
    members: tuple[Member, ...],
    leader: str,
    alive: frozenset[int],
    dropped: Iterable[str],
    addresses: Mapping[str, str],
    port: int,
    running: bool,
    ailing: Mapping[int, str],
) -> dict[str, Any]:
    """Return the `cluster` part of the status document.

    `alive` are Dqlite ids, `dropped` raft names; `ailing` says by Dqlite id what keeps one from doing its part.
    """
    ids = alive & {m.dqlite_id for m in members}
    silent = sorted(controller_of(m.name) for m in members if m.dqlite_id not in ids)
    off_target = cluster.off_target(members, ids) if leader else None
    if not running:
        health, advice = "down", "the database node of this controller does not run; the waits say why"
    elif not leader:
        health, advice = "no-quorum", f"revive controller {', '.join(silent)}" if silent else "wait for the election"
    elif silent:
        health, advice = "degraded", f"revive controller {', '.join(silent)}, or remove its unit if it is gone for good"
    elif ailing:
        told = sorted(
            f"controller {controller_of(m.name)}: {ailing[m.dqlite_id]}" for m in members if m.dqlite_id in ailing
        )
        health, advice = "degraded", "; ".join(told)
    elif off_target is not None:
        health, advice = "degraded", f"roles are being settled: {off_target}"
    else:
        health, advice = "healthy", "" if len(members) > 2 else "not HA: may lose 0; add units until there are three"
    may_lose = cluster.may_lose(members, ids - ailing.keys()) if leader else 0
    return {
        "uuid": identity.cluster_uuid,
        "epoch": {"number": identity.epoch.number, "tag": identity.epoch.tag},
        "leader": controller_of(leader) if leader else None,
        "health": health,
        "ha": bool(leader) and may_lose > 0,
        "may-lose": may_lose,
        "advice": advice,
        "dropped": sorted(controller_of(n) for n in dropped),
        "log-ended-at": identity.log_ended_at,
        "members": [
            {
                "controller-id": controller_of(m.name),
                "dqlite-id": m.dqlite_id,
                "name": m.name,
                "address": _with_port(addresses.get(controller_of(m.name), ""), port),
                "role": str(m.role),
                "leader": m.name == leader,
                "answers": m.dqlite_id in ids,
                "here": m.dqlite_id == identity.dqlite_id,
                "problem": ailing.get(m.dqlite_id, ""),
            }
            for m in sorted(members, key=lambda m: controller_of(m.name))
        ],
    }


def conf_section(conf: ControllerConf | None, problem: str | None) -> dict[str, Any]:
    if conf is None:
        return {"generation": 0, "problem": problem, "db-bind-addresses": {}, "db-unresolved": [], "departed": []}
    return {
        "generation": conf.generation,
        "problem": problem,
        "db-bind-addresses": conf.db_bind_addresses,
        "db-unresolved": list(conf.db_unresolved),
        "departed": list(conf.departed),
    }


def engine_report(status: Mapping[str, Any], databases: Mapping[str, Any]) -> dict[str, Any]:
    """Return the worker's part of an engine report: the status document in short, and each database's section."""
    section = status["cluster"] or {"members": (), "leader": None, "may-lose": 0, "epoch": None}
    members = section["members"]
    leader = next((m for m in members if m["leader"]), None)
    own = next((m for m in members if m["here"]), None)
    return {
        "leader": leader["address"] if leader is not None else "",
        "leader-id": str(leader["dqlite-id"]) if leader is not None else "",
        "leader-role": leader["role"] if leader is not None else "",
        "leader-changes": status["leader-changes"],
        "state": status["state"],
        "reason": status["reason"],
        "role": own["role"] if own is not None else "",
        "members": {str(role): sum(m["role"] == str(role) for m in members) for role in Role},
        # As the metric: -1 tells a lost quorum from one that has none to spare.
        "quorum-margin": section["may-lose"] if section["leader"] is not None else -1,
        "ready-seconds": status["ready-seconds"],
        "last-handover": status["last-handover"],
        "epoch": section["epoch"],
        "generation": status["conf"]["generation"],
        "databases": dict(databases),
    }


def db_state(
    identity: Identity, members: tuple[Member, ...], last_index: int, before: DbState | None
) -> DbState | None:
    """Return what the charm is to know, or None while this node is no member.

    The same cluster shape gives the same value, last index included: otherwise every hook would cause another.
    """
    own = next((m for m in members if m.dqlite_id == identity.dqlite_id), None)
    if own is None or identity.state != "member":
        return None
    new = DbState(
        cluster_uuid=identity.cluster_uuid,
        epoch=identity.epoch,
        controller_id=identity.controller_id,
        role=str(own.role),
        voters=tuple(sorted(controller_of(m.name) for m in members if m.role == Role.VOTER)),
        last_index=last_index,
    )
    return before if before is not None and new.same_cluster_shape(before) else new


def stamp(seconds: float) -> str:
    """Return this moment (seconds since 1970) as ISO 8601 in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _with_port(ip: str, port: int) -> str:
    if not ip:
        return ""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"

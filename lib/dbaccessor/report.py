"""What the worker tells the world: the status document, and the db-state for the charm.

The document's shape is described in docs/reference/status.md; `hactl`, the charm and the tests read it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dbaccessor.conf import ControllerConf
from dbaccessor.dqlite import cluster
from dbaccessor.dqlite.connection import Member, Role
from dbaccessor.identity import DbState, Identity, controller_of
from dbaccessor.preamble import MemberFact

log = logging.getLogger(__name__)

_ROLES = {str(role): role for role in Role}


@dataclass(frozen=True)
class Waiting:
    """One wait: its topic, since when (seconds since 1970), why, and what would end it."""

    topic: str
    since: float
    reason: str
    remedy: str


class Accounts:
    """The worker's state and its waits, each with its reason and since when."""

    def __init__(self) -> None:
        self._state = "starting"
        self._reason = "just started"
        self._since = time.time()
        self._waits: dict[str, Waiting] = {}

    @property
    def state(self) -> str:
        return self._state

    def set_state(self, state: str, reason: str) -> None:
        if state != self._state:
            log.info("state %s: %s", state, reason)
            self._since = time.time()
        self._state, self._reason = state, reason

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
        return {"state": self._state, "reason": self._reason, "since": stamp(self._since), "waits": waits}


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
) -> dict[str, Any]:
    """Return the `cluster` part of the status document. `alive` are Dqlite ids, `dropped` raft names."""
    ids = alive & {m.dqlite_id for m in members}
    silent = sorted(controller_of(m.name) for m in members if m.dqlite_id not in ids)
    off_target = cluster.off_target(members, ids) if leader else None
    if not running:
        health, advice = "down", "the database node of this controller does not run; the waits say why"
    elif not leader:
        health, advice = "no-quorum", f"revive controller {', '.join(silent)}" if silent else "wait for the election"
    elif silent:
        health, advice = "degraded", f"revive controller {', '.join(silent)}, or remove its unit if it is gone for good"
    elif off_target is not None:
        health, advice = "degraded", f"roles are being settled: {off_target}"
    else:
        health, advice = "healthy", "" if len(members) > 2 else "not HA: add units until there are three"
    may_lose = cluster.may_lose(members, ids) if leader else 0
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

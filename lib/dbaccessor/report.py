"""What the worker tells the world: the status document, the engine's report, and the db-state for the charm. Pure.

The document's shape is described in docs/reference/status.md; `hactl`, the charm and the tests read it. The report has
Juju's names where Juju has one (docs/reference/metrics.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dbaccessor.conf import ControllerConf
from dbaccessor.dqlite import cluster
from dbaccessor.dqlite.connection import Member, Role
from dbaccessor.identity import DbState, Identity, controller_of
from dbaccessor.preamble import MemberFact

_ROLES = {str(role): role for role in Role}


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
        "log-frames": status["log-frames"],
        "epoch": section["epoch"],
        "generation": status["conf"]["generation"],
        "databases": dict(databases),
    }


def db_state(identity: Identity, members: tuple[Member, ...], before: DbState | None) -> DbState | None:
    """Return what the charm is to know but for the last entry, or None while this node is no member.

    The same cluster shape gives the same value, last entry included: otherwise every hook would cause another.
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
        last_index=0,
    )
    return before if before is not None and new.same_cluster_shape(before) else new


def _with_port(ip: str, port: int) -> str:
    if not ip:
        return ""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"

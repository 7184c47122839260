"""Flow 1, seen from outside: what controllerd says of itself -> one short line in `juju status`.

Pure. Blocked only where a person must act, and then the line names what to do.
"""

from __future__ import annotations

from collections import Counter

import ops

from controlsocket import Cluster, Status


def of_node(status: Status | None) -> ops.StatusBase:
    """Return the unit's status as far as its node is concerned."""
    if status is None:
        return ops.WaitingStatus("controllerd does not answer yet")
    cluster = status.cluster
    if status.serves and cluster is not None:
        return ops.ActiveStatus(_serving(status, cluster))
    if cluster is not None and cluster.health == "no-quorum" and cluster.advice:
        return ops.BlockedStatus(f"no quorum: {cluster.advice}")
    if status.conf is not None and status.conf.problem:
        return ops.WaitingStatus(status.conf.problem)
    for wait in status.waits:
        if wait.reason:
            return ops.WaitingStatus(f"{wait.reason}; {wait.remedy}" if wait.remedy else wait.reason)
    return ops.WaitingStatus(status.reason or f"controllerd is {status.state or 'starting'}")


def of_cluster(status: Status | None, hole: str = "") -> ops.StatusBase:
    """Return the application's status: the cluster in a few words, as the leader unit's node sees it.

    `hole` says what keeps the leader from publishing a new map; it is worth a look when it stays.
    """
    waiting = f"; {hole}" if hole else ""
    if status is None:
        return ops.WaitingStatus(f"the leader's controllerd does not answer yet{waiting}")
    if status.cluster is None:
        return ops.WaitingStatus(f"no cluster yet{waiting}")
    text = summary(status.cluster) + waiting
    if status.cluster.health in ("no-quorum", "down"):
        return ops.BlockedStatus(text)
    return ops.ActiveStatus(text)


def summary(cluster: Cluster) -> str:
    """Return the cluster in one line: members by role, what may be lost, who is silent, what to do."""
    roles = Counter(member.role for member in cluster.members)
    named = [_counted(roles[role], role) for role in (*_ROLES, *sorted(set(roles) - set(_ROLES))) if roles[role]]
    parts = [", ".join(named)]
    if cluster.ha:
        parts.append(f"may lose {cluster.may_lose}")
    elif not cluster.advice.startswith("not HA"):
        parts.append("not HA")
    if cluster.health not in ("", "healthy"):
        silent = [m.controller_id for m in cluster.members if not m.answers]
        parts.append(f"{cluster.health}: {', '.join(silent)} silent" if silent else cluster.health)
    if cluster.dropped:
        parts.append(f"dropped {', '.join(cluster.dropped)}: keep their machines off")
    if cluster.advice:
        parts.append(cluster.advice)
    return "; ".join(parts)


def action_results(status: Status) -> dict[str, str]:
    """Return the results of get-cluster: flat keys for people, and all of it as JSON for programs."""
    cluster = status.cluster or Cluster(health="down")
    roles = Counter(member.role for member in cluster.members)
    return {
        "state": status.state,
        "health": cluster.health,
        "ha": "true" if cluster.ha else "false",
        "may-lose": str(cluster.may_lose),
        "leader": cluster.leader or "",
        "members": str(len(cluster.members)),
        "voters": str(roles["voter"]),
        "stand-bys": str(roles["stand-by"]),
        "spares": str(roles["spare"]),
        "cluster-uuid": cluster.uuid,
        "epoch": str(cluster.epoch.number),
        "generation": str(status.conf.generation if status.conf else 0),
        "advice": cluster.advice,
        "reason": status.reason,
        "address-notes": "; ".join(status.address_notes),
        "json": status.raw,
    }


_ROLES = ("voter", "stand-by", "spare")


def _serving(status: Status, cluster: Cluster) -> str:
    here = next((m for m in cluster.members if m.here), None)
    role = "member" if here is None else "leader" if here.leader else here.role
    answering = sum(m.answers for m in cluster.members)
    text = f"{role}, {answering}/{len(cluster.members)} nodes"
    return text if status.dqlite_proven else f"{text}; libdqlite {status.dqlite_version} is unproven"


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"

"""No flow: whose turn it is to restart controllerd after a refresh. Pure.

Juju refreshes all units at about the same moment. If all of them restarted then, there would be no quorum and no API
until they are back, and a version that does not start would take everything down at once. So the members restart one
by one, in the order of their controller ids, and each shows in its unit bag which code it serves with.

* My turn is when every member before me serves with the code that is due here. One that has this code and does not
  serve with it (yet) is waited for as long as that lasts: nothing is lost by waiting, the old code serves. One that
  says nothing of this code (its agent is down, or its charm is older) is waited for until the deadline.
* In my turn I wait for min(3, alive) voters that answer, of which a quorum is left without me; until the deadline.
* Nobody waits where nothing can be lost: outside of a cluster, and when controllerd or its quorum is gone for longer
  than an election or another member's restart takes, because then a restart may be the cure.

The limit of it: what two units find out at the same moment, after the deadline or without a quorum, both act on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from controlsocket import Cluster, Status
from dbcluster import UnitBag

# Since the refresh wrote down that a restart is due.
DEADLINE_SECONDS = 600.0
# Longer than an election, and than another member takes to restart.
UNWELL_SECONDS = 10.0
# How long one hook watches what may change within seconds. More than UNWELL_SECONDS, which it has to see pass.
PATIENCE_SECONDS = 15.0
_VOTERS = 3


@dataclass(frozen=True)
class View:
    """`peers` are the other units that stay, `unwell_seconds` how long there was no answer, or no leader in it."""

    controller_id: str
    code: str
    due_seconds: float
    status: Status | None
    unwell_seconds: float = 0.0
    peers: Mapping[str, UnitBag] = field(default_factory=dict[str, UnitBag])

    @property
    def expired(self) -> bool:
        # A clock that was set back below the beginning says nothing any more.
        return not 0 <= self.due_seconds < DEADLINE_SECONDS


@dataclass(frozen=True)
class Restart:
    reason: str


@dataclass(frozen=True)
class Wait:
    """`soon`: it may change within seconds, and no other unit's hook has to end for that."""

    reason: str
    soon: bool = False


def decide(view: View) -> Restart | Wait:
    """Return whether this unit's controllerd is to be restarted now, and why."""
    cluster = view.status.cluster if view.status is not None else None
    if view.status is not None and cluster is None:
        return Restart("it is in no cluster")
    if cluster is None or cluster.leader is None:
        lacking = "no leader" if cluster is not None else "no answer from controllerd"
        if view.unwell_seconds >= UNWELL_SECONDS:
            return Restart(f"{lacking}, so a restart may be the cure")
        return Wait(lacking, soon=True)
    if not any(member.here for member in cluster.members):
        return Restart("it is no member of the cluster")
    if before := _before(view, cluster):
        return Wait(f"{before} first")
    if problem := _without_margin(cluster):
        return Restart(f"{problem}, and it was waited for long enough") if view.expired else Wait(problem, soon=True)
    return Restart("it is its turn")


def _before(view: View, cluster: Cluster) -> str:
    """Return the unit whose turn is before this one's; "" when there is none."""
    members = {member.controller_id for member in cluster.members}
    ranked = sorted(
        (_rank(bag.controller_id), unit) for unit, bag in view.peers.items() if bag.controller_id in members
    )
    for rank, unit in ranked:
        bag = view.peers[unit]
        if rank > _rank(view.controller_id) or (bag.code == view.code == bag.serves_with):
            continue
        if bag.code == view.code or not view.expired:
            return unit
    return ""


def _without_margin(cluster: Cluster) -> str:
    """Say what would be lost by stopping this member; "": nothing, or what two members cannot help losing."""
    if len(cluster.members) <= 2:
        return ""
    voters = [member for member in cluster.members if member.role == "voter"]
    answering = sum(voter.answers for voter in voters)
    wanted = min(_VOTERS, sum(member.answers for member in cluster.members))
    if answering < wanted:
        return f"{answering} of {wanted} voters"
    if sum(voter.answers for voter in voters if not voter.here) <= len(voters) // 2:
        return "the quorum would be lost"
    return ""


def _rank(controller_id: str) -> tuple[int, str]:
    """Order ids as numbers, and any other text somehow, but the same on every unit."""
    return len(controller_id), controller_id

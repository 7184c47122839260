"""An operator's word instead of a witness: may this node go on alone although the configuration names others? Pure.

Quorum lost with more than one controller left is never healed by itself, since whoever is silent may live behind a
partition. `rebuild-cluster` is for that moment: it makes the chosen node the only member, in a new epoch; the others
that live meet that epoch, put their data aside and join again.

What it never does, forced or not: act while anybody follows a leader, on a node that is no voter, or on one whose log
is older than that of another that answers, whether that one's node runs or not: what only stopped members hold may
have been acknowledged. Force replaces one thing only: knowing that the silent ones are off.
"""

from __future__ import annotations

from dbaccessor.actions import Reconfigure
from dbaccessor.decide import RECOVER, rival_of
from dbaccessor.dqlite import cluster
from dbaccessor.dqlite.nodedir import LastEntry
from dbaccessor.identity import Identity, controller_of
from dbaccessor.situation import Peer, View


def plan(view: View, voters: frozenset[str], *, force: bool) -> Reconfigure | str:
    """Return the action, or one sentence that says why not and what to do instead.

    `voters` are the raft names of the voters, by this node's own log.
    """
    identity, running = view.disk.identity, view.running
    if identity is None or identity.state != "member" or identity.superseded is not None:
        return "this node is no member of a cluster: run it on a unit that is"
    if running is None or not running.answers:
        return f"the node of this controller does not run; hactl status says why, {RECOVER} works without it"
    if running.leader:
        return f"a quorum lives: the leader is {running.leader}"
    if running.silent_seconds < view.hold_seconds:
        return f"no leader for {running.silent_seconds:.1f} s only; ask again after {view.hold_seconds:g} s"
    holders = [p for p in view.peers if p.answers and p.same_cluster and p.holds_data]
    return (
        _somebody_follows(holders)
        or _epochs_differ(identity, holders)
        or _no_voter(running.role)
        or _is_behind(view, identity, holders)
        or _voters_suffice(voters, identity, holders)
        or ("" if force else _silent_majority(view, voters))
        or _action(view, identity, force)
    )


def _somebody_follows(holders: list[Peer]) -> str:
    for peer in holders:
        if peer.leader:
            return f"a quorum lives: controller {peer.controller_id} follows {peer.leader}; mend the path to it"
    return ""


def _epochs_differ(identity: Identity, holders: list[Peer]) -> str:
    for peer in holders:
        if rival_of(identity.epoch, peer.epoch):
            return f"controller {peer.controller_id} is in epoch {peer.epoch}, this in {identity.epoch}: use {RECOVER}"
    return ""


def _no_voter(role: str) -> str:
    return "" if role == "voter" else f"this node is a {role or 'node of unknown role'}: choose one that was a voter"


def _is_behind(view: View, identity: Identity, holders: list[Peer]) -> str:
    assert view.running is not None
    mine = view.running.last
    same_epoch = [p for p in holders if p.epoch == identity.epoch and p.superseded is None]
    for peer in same_epoch:
        if not peer.last.index and not peer.empty:
            return _unknown_end(peer.controller_id, peer.running)
    newest = max(same_epoch, key=lambda p: (p.last, p.running), default=None)
    if newest is not None and newest.last > mine:
        return _newer_log(newest, mine)
    return ""


def _unknown_end(other: str, running: bool) -> str:
    again = "ask again in a few seconds"
    if running:
        return f"controller {other} has not told yet where its log ends; {again}"
    return (
        f"controller {other} has data of this cluster, its node does not run, and it has not told where its log ends:"
        f" {again}; if this stays, get that node to run (hactl status there says why it does not), or, to go on without"
        f" what only it has, stop controllerd there and do it with force"
    )


def _newer_log(newest: Peer, mine: LastEntry) -> str:
    other = newest.controller_id
    sentence = f"controller {other} has a newer log ({newest.last}; here {mine})"
    if newest.running:
        return f"{sentence}: run it on the unit of controller {other}"
    return (
        f"{sentence}, and its node does not run: get that node to run (hactl status there says why it does not), or use"
        f" {RECOVER} with its directory"
    )


def _voters_suffice(voters: frozenset[str], identity: Identity, holders: list[Peer]) -> str:
    """Enough voters answer for a leader: an election is under way, or something else is wrong."""
    alive = {p.controller_id for p in holders if p.running and p.epoch == identity.epoch}
    answering = {v for v in voters if v == identity.name or controller_of(v) in alive}
    if not voters or len(answering) < cluster.quorum(len(voters)):
        return ""
    return f"{len(answering)} of {len(voters)} voters answer, which is a quorum: they elect a leader by themselves"


def _silent_majority(view: View, voters: frozenset[str]) -> str:
    """Whether the voters that do not answer could be a quorum of their own, out of sight."""
    departed = view.conf.departed if view.conf is not None else ()
    answering = {p.controller_id for p in view.peers if p.answers}
    own = view.disk.identity.controller_id if view.disk.identity is not None else ""
    others = {controller_of(v) for v in voters} - {own}
    silent = sorted(others - answering - set(departed))
    if not silent or len(silent) < cluster.quorum(len(voters)):
        return ""
    return (
        f"controllers {', '.join(silent)} do not answer, and together they would be a quorum: revive one of them, or,"
        f" if you know that all of them are off, do it with force"
    )


def _action(view: View, identity: Identity, force: bool) -> Reconfigure:
    others = tuple(n for n in view.members if n != identity.name and controller_of(n) != identity.controller_id)
    word = "by force, on the operator's word that those who are silent are off" if force else "on the operator's word"
    return Reconfigure(others, f"rebuild-cluster {word}")

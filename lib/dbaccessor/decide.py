"""Flow 1, hop 4 to 5: the configuration, the disk, the node and the peers -> one Action with its reason. Pure.

`decide` is the whole policy of the dbaccessor worker. It looks at one frozen `View` and returns one frozen `Action`;
it reads no file, clock or socket. Whatever it does not understand is a Wait, never a Reconfigure.

Three rules outrank everything else:

1. *Bootstrap* happens only where the configuration names this controller for it, no cluster was seen yet, and this
   controller has neither identity nor data.
2. *Reconfigure* (go on alone) needs three witnesses at once: the configuration, the silence of every other member, and
   nothing that shows this node to be behind. See `_go_on_alone`.
3. Data that is not surely this controller's, of this cluster and of this epoch, is put aside and never started.
"""

from __future__ import annotations

from dbaccessor.actions import Action, Bootstrap, Forget, Join, PutAside, Reconfigure, Serve, Start, Supersede, Wait
from dbaccessor.conf import ControllerConf
from dbaccessor.dqlite import nodedir
from dbaccessor.dqlite.nodedir import LastEntry
from dbaccessor.identity import Epoch, Identity, controller_of
from dbaccessor.situation import Peer, Running, View

RECOVER = "hactl recover"


def decide(view: View) -> Action:
    """Return what to do now. Total: there is an Action for every View."""
    conf = view.conf
    if conf is None:
        if view.running is not None:
            return Serve("keeps serving; there is no readable controller configuration file")
        reason = view.conf_problem or "there is no controller configuration file yet"
        return Wait("bind-address", reason, "the charm writes it; see juju status")
    identity = view.disk.identity
    if identity is not None:
        if identity.state == "left" and identity.controller_id == conf.controller_id and _same_cluster(identity, conf):
            # Whatever became of its data and its cluster since: given up, its identity would join anew.
            return Wait("left", f"{identity.name} left the cluster for good", "remove this unit")
        verdict = _whose_data(view, conf, identity)
        if verdict is not None:
            return verdict
    elif view.disk.has_files:
        return PutAside("data without an identity file: it cannot be told whose it is")
    if view.running is not None and identity is not None:
        return _running(view, conf, identity, view.running)
    if identity is not None:
        return _stopped(view, conf, identity)
    return _nothing_here(view, conf)


def _whose_data(view: View, conf: ControllerConf, identity: Identity) -> Action | None:
    """Rule 3: whether the data on disk may be used. None means yes."""
    disk = view.disk
    newer = _newer_epoch(view, identity)
    if identity.superseded is None and newer is not None:
        return Supersede(
            newer, f"epoch {newer} exists; this node's data is of epoch {identity.epoch} and must not go on"
        )
    if identity.superseded is not None:
        return PutAside(f"data of epoch {identity.epoch} was superseded by epoch {identity.superseded}")
    if view.running is not None:
        if identity.controller_id != conf.controller_id:
            # Nothing that it says of "the others" can be trusted: one of them would be taken for this controller.
            return Wait(
                "configuration",
                f"the configuration is controller {conf.controller_id}'s, this node is controller"
                f" {identity.controller_id}'s",
                f"write controller {identity.controller_id}'s; see juju status",
            )
        if not _same_cluster(identity, conf):
            return Wait(
                "configuration",
                f"the configuration speaks of cluster {conf.cluster_uuid}, this node serves {identity.cluster_uuid}",
                f"if the other cluster is meant, stop controllerd and use {RECOVER}",
            )
        return None
    if identity.controller_id != conf.controller_id:
        return PutAside(f"data of controller {identity.controller_id}; this is controller {conf.controller_id}")
    if not _same_cluster(identity, conf):
        return PutAside(f"data of cluster {identity.cluster_uuid}; the configuration says {conf.cluster_uuid}")
    if not disk.has_files or disk.marked_id is None:
        if disk.has_files:
            return PutAside("the data directory has lost its marker: parts of it were deleted")
        return Forget(f"the data of {identity.name} is gone; it joins under a new id")
    if disk.marked_id != identity.dqlite_id:
        return PutAside(
            f"the data directory belongs to Dqlite id {disk.marked_id}, the identity says {identity.dqlite_id}"
        )
    if not nodedir.same_directory(identity.fingerprint, disk.fingerprint):
        return PutAside("the data directory is a copy or was restored from one; its log may be old")
    return None


def _same_cluster(identity: Identity, conf: ControllerConf) -> bool:
    """Whether the configuration names no other cluster than this identity's."""
    return conf.cluster_uuid in ("", identity.cluster_uuid)


def _newer_epoch(view: View, identity: Identity) -> Epoch | None:
    heard = [e for p in view.peers if p.answers and p.same_cluster for e in (p.epoch, p.superseded)]
    heard.append(view.heard_epoch)
    newer = [e for e in heard if e is not None and e.number > identity.epoch.number]
    return max(newer, key=lambda e: e.number, default=None)


def _stopped(view: View, conf: ControllerConf, identity: Identity) -> Action:
    """The data is ours and good; the node does not run yet."""
    if conf.own_address is None:
        return _no_address(conf)
    if not view.peers_asked:
        return Wait("peers", "asking the other members whether a newer epoch exists")
    if view.disk.damage:
        if any(p.leader and p.epoch == identity.epoch for p in _holders(view)):
            return PutAside(f"the node cannot start on its data ({view.disk.damage}); the others have a leader")
        remedy = f"mend what it says, revive the other members, or use {RECOVER}"
        return Wait("data", f"the node cannot start on its data: {view.disk.damage}", remedy)
    if identity.state == "joining":
        joining = _join(view, conf, resuming=True)
        # It may be a voter already, whose vote the others need to get a leader at all.
        return joining if isinstance(joining, Join) else Start(f"starts to go on joining: {joining.reason}")
    return Start(f"starts on the data of {identity.name}, epoch {identity.epoch}")


def _nothing_here(view: View, conf: ControllerConf) -> Action:
    """Neither identity nor data."""
    me = conf.controller_id
    if conf.own_address is None:
        return _no_address(conf)
    if not conf.cluster_uuid or not conf.bootstrap_controller:
        return Wait("cluster-uuid", "the charm's leader has not committed yet which cluster this is and who founds it")
    if not view.peers_asked:
        return Wait("peers", "asking the other controllers whether the cluster exists")
    held = conf.cluster_uuid in view.disk.held
    if conf.bootstrap_controller == me and not conf.bootstrapped and not held and not _holders(view):
        return Bootstrap(f"the configuration names controller {me} to found cluster {conf.cluster_uuid}")
    if not conf.others:
        if conf.bootstrapped or held:
            return Wait(
                "data",
                f"cluster {conf.cluster_uuid} exists, this controller is its last one, and its data is not here",
                f"put the data back, or use {RECOVER}",
            )
        if conf.bootstrap_controller != me:
            return Wait(
                "join", f"controller {conf.bootstrap_controller} is to found the cluster and has no address yet"
            )
    return _join(view, conf, resuming=False)


def _join(view: View, conf: ControllerConf, *, resuming: bool) -> Join | Wait:
    members = [p for p in _holders(view) if p.superseded is None]
    if not members:
        silent = ", ".join(sorted(p.controller_id for p in view.peers if not p.answers))
        return Wait(
            "join",
            f"no member of cluster {conf.cluster_uuid} answers yet" + (f" (no answer from {silent})" if silent else ""),
            "the founding controller must run; see its status" if not conf.bootstrapped else "start one of the others",
        )
    newest = max((p.epoch for p in members if p.epoch is not None), key=lambda e: e.number, default=None)
    rivals = [p for p in members if rival_of(newest, p.epoch)]
    if rivals:
        return Wait(
            "epoch",
            f"the members are in two epochs of one number, {newest} and {rivals[0].epoch}",
            f"decide which data counts, with {RECOVER}",
        )
    for peer in sorted(members, key=lambda p: p.controller_id):
        if peer.leader and peer.epoch is not None and peer.epoch == newest:
            verb = "resumes joining" if resuming else "joins"
            return Join(peer.leader, f"{verb} cluster {conf.cluster_uuid} through its leader {peer.leader}")
    names = ", ".join(sorted(p.controller_id for p in members))
    return Wait(
        "join", f"controllers {names} hold the cluster's data but have no leader now", "revive the other members"
    )


def _running(view: View, conf: ControllerConf, identity: Identity, running: Running) -> Action:
    if identity.state == "joining":
        return _join(view, conf, resuming=True)
    if running.removed:
        if conf.controller_id in conf.departed or conf.own_address is None:
            return Wait("removed", f"{identity.name} was removed from the cluster", "remove this unit's service")
        return PutAside(
            f"{identity.name} was removed from the cluster; the configuration names controller "
            f"{conf.controller_id} still"
        )
    if running.leader:
        return Serve(f"{identity.name} is a member; the leader is {running.leader}", _rival_notice(view, identity))
    if not running.answers:
        return Wait("node", "the own node does not answer", "if this stays, see the log and restart controllerd")
    if running.silent_seconds < view.hold_seconds:
        return Serve(f"no leader for {running.silent_seconds:.1f} s; an election may be under way")
    return _go_on_alone(view, conf, identity, running)


def _go_on_alone(view: View, conf: ControllerConf, identity: Identity, running: Running) -> Action:
    """Rule 2. No leader for the hold: may this node go on as the only member? Each Wait is a missing witness."""
    since = f"no leader for {running.silent_seconds:.0f} s"
    others = tuple(n for n in view.members if n != identity.name and controller_of(n) != conf.controller_id)
    missing = (
        _somebody_knows_better(view, identity, since)
        or _configuration_names_others(view, conf, since)
        or _somebody_may_live(view, others, since)
        or _log_may_be_old(conf, identity, running, since)
    )
    if missing is not None:
        return missing
    if not others:
        return Wait("leader", f"{since}, though this node is the only member", "see the log and restart controllerd")
    reason = f"{since}; generation {conf.generation} names only this controller; {_list(others)} silent for the hold"
    return Reconfigure(others, reason)


def _somebody_knows_better(view: View, identity: Identity, since: str) -> Wait | None:
    """Whoever is in touch with a leader, or went another way at the same epoch, ends the matter."""
    for peer in _holders(view):
        if peer.leader:
            return Wait("leader", f"{since} here, but controller {peer.controller_id} follows {peer.leader}")
    return _rival_notice(view, identity)


def _rival_notice(view: View, identity: Identity) -> Wait | None:
    """Two epochs of one number are two clusters that went their ways apart; no rule says which of them counts."""
    for peer in _holders(view):
        if rival_of(identity.epoch, peer.epoch):
            return Wait(
                "epoch",
                f"controller {peer.controller_id} is in epoch {peer.epoch}, this in {identity.epoch}: neither yields",
                f"decide which data counts, with {RECOVER}",
            )
    return None


def rival_of(one: Epoch | None, other: Epoch | None) -> bool:
    """Whether these are two epochs of one number, which nobody can order."""
    return one is not None and other is not None and one.number == other.number and one.tag != other.tag


def _holders(view: View) -> list[Peer]:
    """Those that answer and hold data of this cluster."""
    return [p for p in view.peers if p.answers and p.same_cluster and p.holds_data]


def _configuration_names_others(view: View, conf: ControllerConf, since: str) -> Wait | None:
    """Witness 1: the configuration is newer than every membership, and names no other that could hold data."""
    if conf.own_address is None:
        return Wait("leader", f"{since}, and the configuration gives this controller no address", "see juju status")
    peers = {p.controller_id: p for p in view.peers}
    named = sorted({*conf.others, *conf.db_unresolved} - {conf.controller_id})
    holders = [i for i in named if not _surely_without_data(peers.get(i))]
    if holders:
        silent = [i for i in holders if i not in peers or not peers[i].answers]
        answering = _list([i for i in holders if i not in silent]) or "none"
        remedy = f"revive controller {_list(silent)}, or remove the units that are gone for good"
        if not silent:
            # All that are named are there, and hold data: who is missing is not named any more.
            gone = [p.controller_id for p in view.peers if not p.answers]
            revive = f"revive controller {_list(gone)}, or " if gone else ""
            remedy = f"{revive}choose the unit to go on with and use its action rebuild-cluster"
        return Wait("leader", f"{since}: no quorum; of the other members {answering} answers", remedy)
    if conf.generation < view.recorded_generation or (
        conf.generation == view.recorded_generation and not _names_all(conf, view.recorded_by)
    ):
        return Wait(
            "leader",
            f"{since}; the configuration (generation {conf.generation}) is not newer than the last join"
            f" (generation {view.recorded_generation})",
            "wait for the charm to publish a newer one",
        )
    return None


def _names_all(conf: ControllerConf, joined: tuple[str, ...]) -> bool:
    """Whether those who joined by this very generation are named by it, so that they have been asked for their data."""
    return bool(joined) and set(joined) <= set(conf.others)


def _somebody_may_live(view: View, others: tuple[str, ...], since: str) -> Wait | None:
    """Witness 2: every other member ever known has been silent for the hold, or surely stopped for good."""
    peers = {p.controller_id: p for p in view.peers}
    for name in others:
        peer = peers.get(controller_of(name))
        if peer is None or (not peer.answers and peer.silent_seconds is None):
            return Wait("leader", f"{since}; member {name} could not be asked yet", f"if this stays, use {RECOVER}")
        if peer.answers and not _surely_without_data(peer) and peer.superseded is None:
            return Wait(
                "leader",
                f"{since}; controller {peer.controller_id} is removed but still answers with data of this cluster",
                f"stop controllerd on controller {peer.controller_id}",
            )
        if not peer.answers and (peer.silent_seconds or 0.0) < view.hold_seconds:
            return Wait("leader", f"{since}; member {name} has been silent for {peer.silent_seconds:.1f} s only")
    return None


def _log_may_be_old(conf: ControllerConf, identity: Identity, running: Running, since: str) -> Wait | None:
    """Witness 3: nothing shows that this node's log is not the newest."""
    behind = _behind(conf, identity, running)
    if behind is None:
        return None
    return Wait("leader", f"{since}; {behind}", f"compare the members' data with {RECOVER}")


def _behind(conf: ControllerConf, identity: Identity, running: Running) -> str | None:
    if running.role != "voter":
        return f"this node is a {running.role or 'node of unknown role'}, whose log may be old or empty"
    if 0 < conf.db_epoch < identity.epoch.number:
        return None  # Told of an earlier epoch: its log ended where this one began.
    own, newest = running.last, LastEntry(conf.db_last_term, conf.db_last_index)
    if not newest.term:  # Told by a controller that does not tell it yet.
        own = LastEntry(0, own.index)
    # As raft compares logs. A newer one has whatever made this node a voter since, with nobody left to tell of it.
    newer = newest.term > 0 and (own.term, own.index) > (newest.term, newest.index)
    if conf.db_voters and conf.controller_id not in conf.db_voters and not newer:
        return f"the newest known voters were {_list(conf.db_voters)}, not this controller"
    if (own.term, own.index) < (newest.term, newest.index):
        return f"this node's log ends at {_end(own)}, the newest known one at {_end(newest)}"
    return None


def _end(last: LastEntry) -> str:
    return str(last) if last.term else f"index {last.index}"


def _surely_without_data(peer: Peer | None) -> bool:
    """A node without an entry has acknowledged none; that of the new epoch it hears of makes it join anew."""
    return peer is not None and peer.answers and (peer.holds_data is False or (peer.same_cluster and peer.empty))


def _no_address(conf: ControllerConf) -> Wait:
    me = conf.controller_id
    if me in conf.departed:
        return Wait("bind-address", f"controller {me} was removed from the cluster", "remove this unit's service")
    return Wait(
        "bind-address",
        f"the configuration (generation {conf.generation}) gives controller {me} no address",
        "see the unit's status: if it is blocked, it names the binding to give",
    )


def _list(names: object) -> str:
    return ", ".join(str(n) for n in names) if isinstance(names, list | tuple) else str(names)

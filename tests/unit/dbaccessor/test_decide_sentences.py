"""Every combination of what decide sees: one Action, with one sentence of this table, said only where it holds."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator

import msgspec

from dbaccessor.actions import Action, Bootstrap, Forget, Join, PutAside, Reconfigure, Serve, Start, Supersede, Wait
from dbaccessor.conf import ControllerConf
from dbaccessor.decide import decide
from dbaccessor.identity import Identity
from dbaccessor.situation import Disk, Peer, Running, View
from situations import ALONE, E1, E1_OTHER, E2, GOOD, LAST, ME, NAMED, NAMES, conf, member


def disk(**changes: object) -> Disk:
    return dataclasses.replace(GOOD, **changes)  # type: ignore[arg-type]


def me(**changes: object) -> Disk:
    return disk(identity=msgspec.structs.replace(ME, **changes))


CONFS = (
    None,
    NAMED,
    ALONE,
    msgspec.structs.replace(ALONE, db_unresolved=("3",)),
    msgspec.structs.replace(ALONE, db_voters=("1", "2")),
    msgspec.structs.replace(ALONE, db_last_index=51),
    msgspec.structs.replace(ALONE, bootstrapped=False),
    msgspec.structs.replace(ALONE, bootstrapped=False, bootstrap_controller="1"),
    conf(bootstrapped=False),
    conf(cluster_uuid=""),
    conf(cluster_uuid="other"),
    conf(db_bind_addresses={"1": "10.0.0.11"}),
    conf(db_bind_addresses={"1": "10.0.0.11"}, departed=("0",)),
)
DISKS = (
    Disk(),
    Disk(held=("u",)),
    Disk(identity=ME),
    Disk(has_files=True),
    GOOD,
    disk(damage="checksum mismatch"),
    disk(fingerprint="copy"),
    disk(marked_id=99),
    disk(marked_id=None),
    me(state="joining"),
    me(state="left"),
    me(superseded=E2),
    me(controller_id="7"),
)
RUNS = (
    Running("voter", "", 10.0, LAST),
    Running("voter", "", 1.0, LAST),
    Running("spare", "", 10.0),
    Running("voter", NAMES[1], 0.0, LAST),
    Running("voter", "", 0.0, answers=False),
    Running("voter", "", 10.0, LAST, removed=True),
)


ONE = (
    Peer("1", silent_seconds=10.0),
    Peer("1", silent_seconds=1.0),
    Peer("1"),
    Peer("1", answers=True, holds_data=False),
    member("1"),
    member("1", leader=NAMES[1]),
    member("1", epoch=E1_OTHER),
    member("1", epoch=E1_OTHER, leader=NAMES[1]),
    member("1", epoch=E2),
)
TWO = (Peer("2", silent_seconds=10.0), member("2"), member("2", leader=NAMES[1]))


def views() -> Iterator[View]:
    for c, d, (first, second) in itertools.product(CONFS, DISKS, itertools.product(ONE, TWO)):
        view = View(conf=c, disk=d, peers=(first, second), members=NAMES, recorded_generation=3)
        yield view
        yield dataclasses.replace(view, peers_asked=False)
        # A node runs on nothing but data that was good when it started.
        if d.identity is not None and d.has_files and not d.damage and d.fingerprint == "fs-1":
            for run in RUNS:
                yield dataclasses.replace(view, running=run)
            yield dataclasses.replace(view, running=RUNS[0], recorded_generation=5)
            yield dataclasses.replace(view, running=RUNS[0], members=NAMES[:1])


def holders(v: View) -> list[Peer]:
    return [p for p in v.peers if p.answers and p.same_cluster and p.holds_data]


def own(v: View) -> ControllerConf:
    assert v.conf is not None
    return v.conf


def ident(v: View) -> Identity:
    assert v.disk.identity is not None
    return v.disk.identity


def leaderless(v: View) -> bool:
    """Runs, answers, and has told for the hold that nobody leads."""
    return v.running is not None and v.running.answers and not v.running.leader and v.running.silent_seconds >= 3


def nothing(v: View) -> bool:
    return v.disk.identity is None and not v.disk.has_files and v.running is None


def joins(v: View) -> bool:
    return nothing(v) or ident(v).state == "joining"


# kind, topic of a Wait, the sentence, and what must be so where it is said.
TABLE: tuple[tuple[type, str, str, Callable[[View], bool]], ...] = (
    (Serve, "", "keeps serving; there is no readable.*", lambda v: v.conf is None and v.running is not None),
    (Wait, "bind-address", "there is no controller configuration file yet", lambda v: v.conf is None),
    (
        Wait,
        "bind-address",
        r"the configuration \(generation 5\) gives controller 0 no address",
        lambda v: own(v).own_address is None and v.running is None,
    ),
    (Wait, "bind-address", "controller 0 was removed from the cluster", lambda v: "0" in own(v).departed),
    (
        Wait,
        "cluster-uuid",
        "the charm's leader has not committed yet.*",
        lambda v: nothing(v) and not own(v).cluster_uuid,
    ),
    (
        Bootstrap,
        "",
        "the configuration names controller 0 to found cluster (u|other)",
        lambda v: (
            nothing(v)
            and not own(v).bootstrapped
            and own(v).bootstrap_controller == "0"
            and not holders(v)
            and own(v).cluster_uuid not in v.disk.held
            and v.peers_asked
            and own(v).own_address is not None
        ),
    ),
    (Wait, "data", "cluster .* exists, this controller is its last one, and its data is not here", nothing),
    (
        Wait,
        "join",
        "controller 1 is to found the cluster and has no address yet",
        lambda v: nothing(v) and not own(v).others,
    ),
    (
        Wait,
        "peers",
        "asking the other controllers whether the cluster exists",
        lambda v: nothing(v) and not v.peers_asked,
    ),
    (Wait, "peers", "asking the other members whether a newer.*", lambda v: v.running is None and not v.peers_asked),
    (Join, "", "joins cluster .* through its leader controller-1-101", lambda v: nothing(v) and bool(holders(v))),
    (Join, "", "resumes joining cluster .* through its leader controller-1-101", lambda v: ident(v).state == "joining"),
    (
        Wait,
        "join",
        r"no member of cluster .* answers yet( \(no answer from .*\))?",
        lambda v: joins(v) and not holders(v),
    ),
    (
        Wait,
        "join",
        "controllers .* hold the cluster's data but have no leader now",
        lambda v: joins(v) and bool(holders(v)),
    ),
    (
        Wait,
        "epoch",
        "the members are in two epochs of one number, .*",
        lambda v: joins(v) and len({p.epoch for p in holders(v)}) > 1,
    ),
    (PutAside, "", "data without an identity file: .*", lambda v: v.disk.identity is None and v.disk.has_files),
    (PutAside, "", r"data of epoch 1 .* was superseded by epoch 2 .*", lambda v: ident(v).superseded == E2),
    (PutAside, "", "data of controller 7; this is controller 0", lambda v: v.running is None),
    (
        PutAside,
        "",
        "data of cluster u; the configuration says other",
        lambda v: v.running is None and own(v).cluster_uuid == "other",
    ),
    (PutAside, "", "the data directory has lost its marker: .*", lambda v: v.disk.marked_id is None),
    (PutAside, "", "the data directory belongs to Dqlite id 99, .*", lambda v: v.disk.marked_id == 99),
    (PutAside, "", "the data directory is a copy or was restored from one; .*", lambda v: v.disk.fingerprint == "copy"),
    (
        PutAside,
        "",
        r"the node cannot start on its data \(checksum mismatch\); the others have a leader",
        lambda v: any(p.leader and p.epoch == E1 for p in holders(v)),
    ),
    (
        Wait,
        "data",
        "the node cannot start on its data: checksum mismatch",
        lambda v: not any(p.leader and p.epoch == E1 for p in holders(v)),
    ),
    (
        PutAside,
        "",
        "controller-0-100 was removed from the cluster; the configuration names controller 0 still",
        lambda v: v.running is not None and v.running.removed and own(v).own_address is not None,
    ),
    (
        Wait,
        "removed",
        "controller-0-100 was removed from the cluster",
        lambda v: v.running is not None and v.running.removed,
    ),
    (Forget, "", "the data of controller-0-100 is gone; it joins under a new id", lambda v: not v.disk.has_files),
    (
        Supersede,
        "",
        r"epoch 2 \(cccc\) exists; this node's data is of epoch 1 \(aaaa\) and must not go on",
        lambda v: any(p.epoch == E2 for p in v.peers) and ident(v).superseded is None,
    ),
    (
        Wait,
        "left",
        "controller-0-100 left the cluster for good",
        lambda v: ident(v).state == "left",
    ),
    (
        Wait,
        "configuration",
        "the configuration speaks of cluster other, this node serves u",
        lambda v: v.running is not None and own(v).cluster_uuid == "other",
    ),
    (
        Wait,
        "configuration",
        "the configuration is controller 0's, this node is controller 7's",
        lambda v: v.running is not None and ident(v).controller_id == "7",
    ),
    (
        Start,
        "",
        r"starts on the data of controller-0-100, epoch 1 \(aaaa\)",
        lambda v: v.disk == GOOD and v.peers_asked,
    ),
    (Start, "", "starts to go on joining: .*", lambda v: ident(v).state == "joining" and v.peers_asked),
    (Serve, "", "controller-0-100 is a member; the leader is controller-1-101", lambda v: v.running == RUNS[3]),
    (Serve, "", "no leader for 1.0 s; an election may be under way", lambda v: v.running == RUNS[1]),
    (Wait, "node", "the own node does not answer", lambda v: v.running == RUNS[4]),
    (
        Wait,
        "leader",
        "no leader for 10 s here, but controller [12] follows .*",
        lambda v: leaderless(v) and any(p.leader for p in holders(v)),
    ),
    (
        Wait,
        "epoch",
        r"controller 1 is in epoch 1 \(bbbb\), this in 1 \(aaaa\): neither yields",
        lambda v: leaderless(v) and any(p.epoch == E1_OTHER for p in v.peers),
    ),
    (
        Wait,
        "leader",
        "no leader for 10 s, and the configuration gives this controller no address",
        lambda v: leaderless(v) and own(v).own_address is None,
    ),
    (
        Wait,
        "leader",
        "no leader for 10 s: no quorum; of the other members .* answers",
        lambda v: leaderless(v) and bool({*own(v).others, *own(v).db_unresolved}),
    ),
    (
        Wait,
        "leader",
        r"no leader for 10 s; the configuration \(generation 5\) is not newer than the last join \(generation 5\)",
        lambda v: leaderless(v) and v.recorded_generation == 5,
    ),
    (
        Wait,
        "leader",
        "no leader for 10 s; member controller-1-101 could not be asked yet",
        lambda v: leaderless(v) and v.peers[0] == ONE[2],
    ),
    (
        Wait,
        "leader",
        "no leader for 10 s; controller [12] is removed but still answers with data of this cluster",
        lambda v: leaderless(v) and bool(holders(v)),
    ),
    (
        Wait,
        "leader",
        "no leader for 10 s; member controller-1-101 has been silent for 1.0 s only",
        lambda v: leaderless(v) and v.peers[0] == ONE[1],
    ),
    (
        Wait,
        "leader",
        "no leader for 10 s; this node is a spare, whose log may be old or empty",
        lambda v: v.running == RUNS[2],
    ),
    (
        Wait,
        "leader",
        "no leader for 10 s; the newest known voters were 1, 2, not this controller",
        lambda v: leaderless(v) and own(v).db_voters == ("1", "2"),
    ),
    (
        Wait,
        "leader",
        "no leader for 10 s; this node's log ends at index 50, the newest known one at index 51",
        lambda v: leaderless(v) and own(v).db_last_index == 51,
    ),
    (
        Wait,
        "leader",
        "no leader for 10 s, though this node is the only member",
        lambda v: leaderless(v) and v.members == NAMES[:1],
    ),
    (
        Reconfigure,
        "",
        "no leader for 10 s; generation 5 names only this controller; controller-1-101, controller-2-102 silent.*",
        lambda v: (
            leaderless(v)
            and v.running == RUNS[0]
            and not own(v).others
            and v.recorded_generation < 5
            and not any(p.answers and p.holds_data for p in v.peers)
            and all(p.answers or (p.silent_seconds or 0) >= v.hold_seconds for p in v.peers)
            and not own(v).db_unresolved
            and own(v).db_voters == ()
            and own(v).db_last_index <= 50
        ),
    ),
)

# What passes by itself, or is mended elsewhere, leaves an operator nothing to do.
_WITHOUT_REMEDY = {"cluster-uuid", "peers", "join", "leader"}


def row_of(action: Action) -> int:
    topic = action.topic if isinstance(action, Wait) else ""
    found = [
        number
        for number, (kind, of, sentence, _) in enumerate(TABLE)
        if type(action) is kind and topic == of and re.fullmatch(sentence, action.reason)
    ]
    assert len(found) == 1, f"{action} is {len(found)} rows of the table"
    return found[0]


def test_over_all_combinations_each_sentence_is_said_and_only_where_it_holds():
    rows: dict[tuple[type, str], int] = {}
    seen: set[int] = set()
    for view in views():
        action = decide(view)
        key = (type(action), f"{getattr(action, 'topic', '')}: {action.reason}")
        if key not in rows:
            rows[key] = row_of(action)
        number = rows[key]
        seen.add(number)
        assert TABLE[number][3](view), f"{action} must not be said of {view}"
        if isinstance(action, Wait) and action.topic not in _WITHOUT_REMEDY:
            assert action.remedy, f"{action} names nothing to do"
        if isinstance(action, Serve) and action.notice is not None:
            assert "neither yields" in action.notice.reason
            assert any(p.epoch == E1_OTHER for p in view.peers)
    assert [TABLE[n][2] for n in range(len(TABLE)) if n not in seen] == []

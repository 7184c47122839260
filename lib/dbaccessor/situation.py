"""Flow 1, hop 4: what `decide` looks at: the configuration, the disk, the own node and the peers, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass, field

from dbaccessor.conf import ControllerConf
from dbaccessor.dqlite.nodedir import NO_ENTRY, LastEntry
from dbaccessor.identity import Epoch, Identity


@dataclass(frozen=True)
class Disk:
    """What lies in the state directory.

    `marked_id` is the Dqlite id that the data directory was made for; `damage` is why the library refused to start on
    it; `held` names the clusters this controller once held data of.
    """

    identity: Identity | None = None
    marked_id: int | None = None
    has_files: bool = False
    fingerprint: str = ""
    damage: str = ""
    held: tuple[str, ...] = ()


@dataclass(frozen=True)
class Running:
    """The own node, when it runs.

    `answers`: it told its leader and members a moment ago. `silent_seconds` is how long it has been telling, without
    a break, that it knows no leader; `last` is where its log ends, known from then on. `removed`: the leader has said
    for the hold that this node is no member.
    """

    role: str = ""
    leader: str = ""
    silent_seconds: float = 0.0
    last: LastEntry = NO_ENTRY
    answers: bool = True
    removed: bool = False


@dataclass(frozen=True)
class Peer:
    """Another controller, as far as it could be asked.

    `silent_seconds` is how long it has been unreachable without a break; None means that it was never asked, which
    is not silence. `holds_data` is None while it does not answer. `last` is where its log ends, whether it runs or
    not; unknown (index 0) while it has a leader. `empty`: its node has no vote and not one entry, as one that joins and
    was not added, or a spare.
    """

    controller_id: str
    answers: bool = False
    silent_seconds: float | None = None
    holds_data: bool | None = None
    same_cluster: bool = False
    leader: str = ""
    epoch: Epoch | None = None
    superseded: Epoch | None = None
    running: bool = False
    last: LastEntry = NO_ENTRY
    empty: bool = False


@dataclass(frozen=True)
class View:
    """Everything decide looks at."""

    conf: ControllerConf | None
    # What is wrong with the file, when there never was a good one.
    conf_problem: str | None = None
    disk: Disk = field(default_factory=Disk)
    running: Running | None = None
    peers: tuple[Peer, ...] = ()
    # Raft names of every member of this epoch that this node ever knew, itself included.
    members: tuple[str, ...] = ()
    # The newest epoch of this cluster that any caller spoke of.
    heard_epoch: Epoch | None = None
    # The highest generation that another member recorded when it joined.
    recorded_generation: int = 0
    # The controllers that recorded it, () where that is not known.
    recorded_by: tuple[str, ...] = ()
    # Whether every known member was asked at least once since this process started.
    peers_asked: bool = True
    hold_seconds: float = 3.0

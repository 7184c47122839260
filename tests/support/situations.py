"""A cluster of three as controller 0 sees it: the values that the tests of the policy are made of."""

from __future__ import annotations

import dataclasses

import msgspec

from dbaccessor.conf import ControllerConf
from dbaccessor.dqlite.nodedir import LastEntry
from dbaccessor.identity import Epoch, Identity
from dbaccessor.situation import Disk, Peer, Running

UUID = "u"
E1, E1_OTHER, E2 = Epoch(1, "aaaa"), Epoch(1, "bbbb"), Epoch(2, "cccc")
ME = Identity(cluster_uuid=UUID, controller_id="0", dqlite_id=100, epoch=E1, state="member", fingerprint="fs-1")
GOOD = Disk(identity=ME, marked_id=100, has_files=True, fingerprint="fs-1")
NAMES = ("controller-0-100", "controller-1-101", "controller-2-102")
LAST = LastEntry(3, 50)
LONELY = Running(role="voter", leader="", silent_seconds=10.0, last=LAST)
NAMED = ControllerConf(
    controller_id="0",
    generation=5,
    cluster_uuid=UUID,
    bootstrap_controller="0",
    bootstrapped=True,
    db_bind_addresses={"0": "10.0.0.10", "1": "10.0.0.11", "2": "10.0.0.12"},
)


def conf(**changes: object) -> ControllerConf:
    return msgspec.structs.replace(NAMED, **changes)


ALONE = conf(db_bind_addresses={"0": "10.0.0.10"}, departed=("1", "2"))


def member(controller_id: str, **changes: object) -> Peer:
    base = Peer(controller_id, answers=True, holds_data=True, same_cluster=True, epoch=E1)
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def silent(controller_id: str, seconds: float | None = 10.0) -> Peer:
    return Peer(controller_id, silent_seconds=seconds)


def blank(controller_id: str) -> Peer:
    return Peer(controller_id, answers=True, holds_data=False)

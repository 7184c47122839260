"""Flow 1, seen from outside: which line the operator reads."""

import msgspec
import ops
import pytest

import unitstatus
from controlsocket import Cluster, Conf, Epoch, Member, Status, Wait

ZERO = Member(controller_id="0", role="voter", leader=True, answers=True, here=True)
ONE = Member(controller_id="1", role="voter", answers=True)
TWO = Member(controller_id="2", role="voter", answers=True)
THREE = Member(controller_id="3", role="stand-by", answers=True)
HEALTHY = Cluster(uuid="u-1", leader="0", health="healthy", ha=True, may_lose=1, members=(ZERO, ONE, TWO))
SERVING = Status(state="serving", dqlite_version="1.18.7", cluster=HEALTHY)
HERE_IS_ONE = msgspec.structs.replace(HEALTHY, members=(msgspec.structs.replace(ZERO, here=False), ONE, TWO))


def replaced(value: Status | Cluster, **changes: object):  # type: ignore[no-untyped-def]
    return msgspec.structs.replace(value, **changes)


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        (None, ops.WaitingStatus("controllerd does not answer yet")),
        (SERVING, ops.ActiveStatus("leader, 3/3 nodes")),
        (
            replaced(SERVING, cluster=replaced(HEALTHY, members=(ZERO, ONE, replaced(TWO, answers=False)))),
            ops.ActiveStatus("leader, 2/3 nodes"),
        ),
        (replaced(SERVING, cluster=HERE_IS_ONE), ops.ActiveStatus("member, 3/3 nodes")),
        (
            replaced(SERVING, cluster=replaced(HEALTHY, leader="1", members=(replaced(ZERO, leader=False), ONE))),
            ops.ActiveStatus("voter, 2/2 nodes"),
        ),
        (
            replaced(SERVING, dqlite_proven=False, dqlite_version="1.18.9"),
            ops.ActiveStatus("leader, 3/3 nodes; libdqlite 1.18.9 is unproven"),
        ),
        (
            replaced(SERVING, cluster=replaced(HEALTHY, leader=None, health="no-quorum", advice="revive controller 1")),
            ops.BlockedStatus("no quorum: revive controller 1"),
        ),
        (
            replaced(SERVING, reason="an election may be under way", cluster=replaced(HEALTHY, leader=None)),
            ops.WaitingStatus("an election may be under way"),
        ),
        (
            Status(state="waiting", waits=(Wait(reason="no member answers", remedy="start one"),), conf=Conf()),
            ops.WaitingStatus("no member answers; start one"),
        ),
        (Status(state="waiting", waits=(Wait(reason="no address"),)), ops.WaitingStatus("no address")),
        (
            Status(state="waiting", conf=Conf(problem="controller.conf is not valid"), waits=(Wait(reason="other"),)),
            ops.WaitingStatus("controller.conf is not valid"),
        ),
        (Status(state="joining"), ops.WaitingStatus("controllerd is joining")),
        (Status(), ops.WaitingStatus("controllerd is starting")),
    ],
)
def test_a_unit_says_in_one_line_how_its_node_is(status: Status | None, shown: ops.StatusBase):
    assert unitstatus.of_node(status) == shown


@pytest.mark.parametrize(
    ("status", "hole", "shown"),
    [
        (None, "", ops.WaitingStatus("the leader's controllerd does not answer yet")),
        (Status(state="waiting"), "", ops.WaitingStatus("no cluster yet")),
        (
            Status(state="waiting"),
            "c/1 not in the relation yet",
            ops.WaitingStatus("no cluster yet; c/1 not in the relation yet"),
        ),
        (SERVING, "", ops.ActiveStatus("3 voters; may lose 1")),
        (SERVING, "c/3 leaving", ops.ActiveStatus("3 voters; may lose 1; c/3 leaving")),
        (
            replaced(SERVING, cluster=replaced(HEALTHY, members=(ZERO, ONE, TWO, THREE))),
            "",
            ops.ActiveStatus("3 voters, 1 stand-by; may lose 1"),
        ),
        (
            replaced(SERVING, cluster=replaced(HEALTHY, members=(ZERO,), ha=False, may_lose=0)),
            "",
            ops.ActiveStatus("1 voter; not HA"),
        ),
        (
            replaced(SERVING, cluster=replaced(HEALTHY, members=(ZERO,), ha=False, advice="not HA: add units")),
            "",
            ops.ActiveStatus("1 voter; not HA: add units"),
        ),
        (
            replaced(
                SERVING,
                cluster=replaced(HEALTHY, health="degraded", members=(ZERO, ONE, replaced(TWO, answers=False))),
            ),
            "",
            ops.ActiveStatus("3 voters; may lose 1; degraded: 2 silent"),
        ),
        (
            replaced(SERVING, cluster=replaced(HEALTHY, members=(ZERO,), ha=False, dropped=("1", "2"))),
            "",
            ops.ActiveStatus("1 voter; not HA; dropped 1, 2: keep their machines off"),
        ),
        (
            replaced(
                SERVING,
                cluster=replaced(
                    HEALTHY,
                    health="no-quorum",
                    ha=False,
                    leader=None,
                    advice="revive controller 1",
                    members=(ZERO, replaced(ONE, answers=False)),
                ),
            ),
            "",
            ops.BlockedStatus("2 voters; not HA; no-quorum: 1 silent; revive controller 1"),
        ),
    ],
)
def test_the_application_says_in_one_line_how_the_cluster_is(status: Status | None, hole: str, shown: ops.StatusBase):
    assert unitstatus.of_cluster(status, hole) == shown


def test_results_of_the_action_are_flat_text_under_keys_that_juju_accepts():
    serving = replaced(SERVING, cluster=replaced(HEALTHY, epoch=Epoch(2, "9f")), conf=Conf(generation=4), raw="{}")

    results = unitstatus.action_results(replaced(serving, address_notes=("controller 2 …", "controller 3 …")))

    assert all(isinstance(value, str) for value in results.values())
    assert all(key == key.lower() and "_" not in key for key in results)
    assert (results["epoch"], results["generation"], results["voters"]) == ("2", "4", "3")
    assert results["address-notes"] == "controller 2 …; controller 3 …"


def test_results_without_a_cluster_say_why():
    results = unitstatus.action_results(Status(state="waiting", reason="no address yet"))

    assert (results["health"], results["members"], results["reason"]) == ("down", "0", "no address yet")

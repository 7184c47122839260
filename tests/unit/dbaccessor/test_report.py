"""What the worker tells the world: the engine's report under Juju's names."""

from __future__ import annotations

from typing import Any

from dbaccessor import report


def document(**changes: Any) -> dict[str, Any]:
    def member(number: int, role: str) -> dict[str, Any]:
        return {
            "dqlite-id": 2**63 - 1 - number,
            "address": f"10.6.6.{number}:17666",
            "role": role,
            "leader": number == 0,
            "here": number == 2,
        }

    cluster = {
        "members": [member(0, "voter"), member(1, "voter"), member(2, "stand-by")],
        "leader": "0",
        "may-lose": 0,
        "epoch": {"number": 1, "tag": "9f"},
    }
    return {
        "state": "serving",
        "reason": "all is well",
        "leader-changes": 4,
        "ready-seconds": 1.5,
        "last-handover": None,
        "log-frames": None,
        "conf": {"generation": 7},
        "cluster": cluster,
    } | changes


def test_the_report_has_juju_s_names_and_ours():
    databases = {"controller": {"last-ping-attempts": 1}}

    assert report.engine_report(document(), databases) == {
        "leader": "10.6.6.0:17666",
        # As text: a reader of JSON may have no 64-bit integers.
        "leader-id": "9223372036854775807",
        "leader-role": "voter",
        "leader-changes": 4,
        "state": "serving",
        "reason": "all is well",
        "role": "stand-by",
        "members": {"voter": 2, "stand-by": 1, "spare": 0},
        "quorum-margin": 0,
        "ready-seconds": 1.5,
        "last-handover": None,
        "log-frames": None,
        "epoch": {"number": 1, "tag": "9f"},
        "generation": 7,
        "databases": databases,
    }


def test_the_report_of_a_node_without_a_cluster_or_a_leader_has_the_same_keys():
    alone = report.engine_report(document(cluster=None), {})
    leaderless = document()
    leaderless["cluster"]["leader"] = None
    for each in leaderless["cluster"]["members"]:
        each["leader"] = False

    assert alone.keys() == report.engine_report(document(), {}).keys()
    assert (alone["leader"], alone["quorum-margin"], alone["epoch"]) == ("", -1, None)
    found = report.engine_report(leaderless, {})
    assert (found["leader"], found["leader-id"], found["quorum-margin"]) == ("", "", -1)

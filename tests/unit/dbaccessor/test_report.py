"""What the worker tells of itself: state, story, and the engine's report under Juju's names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dbaccessor import report
from dbaccessor.report import Accounts, Handover


def test_the_time_until_serving_is_told_once_it_serves_and_anew_after_each_break(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    now = 100.0
    monkeypatch.setattr("dbaccessor.report.time.monotonic", lambda: now)
    accounts = Accounts(tmp_path)
    assert accounts.section()["ready-seconds"] is None
    now = 102.0
    accounts.set_state("starting", "a beginning")
    now = 103.5
    accounts.set_state("serving", "all is well")
    now = 110.0
    accounts.set_state("serving", "all is still well")
    assert accounts.section()["ready-seconds"] == 3.5

    accounts.set_state("reconfiguring", "alone")
    now = 111.0
    accounts.set_state("serving", "again")
    assert accounts.section()["ready-seconds"] == 1.0


def test_another_leader_is_a_change_and_a_gap_is_none(tmp_path: Path):
    accounts = Accounts(tmp_path)
    for leader in ("", "a", "a", "", "a", "b", "", "a"):
        accounts.heed(leader)

    assert accounts.section()["leader-changes"] == 2


def test_how_a_handover_ended_is_told_by_the_next_process(tmp_path: Path):
    accounts = Accounts(tmp_path)
    accounts.handed_over(None)
    assert accounts.section()["last-handover"] is None
    accounts.handed_over(Handover("kept-vote", 0.25))

    told = Accounts(tmp_path).section()["last-handover"]
    assert (told["result"], told["seconds"]) == ("kept-vote", 0.25)
    assert told["at"].endswith("Z")


@pytest.mark.parametrize("content", ["", "{", '{"result": 1}'])
def test_a_damaged_note_of_a_handover_is_no_reason_not_to_start(tmp_path: Path, content: str):
    (tmp_path / report.LAST_HANDOVER).write_text(content)

    assert Accounts(tmp_path).section()["last-handover"] is None


def test_a_handover_that_cannot_be_noted_is_told_all_the_same(tmp_path: Path):
    accounts = Accounts(tmp_path / "not there")
    accounts.handed_over(Handover("done", 0.1))

    assert accounts.section()["last-handover"]["result"] == "done"


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

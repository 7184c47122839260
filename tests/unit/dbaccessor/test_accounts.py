"""The worker's book of itself: state, waits, leader changes and the last handover."""

from __future__ import annotations

from pathlib import Path

import pytest

from dbaccessor import actions
from dbaccessor.accounts import LAST_HANDOVER, Accounts, Handover, Troubles

QUIET = Troubles(None, "", None, {})


def test_the_time_until_serving_is_told_once_it_serves_and_anew_after_each_break(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    now = 100.0
    monkeypatch.setattr("dbaccessor.accounts.time.monotonic", lambda: now)
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
    (tmp_path / LAST_HANDOVER).write_text(content)

    assert Accounts(tmp_path).section()["last-handover"] is None


def test_a_handover_that_cannot_be_noted_is_told_all_the_same(tmp_path: Path):
    accounts = Accounts(tmp_path / "not there")
    accounts.handed_over(Handover("done", 0.1))

    assert accounts.section()["last-handover"]["result"] == "done"


@pytest.mark.parametrize(
    ("action", "leader", "announced", "state"),
    [
        (actions.Serve("all is well"), True, True, "serving"),
        (actions.Serve("all is well"), True, False, "starting"),
        (actions.Serve("an election is under way"), False, True, "serving"),
        (actions.Serve("an election is under way"), False, False, "starting"),
        (actions.Wait("quorum", "two are silent"), False, True, "waiting"),
        (actions.Wait("conf", "the file is bad"), True, True, "serving"),
        (actions.Wait("conf", "the file is bad"), True, False, "starting"),
        (actions.Start("there is data"), True, True, "starting"),
    ],
)
def test_the_state_follows_from_what_was_decided(
    tmp_path: Path, action: actions.Action, leader: bool, announced: bool, state: str
):
    accounts = Accounts(tmp_path)
    accounts.decided(action, QUIET, leader=leader, running=True, announced=announced)

    assert accounts.state == state


def test_troubles_stand_beside_what_is_waited_for(tmp_path: Path):
    accounts = Accounts(tmp_path)
    troubles = Troubles("10.6.6.1:17666 is in use", "1 MiB is free", None, {"2": "its clock is wrong"})
    accounts.decided(actions.Wait("address", "no address yet"), troubles, leader=False, running=False, announced=False)

    waits = accounts.section()["waits"]
    assert [w["for"] for w in waits] == ["address", "listen", "disk", "certificate of 2"]

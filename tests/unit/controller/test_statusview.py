"""controller.statusview: the status document, its exit code and its lines."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest

from controller import statusview

NOW = datetime.datetime(2026, 11, 22, 10, 5, tzinfo=datetime.UTC)


def member(controller_id: str, **changes: Any) -> dict[str, Any]:
    dqlite_id = 1000 + int(controller_id)
    return {
        "controller-id": controller_id,
        "dqlite-id": dqlite_id,
        "name": f"controller-{controller_id}-{dqlite_id}",
        "address": f"10.6.6.{10 + int(controller_id)}:17666",
        "role": "voter",
        "leader": controller_id == "0",
        "answers": True,
        "here": controller_id == "0",
    } | changes


def cluster(**changes: Any) -> dict[str, Any]:
    return {
        "uuid": "8d0e",
        "epoch": {"number": 1, "tag": "9f"},
        "leader": "0",
        "health": "healthy",
        "ha": True,
        "may-lose": 1,
        "advice": "",
        "dropped": [],
        "members": [member("0"), member("1"), member("2")],
    } | changes


def document(**changes: Any) -> dict[str, Any]:
    return {
        "schema": 1,
        "controller-id": "0",
        "version": "0.1.0",
        "dqlite-version": "1.18.7",
        "dqlite-proven": True,
        "state": "serving",
        "reason": "",
        "since": "2026-11-22T10:00:00Z",
        "waits": [],
        "conf": {
            "generation": 4,
            "problem": None,
            "db-bind-addresses": {"0": "10.6.6.10"},
            "db-unresolved": [],
            "departed": [],
        },
        "cluster": cluster(),
    } | changes


def parsed(**changes: Any) -> statusview.Status:
    return statusview.parse(json.dumps(document(**changes)).encode())


def text(**changes: Any) -> str:
    return "\n".join(line.plain for line in statusview.lines(parsed(**changes), NOW))


def test_healthy_cluster_says_what_it_may_lose_and_who_leads():
    shown = text()

    assert "controller 0 is serving for 5 min" in shown
    assert "cluster healthy, leader: controller 0, HA: may lose 1 of 3 voters" in shown
    assert "generation 4" in shown
    assert "epoch 1 (9f)" in shown


def test_every_member_has_one_line_in_order_of_controller_number():
    members = [member(i) for i in ("10", "2", "0")]

    rows = [row.split() for row in text(cluster=cluster(members=members)).splitlines() if ":17666" in row]

    assert [row[:3] for row in rows] == [
        ["0", "voter", "10.6.6.10:17666"],
        ["2", "voter", "10.6.6.12:17666"],
        ["10", "voter", "10.6.6.20:17666"],
    ]
    assert rows[0][-3:] == ["answers,", "leader,", "here"]


def test_silent_member_is_named_as_silent():
    members = [member("0"), member("1", answers=False, role="stand-by")]

    shown = text(cluster=cluster(health="degraded", members=members, advice="start controller 1"))

    assert "does not answer" in shown
    assert "start controller 1" in shown
    assert "cluster degraded" in shown


def test_lone_controller_is_healthy_and_called_not_ha():
    lone = cluster(ha=False, **{"may-lose": 0}, members=[member("0")])

    assert statusview.exit_code(parsed(cluster=lone)) == 0
    assert "not HA: may lose 0 of 1 voter, the loss of any voter stops writes" in text(cluster=lone)


def test_two_members_may_lose_none_and_that_is_said_plainly():
    two = cluster(ha=False, **{"may-lose": 0}, members=[member("0"), member("1")])

    assert "not HA: may lose 0 of 2 voters, the loss of any voter stops writes" in text(cluster=two)


def test_without_a_leader_nothing_is_promised():
    assert "no leader, writes wait for a leader" in text(cluster=cluster(leader=None, ha=False, **{"may-lose": 0}))


@pytest.mark.parametrize(
    ("health", "state", "code"),
    [
        ("healthy", "serving", 0),
        ("healthy", "joining", 3),
        ("degraded", "serving", 3),
        ("no-quorum", "serving", 4),
        ("down", "serving", 4),
    ],
)
def test_exit_code_follows_health(health: str, state: str, code: int):
    assert statusview.exit_code(parsed(state=state, cluster=cluster(health=health))) == code


def test_waiting_for_an_address_shows_since_reason_and_remedy():
    wait = {
        "for": "bind-address",
        "since": "2026-11-22T09:05:00Z",
        "reason": "controller.conf has no address for controller 0",
        "remedy": "juju bind controller db-cluster=<space>",
    }
    changes = {"state": "waiting", "reason": "no address yet", "waits": [wait], "cluster": None}

    shown = text(**changes)

    assert "controller 0 is waiting" in shown
    assert "waiting for bind-address for 1 h: controller.conf has no address for controller 0" in shown
    assert "remedy: juju bind controller db-cluster=<space>" in shown
    assert "in no cluster" in shown
    assert statusview.exit_code(parsed(**changes)) == 3


def test_refused_configuration_dropped_members_and_unproven_library_are_not_hidden():
    conf = document()["conf"] | {"problem": "line 3 is torn", "db-unresolved": ["2"]}

    shown = text(conf=conf, cluster=cluster(dropped=["1"]), **{"dqlite-proven": False})

    assert "a newer controller.conf was refused: line 3 is torn" in shown
    assert "dropped by a forced reconfiguration, not yet seen refused: 1" in shown
    assert "never run on libdqlite 1.18.7" in shown
    assert "without an address yet: controller 2" in shown


def test_a_controller_outside_of_the_management_space_is_said_and_is_no_ill_health():
    note = "controller 2 has no address in juju-mgmt-space mgmt: agents get all of its addresses"

    assert f"  {note}" in text(**{"address-notes": [note]})
    assert statusview.exit_code(parsed(**{"address-notes": [note]})) == statusview.HEALTHY


def test_forced_reconfiguration_says_where_the_log_ended():
    assert "log ended at index 4711" in text(cluster=cluster(**{"log-ended-at": 4711}))


def test_controller_that_never_had_a_configuration_says_so():
    assert "no configuration yet" in text(conf=document()["conf"] | {"generation": 0}, cluster=None)


def test_unknown_keys_are_ignored_and_an_unknown_schema_is_refused():
    assert parsed(surprise=1, cluster=cluster(more=[])).controller_id == "0"

    with pytest.raises(statusview.BadStatus, match="schema 2"):
        parsed(schema=2)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"schema": 1}', b"\xff"])
def test_anything_else_than_a_status_is_refused_in_one_sentence(body: bytes):
    with pytest.raises(statusview.BadStatus, match="something else than a status"):
        statusview.parse(body)


@pytest.mark.parametrize(
    ("since", "age"),
    [
        ("2026-11-22T10:04:59Z", "1 s"),
        ("2026-11-22T09:05:00Z", "1 h"),
        ("2026-11-19T10:05:00Z", "3 d"),
        ("2026-11-22T12:00:00Z", "0 s"),
        ("2026-11-22T10:00:00", "5 min"),
        ("yesterday", "yesterday"),
    ],
)
def test_age_is_short_and_survives_a_clock_set_back(since: str, age: str):
    assert f"is serving for {age}  (" in text(since=since)

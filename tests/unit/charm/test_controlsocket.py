"""Flow 1, hop 3, the answer's way: what the charm makes of controllerd's answers, over the real sockets."""

import json

import pytest

import controlsocket
from charmmachine import Machine
from rawsocket import TORN, rawsocket


def test_a_controllerd_that_is_not_there_is_none(machine: Machine):
    assert controlsocket.status(machine.state_dir) is None
    assert controlsocket.db_state(machine.state_dir) is None


def test_the_status_is_read_and_kept_whole(machine: Machine):
    machine.controllerd.serve(members=3)
    machine.controllerd.status["a-later-key"] = {"x": 1}

    with machine.controllerd:
        status = controlsocket.status(machine.state_dir)

    assert status is not None
    assert status.serves
    assert json.loads(status.raw) == machine.controllerd.status
    assert status.cluster is not None
    assert [m.controller_id for m in status.cluster.members] == ["0", "1", "2"]


def test_a_status_that_makes_no_sense_is_none(machine: Machine):
    machine.controllerd.status = {"state": 7}

    with machine.controllerd:
        assert controlsocket.status(machine.state_dir) is None


@pytest.mark.parametrize(
    ("state", "leader", "serves"),
    [("serving", "0", True), ("serving", None, False), ("joining", "0", False), ("reconfiguring", "0", False)],
)
def test_a_node_serves_when_it_says_so_and_has_a_leader(machine: Machine, state: str, leader: str | None, serves: bool):
    machine.controllerd.serve(leader=leader)
    machine.controllerd.status["state"] = state

    with machine.controllerd:
        status = controlsocket.status(machine.state_dir)

    assert status is not None
    assert status.serves is serves


def test_the_db_state_is_handed_on_as_it_is_and_a_node_outside_has_none(machine: Machine):
    with machine.controllerd:
        assert controlsocket.db_state(machine.state_dir) is None
        machine.controllerd.serve()
        text = controlsocket.db_state(machine.state_dir)

    assert text is not None
    assert json.loads(text) == machine.controllerd.db_state


def test_waiting_ends_as_soon_as_the_node_serves(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(controlsocket, "SERVING_TIMEOUT_SECONDS", 30.0)
    machine.controllerd.serves_after = 3

    with machine.controllerd:
        status = controlsocket.wait_until_serving(machine.state_dir)

    assert status is not None
    assert status.serves
    assert machine.controllerd.requests.count("GET /status") == 3


def test_waiting_ends_at_its_deadline_with_what_was_seen_last(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(controlsocket, "SERVING_TIMEOUT_SECONDS", 0.3)

    with machine.controllerd:
        status = controlsocket.wait_until_serving(machine.state_dir)

    assert status is not None
    assert status.state == "waiting"


@pytest.mark.parametrize("state", ["serving", "waiting"])
def test_no_hook_waits_for_a_quorum_that_is_lost(machine: Machine, monkeypatch: pytest.MonkeyPatch, state: str):
    monkeypatch.setattr(controlsocket, "SERVING_TIMEOUT_SECONDS", 60.0)
    monkeypatch.setattr(controlsocket, "LEADERLESS_SECONDS", 0.1)
    machine.controllerd.serve(leader=None)
    machine.controllerd.status["state"] = state

    with machine.controllerd:
        status = controlsocket.wait_until_serving(machine.state_dir)

    assert status is not None
    assert status.is_leaderless


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((200, {"left": True, "reason": "removed"}), "left the cluster: removed"),
        ((200, {"left": False, "reason": "it is the last member"}), "did not leave the cluster: it is the last member"),
        ((503, {}), "did not leave the cluster: status 503"),
        ((200, []), "may not have left the cluster: its answer cannot be read"),
    ],
)
def test_what_came_of_leaving_is_one_sentence(machine: Machine, answer: tuple[int, dict[str, object]], said: str):
    machine.controllerd.leave = answer

    with machine.controllerd:
        assert controlsocket.leave(machine.state_dir).startswith(said)


def test_what_a_controllerd_that_is_killed_meanwhile_had_done_is_not_known(machine: Machine):
    with rawsocket(machine.state_dir / "control.socket", lambda _: TORN):
        assert controlsocket.leave(machine.state_dir).startswith("may not have left the cluster: ")
        with pytest.raises(controlsocket.NotRebuilt, match="what came of it is not known"):
            controlsocket.rebuild(machine.state_dir, force=False)


def test_leaving_without_a_controllerd_says_so(machine: Machine):
    assert controlsocket.leave(machine.state_dir).startswith("did not leave the cluster: nobody answers")

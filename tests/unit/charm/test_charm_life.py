"""A unit of the charm from install to remove: its service, its leaving, its statuses, and hooks that run again."""

import dataclasses
import datetime
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import ops
import pytest
from ops import testing

import certificates
import restarts
import workload
from charmmachine import (
    APP,
    FOUNDED,
    OWN,
    REQUEST,
    Machine,
    app_bag,
    on_disk,
    own_bag,
    relation,
    relation_of,
    state,
    with_relation,
)
from dbcluster import UnitBag

# The service.


def test_install_makes_the_service_and_hactl_and_starts_nothing(machine: Machine):
    machine.run(machine.context.on.install(), state(None))

    assert set(machine.content()) == {"bin/hactl", "system/ha-controller.service"}
    assert machine.systemd.calls == ["daemon-reload"]


def test_the_start_hook_starts_the_service_that_no_boot_starts(machine: Machine):
    machine.run(machine.context.on.install(), state(None))

    machine.run(machine.context.on.start(), state(relation(), "10.0.0.4/24"))

    assert machine.systemd.running
    assert "[Install]" not in machine.content()["system/ha-controller.service"].split("[Unit]")[1]


def test_a_refresh_restarts_the_service_when_its_code_changed(machine: Machine):
    given = state(relation(), "10.0.0.4/24")
    machine.run(machine.context.on.start(), given)
    (machine.charm_dir / "lib" / "controller" / "daemon.py").write_text("version = 2\n")
    machine.systemd.calls.clear()

    machine.run(machine.context.on.upgrade_charm(), given)

    assert machine.systemd.calls == ["daemon-reload", "restart ha-controller.service"]


@pytest.mark.parametrize("fails", ["daemon-reload", "set_ports"])
def test_the_restart_after_a_refresh_outlives_a_hook_that_fails_half_way(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, fails: str
):
    given = state(relation(), "10.0.0.4/24")
    machine.run(machine.context.on.start(), given)
    (machine.charm_dir / "lib" / "controller" / "daemon.py").write_text("version = 2\n")

    def refuse(*_: object) -> None:
        raise RuntimeError(fails)

    with monkeypatch.context() as now:
        if fails == "set_ports":
            now.setattr(ops.Unit, "set_ports", refuse)
        else:
            now.setattr(machine.systemd, "daemon_reload", refuse)
        with pytest.raises(testing.errors.UncaughtCharmError):
            machine.run(machine.context.on.upgrade_charm(), given)
    machine.systemd.calls.clear()
    machine.run(machine.context.on.upgrade_charm(), given)
    machine.run(machine.context.on.config_changed(), given)

    assert machine.systemd.calls == ["daemon-reload", "restart ha-controller.service"]


def refreshed(machine: Machine, number: int) -> tuple[testing.State, testing.State]:
    """Unit `number` of three served, then its code changed. Return its state then, and after its upgrade-charm."""
    numbers = [n for n in range(3) if n != number]
    papers, _, _ = certificates.issue(
        certificates.Papers(),
        None,
        {str(number): certificates.Applicant(REQUEST)},
        (),
        datetime.datetime.now(datetime.UTC),
    )
    ids = {str(n): f"{APP}/{n}" for n in range(3)}
    addresses = {str(n): f"10.0.0.{n + 4}" for n in range(3)}
    app = dataclasses.replace(FOUNDED, addresses=addresses, units=ids, papers=papers)
    machine.be_unit(number)
    machine.units(0, 1, 2)
    machine.controllerd.serve(members=3, here=number)
    old = UnitBag(code=workload.code_digest(machine.charm_dir), serves_with=workload.code_digest(machine.charm_dir))
    bags = {f"unit{n}": dataclasses.replace(old, controller_id=str(n)) for n in numbers}
    peers = relation(app, UnitBag(str(number), "10.0.0.4"), **bags)
    served = machine.run(machine.context.on.start(), state(peers, "10.0.0.4/24", leader=False))
    (machine.charm_dir / "lib" / "controller" / "daemon.py").write_text("version = 2\n")
    machine.systemd.calls.clear()
    return served, machine.run(machine.context.on.upgrade_charm(), served)


def test_of_three_units_that_are_refreshed_at_the_same_moment_one_restarts(monkeypatch: pytest.MonkeyPatch):
    calls: list[list[str]] = []
    said: list[str] = []
    for number in range(3):
        root = Path(tempfile.mkdtemp(prefix="hc-"))
        machine = Machine(root, monkeypatch)
        with machine.controllerd:
            served, out = refreshed(machine, number)
        shutil.rmtree(root)
        assert own_bag(served).serves_with == own_bag(served).code != own_bag(out).code
        assert own_bag(out).serves_with == (own_bag(out).code if number == 0 else "")
        calls.append(machine.systemd.calls)
        said.append(f"{out.unit_status.name}: {out.unit_status.message}")

    assert calls == [["daemon-reload", "restart ha-controller.service"], ["daemon-reload"], ["daemon-reload"]]
    assert said[1:] == [f"waiting: restart after refresh: {APP}/0 first"] * 2


def test_the_turn_comes_with_the_bag_of_the_unit_before(machine: Machine):
    with machine.controllerd:
        _, out = refreshed(machine, 1)
        assert machine.systemd.calls == ["daemon-reload"]
        new = dataclasses.replace(own_bag(out), controller_id="0", serves_with=own_bag(out).code)
        first = {key: value for key, value in new.dump().items() if value}
        given = with_relation(out, peers_data={**relation_of(out).peers_data, 0: first})
        event = machine.context.on.relation_changed(relation_of(given), remote_unit=0)
        after = machine.run(event, given)
        machine.run(machine.context.on.update_status(), after)

    assert machine.systemd.calls.count("restart ha-controller.service") == 1
    assert own_bag(after).serves_with == own_bag(after).code
    assert after.unit_status == ops.ActiveStatus("voter, 3/3 nodes")


def test_the_turn_comes_by_itself_when_the_unit_before_says_nothing_for_too_long(machine: Machine):
    with machine.controllerd:
        _, out = refreshed(machine, 1)
        long_ago = time.time() - restarts.DEADLINE_SECONDS
        os.utime(machine.state_dir / "restart-due", (long_ago, long_ago))
        machine.run(machine.context.on.update_status(), out)

    assert machine.systemd.calls.count("restart ha-controller.service") == 1


def test_a_unit_that_leaves_is_not_waited_for(machine: Machine):
    with machine.controllerd:
        _, out = refreshed(machine, 1)
        machine.units(1, 2, dying=(0,))
        machine.run(machine.context.on.update_status(), out)

    assert machine.systemd.calls.count("restart ha-controller.service") == 1


def test_a_controllerd_that_does_not_run_starts_with_the_new_code_at_once(machine: Machine):
    with machine.controllerd:
        _, out = refreshed(machine, 1)
        machine.systemd.running = False
        after = machine.run(machine.context.on.update_status(), out)

    assert machine.systemd.calls[-1] == "start ha-controller.service"
    assert own_bag(after).serves_with == own_bag(after).code


@pytest.mark.parametrize(("answers", "restarts_done"), [(5, 1), (0, 0)], ids=["elected", "never elected"])
def test_a_hook_sees_an_election_out_and_does_not_take_it_for_a_lost_quorum(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, answers: int, restarts_done: int
):
    monkeypatch.setattr(restarts, "UNWELL_SECONDS", 60.0)
    monkeypatch.setattr(restarts, "PATIENCE_SECONDS", 30.0 if answers else 0.5)
    monkeypatch.setattr("charm.RESTART_POLL_SECONDS", 0.05)
    given = state(relation(FOUNDED, OWN), "10.0.0.4/24", leader=False)
    machine.run(machine.context.on.start(), given)
    machine.controllerd.serve(leader=None, members=3)
    machine.controllerd.serves_after = answers
    (machine.charm_dir / "lib" / "controller" / "daemon.py").write_text("version = 2\n")

    with machine.controllerd:
        out = machine.run(machine.context.on.upgrade_charm(), given)

    assert machine.systemd.calls.count("restart ha-controller.service") == restarts_done
    assert machine.controllerd.requests.count("GET /status") >= 5
    assert ("restart after refresh: no leader" in out.unit_status.message) is not bool(answers)


def test_a_refresh_restarts_nothing_when_the_code_is_the_same(machine: Machine):
    given = state(relation(), "10.0.0.4/24")
    machine.run(machine.context.on.start(), given)
    machine.systemd.calls.clear()

    machine.run(machine.context.on.upgrade_charm(), given)

    assert machine.systemd.calls == []


def test_a_service_that_does_not_start_blocks_and_takes_the_hook_s_writes_not_down(machine: Machine):
    machine.systemd.refuses = True

    out = machine.run(machine.context.on.start(), state(relation(), "10.0.0.4/24"))

    assert isinstance(out.unit_status, ops.BlockedStatus)
    assert "journalctl -u ha-controller.service" in out.unit_status.message
    assert own_bag(out).address == "10.0.0.4"


def test_the_reader_is_nudged_once_when_the_file_changed_and_not_when_it_did_not(machine: Machine):
    machine.controllerd.serve()
    given = state(relation(FOUNDED, OWN), "10.0.0.4/24", leader=False)

    with machine.controllerd:
        out = machine.run(machine.context.on.config_changed(), given)
        machine.run(machine.context.on.config_changed(), out)

    assert machine.controllerd.requests.count("POST /reload") == 1


def test_after_a_nudge_the_hook_waits_for_the_node_and_publishes_what_it_became(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("controlsocket.SERVING_TIMEOUT_SECONDS", 5.0)
    machine.controllerd.serves_after = 3

    with machine.controllerd:
        out = machine.run(
            machine.context.on.config_changed(), state(relation(FOUNDED, OWN), "10.0.0.4/24", leader=False)
        )

    assert out.unit_status == ops.ActiveStatus("leader, 1/1 nodes")
    assert json.loads(own_bag(out).db_state) == machine.controllerd.db_state


def test_a_unit_that_its_conf_does_not_name_waits_for_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("controlsocket.SERVING_TIMEOUT_SECONDS", 60.0)
    others = dataclasses.replace(FOUNDED, addresses={"1": "10.0.0.5"})

    out = machine.run(machine.context.on.config_changed(), state(relation(others, OWN), "10.0.0.4/24", leader=False))

    assert out.unit_status == ops.WaitingStatus("waiting for the leader to publish this unit's address")


# Leaving.


def test_a_departing_unit_publishes_and_renders_nothing_not_even_as_leader(machine: Machine):
    machine.units(1, dying=(0,))
    given = state(relation(FOUNDED, unit1=UnitBag("1", "10.0.0.9")), "10.0.0.4/24")

    out = machine.run(machine.context.on.update_status(), given)

    assert relation_of(out) == relation_of(given)
    assert machine.content() == {}
    assert out.unit_status == ops.MaintenanceStatus("leaving the cluster")


@pytest.mark.parametrize("member", [True, False])
def test_a_member_that_was_rebooted_on_its_way_out_runs_until_it_has_said_goodbye(machine: Machine, member: bool):
    given = state(relation(FOUNDED, OWN), "10.0.0.4/24")
    machine.run(machine.context.on.start(), given)
    if member:
        (machine.state_dir / "identity.json").write_text(json.dumps({"cluster-uuid": FOUNDED.cluster_uuid}))
    machine.units(1, dying=(0,))
    machine.systemd.running = False
    machine.systemd.calls.clear()

    departing = machine.context.on.relation_departed(relation_of(given), remote_unit=1, departing_unit=0)
    machine.run(departing, given)
    started = ["start ha-controller.service"] if member else []
    assert machine.systemd.calls == started

    machine.systemd.running = False  # Once more, between two hooks.
    with machine.controllerd:
        machine.controllerd.serve()
        machine.run(machine.context.on.stop(), state(None))

    assert machine.systemd.calls == [*started * 2, *["stop ha-controller.service"] * member]
    assert machine.controllerd.requests[-1] == "POST /leave"


def test_a_unit_that_hears_of_its_own_departure_first_publishes_nothing(machine: Machine):
    machine.be_unit(1)
    machine.units(0, 1)  # Goal-state may be older than the event.
    peers = relation(FOUNDED, unit0=UnitBag("0", "10.0.0.9"))
    given = state(peers, "10.0.0.5/24")
    event = machine.context.on.relation_departed(peers, remote_unit=0, departing_unit=1)

    out = machine.run(event, given)

    assert relation_of(out).local_app_data == peers.local_app_data
    assert machine.content() == {}


def test_the_departure_of_another_unit_is_published_by_the_leader(machine: Machine):
    peers = relation(FOUNDED, OWN)
    event = machine.context.on.relation_departed(peers, remote_unit=1, departing_unit=1)

    out = machine.run(event, state(peers, "10.0.0.4/24"))

    assert app_bag(out).departed == ("1",)
    assert app_bag(out).addresses == {"0": "10.0.0.4"}
    assert on_disk(machine).departed == ("1",)


def test_stop_leaves_the_cluster_and_then_stops_the_service(machine: Machine):
    machine.run(machine.context.on.start(), state(relation(), "10.0.0.4/24"))
    machine.systemd.calls.clear()

    with machine.controllerd:
        out = machine.run(machine.context.on.stop(), state(None))

    assert machine.controllerd.requests == ["POST /leave"]
    assert machine.systemd.calls == ["stop ha-controller.service"]
    assert out.unit_status == ops.MaintenanceStatus("controllerd stopped")


def test_stop_goes_on_when_nobody_answers(machine: Machine):
    machine.run(machine.context.on.start(), state(relation(), "10.0.0.4/24"))

    machine.run(machine.context.on.stop(), state(None))

    assert not machine.systemd.running
    assert any("did not leave the cluster" in line.message for line in machine.context.juju_log)


def test_remove_takes_the_service_away_and_keeps_the_data_aside(machine: Machine):
    machine.run(machine.context.on.start(), state(relation(), "10.0.0.4/24"))
    (machine.state_dir / "precious").write_text("data")

    machine.run(machine.context.on.remove(), state(None))
    machine.run(machine.context.on.remove(), state(None))

    assert not machine.systemd.running
    (aside,) = machine.content()
    assert aside.startswith("state.removed-")
    assert aside.endswith("/precious")


# Statuses, version and the action.


def test_active_means_a_member_of_a_cluster_with_a_leader(machine: Machine):
    machine.controllerd.serve(members=3)

    with machine.controllerd:
        out = machine.run(
            machine.context.on.update_status(), state(relation(FOUNDED, OWN), "10.0.0.4/24", leader=False)
        )

    assert out.unit_status == ops.ActiveStatus("leader, 3/3 nodes")
    assert out.workload_version == "1.18.7"


def test_without_a_leader_the_unit_is_not_active(machine: Machine):
    machine.controllerd.serve(leader=None)

    with machine.controllerd:
        out = machine.run(
            machine.context.on.update_status(), state(relation(FOUNDED, OWN), "10.0.0.4/24", leader=False)
        )

    assert isinstance(out.unit_status, ops.WaitingStatus)


def test_the_leader_sums_the_cluster_up_for_the_application(machine: Machine):
    machine.controllerd.serve(members=3)

    with machine.controllerd:
        out = machine.run(machine.context.on.update_status(), state(relation(FOUNDED, OWN), "10.0.0.4/24", leader=True))

    assert out.app_status == ops.ActiveStatus("3 voters; may lose 1")


def test_get_cluster_answers_flat_and_as_json(machine: Machine):
    machine.controllerd.serve(members=3)

    with machine.controllerd:
        machine.run(machine.context.on.action("get-cluster"), state(relation(FOUNDED, OWN), "10.0.0.4/24"))

    results = machine.context.action_results
    assert results is not None
    assert (results["health"], results["ha"], results["may-lose"]) == ("healthy", "true", "1")
    assert (results["members"], results["voters"], results["leader"]) == ("3", "3", "0")
    assert json.loads(results["json"]) == machine.controllerd.status


def test_get_cluster_changes_no_status_no_file_and_no_bag(machine: Machine):
    given = dataclasses.replace(
        state(relation(FOUNDED, OWN), "10.0.0.4/24"), unit_status=testing.BlockedStatus("several addresses")
    )
    machine.controllerd.serve()

    with machine.controllerd:
        out = machine.run(machine.context.on.action("get-cluster"), given)

    assert out.unit_status == given.unit_status
    assert relation_of(out) == relation_of(given)
    assert machine.content() == {}


def test_get_cluster_fails_with_a_remedy_when_controllerd_is_silent(machine: Machine):
    with pytest.raises(testing.ActionFailed, match="journalctl"):
        machine.run(machine.context.on.action("get-cluster"), state(relation(FOUNDED, OWN), "10.0.0.4/24"))


def test_rebuild_cluster_says_what_was_done_and_passes_force_on(machine: Machine):
    machine.controllerd.rebuilt = {"done": True, "reason": "this node is the only member now, left behind: b, c"}
    action = machine.context.on.action("rebuild-cluster", params={"force": True})

    with machine.controllerd:
        machine.run(action, state(relation(FOUNDED, OWN), "10.0.0.4/24"))

    assert machine.context.action_results == {"result": "this node is the only member now, left behind: b, c"}
    assert machine.controllerd.asked_to_rebuild == [{"force": True}]


def test_a_refused_rebuild_fails_the_action_with_the_reason(machine: Machine):
    machine.controllerd.rebuilt = {"done": False, "reason": "a quorum lives"}

    with machine.controllerd, pytest.raises(testing.ActionFailed, match="a quorum lives"):
        machine.run(machine.context.on.action("rebuild-cluster"), state(relation(FOUNDED, OWN), "10.0.0.4/24"))

    assert machine.controllerd.asked_to_rebuild == [{"force": False}]


def test_a_registration_is_in_a_file_for_root_and_not_in_what_the_action_returns(machine: Machine):
    with machine.controllerd:
        machine.run(machine.context.on.action("get-client-config"), state(relation(FOUNDED, OWN), "10.0.0.4/24"))

    results = machine.context.action_results
    assert results is not None
    path = machine.state_dir / "registration"
    assert results == {"file": str(path), "next": f"juju ssh {APP}/0 sudo cat {path}"}
    assert path.read_text() == "hac1_secret\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_registration_that_is_refused_fails_the_action_with_the_reason(machine: Machine):
    machine.controllerd.registration = 400, {"error": "Refused", "reason": "there is no user bob; there are: admin"}
    action = machine.context.on.action("get-client-config", params={"user": "bob"})

    with machine.controllerd, pytest.raises(testing.ActionFailed, match="there are: admin"):
        machine.run(action, state(relation(FOUNDED, OWN), "10.0.0.4/24"))

    assert not (machine.state_dir / "registration").exists()


def test_a_registration_without_controllerd_fails_with_a_remedy(machine: Machine):
    with pytest.raises(testing.ActionFailed, match="journalctl"):
        machine.run(machine.context.on.action("get-client-config"), state(relation(FOUNDED, OWN), "10.0.0.4/24"))


def test_a_rebuild_without_controllerd_fails_with_a_remedy(machine: Machine):
    with pytest.raises(testing.ActionFailed, match="journalctl"):
        machine.run(machine.context.on.action("rebuild-cluster"), state(relation(FOUNDED, OWN), "10.0.0.4/24"))


def test_controllerd_may_ask_for_a_hook_of_its_own(machine: Machine):
    with machine.context(
        machine.context.on.update_status(), state(relation(FOUNDED, OWN), "10.0.0.4/24", leader=False)
    ) as manager:
        manager.charm.on.db_state_changed.emit()

        assert on_disk(machine).generation == 4


# Running any hook again changes nothing.


@pytest.mark.parametrize("name", ["config_changed", "start", "update_status", "upgrade_charm", "leader_elected"])
@pytest.mark.parametrize("leader", [True, False], ids=["leader", "follower"])
def test_replaying_a_hook_changes_no_file_and_no_databag(machine: Machine, name: str, leader: bool):
    machine.units(0, 1)
    machine.controllerd.serve(members=2)
    event = getattr(machine.context.on, name)()
    given = state(relation(FOUNDED, OWN, unit1=UnitBag("1", "10.0.0.5")), "10.0.0.4/24", leader=leader)

    with machine.controllerd:
        once = machine.settle(event, given)
        files = {path: (text, (machine.root / path).stat().st_mtime_ns) for path, text in machine.content().items()}
        machine.systemd.calls.clear()
        twice = machine.run(event, once)

    assert relation_of(twice) == relation_of(once)
    after = {path: (text, (machine.root / path).stat().st_mtime_ns) for path, text in machine.content().items()}
    assert after == files
    assert machine.systemd.calls == []
    assert twice.unit_status == once.unit_status

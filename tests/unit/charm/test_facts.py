"""Flow 1, hop 2: reading Juju's and the machine's facts, through the real hook commands' forms."""

import json
import os
from pathlib import Path

import ops
import pytest
from ops import testing

import facts
from bindaddress import Unique
from charmmachine import APP, Machine, relation_of, state
from topology import Goal


def hook_command(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of hook commands, first on PATH, as Juju gives it to a hook."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_goal_state_tells_those_that_stay_from_those_that_leave(tools: Path):
    units = {
        "control/0": {"status": "active", "since": "2026-01-01 00:00:00Z"},
        "control/1": {"status": "dying", "since": "2026-01-01 00:00:00Z"},
        "control/2": {"status": "waiting", "since": "2026-01-01 00:00:00Z"},
    }
    hook_command(tools, "goal-state", f"echo '{json.dumps({'units': units, 'relations': {}})}'")

    goal = facts.goal_state()

    assert goal == Goal(frozenset({"control/0", "control/2"}), frozenset({"control/1"}))
    assert goal.named == {"control/0", "control/1", "control/2"}


def test_a_goal_state_that_fails_is_unknown_not_empty(tools: Path, caplog: pytest.LogCaptureFixture):
    hook_command(tools, "goal-state", "echo 'ERROR no goal' >&2; exit 1")

    assert facts.goal_state() is None
    assert "ERROR no goal" in caplog.text


def test_a_reply_that_ops_cannot_read_is_waited_for_not_a_failed_hook(machine: Machine):
    # ops refuses a subnet with host bits set. Juju has sent such ones.
    odd = testing.Network(
        "db-cluster",
        bind_addresses=[testing.BindAddress([testing.Address("10.0.0.4", cidr="10.0.0.4/24")], interface_name="eth0")],
    )

    out = machine.run(
        machine.context.on.update_status(),
        testing.State(networks={odd}, relations={testing.PeerRelation("db-cluster")}),
    )

    assert isinstance(out.unit_status, ops.WaitingStatus)
    assert "network-get failed: 10.0.0.4/24 has host bits set" in out.unit_status.message


def test_interfaces_without_an_address_or_a_subnet_are_no_trouble(machine: Machine):
    bare = testing.Network(
        "db-cluster",
        bind_addresses=[
            testing.BindAddress([], interface_name="eth0"),
            testing.BindAddress([testing.Address("10.0.0.4", cidr="")], interface_name="eth1"),
        ],
    )
    given = testing.State(networks={bare}, relations={testing.PeerRelation("db-cluster")})

    with machine.context(machine.context.on.update_status(), given) as manager:
        choice = facts.network(manager.charm.model).choice

    assert choice == Unique("10.0.0.4", frozenset({"10.0.0.4"}))


def test_ingress_addresses_are_never_candidates(machine: Machine):
    given = testing.Network(
        "db-cluster",
        bind_addresses=[testing.BindAddress([testing.Address("10.0.0.4", cidr="10.0.0.0/24")], interface_name="eth0")],
        ingress_addresses=["10.9.9.9"],
    )

    with machine.context(
        machine.context.on.update_status(),
        testing.State(networks={given}, relations={testing.PeerRelation("db-cluster")}),
    ) as manager:
        assert facts.network(manager.charm.model).choice == Unique("10.0.0.4", frozenset({"10.0.0.4"}))


def test_the_peer_databags_are_left_alone_during_install(machine: Machine):
    given = state(testing.PeerRelation("db-cluster"), "10.0.0.4/24")

    out = machine.run(machine.context.on.install(), given)

    assert relation_of(out).local_unit_data == relation_of(given).local_unit_data
    assert relation_of(out).local_app_data == {}


@pytest.mark.parametrize(
    ("text", "uuid"),
    [('{"cluster-uuid": "u-1", "schema": 1}', "u-1"), ("{}", ""), ('{"cluster-uuid": 3}', ""), ("{torn", ""), ("", "")],
)
def test_the_disk_s_cluster_is_read_and_a_damaged_identity_is_none(machine: Machine, text: str, uuid: str):
    (machine.state_dir / "identity.json").write_text(text)

    out = machine.run(
        machine.context.on.update_status(), state(testing.PeerRelation("db-cluster"), "10.0.0.4/24", leader=False)
    )

    assert relation_of(out).local_unit_data.get("cluster-uuid", "") == uuid


def test_a_cluster_that_the_disk_showed_once_is_not_forgotten_when_it_cannot_be_read(machine: Machine):
    given = state(
        testing.PeerRelation("db-cluster", local_unit_data={"cluster-uuid": "u-1", "agent-id": "0"}), leader=False
    )
    (machine.state_dir / "identity.json").write_text("{torn")

    out = machine.run(machine.context.on.update_status(), given)

    assert relation_of(out).local_unit_data["cluster-uuid"] == "u-1"


def test_a_unit_that_goal_state_does_not_name_is_leaving(machine: Machine):
    machine.goal = Goal(frozenset({f"{APP}/1"}))

    out = machine.run(machine.context.on.update_status(), state(testing.PeerRelation("db-cluster"), "10.0.0.4/24"))

    assert out.unit_status == ops.MaintenanceStatus("leaving the cluster")

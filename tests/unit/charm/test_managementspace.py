"""Flow 1, hop 1: the option juju-mgmt-space and its binding, from one unit's subnets to controller.conf."""

from __future__ import annotations

import dataclasses

import ops
import pytest
import yaml
from ops import testing

import managementspace
from bindaddress import Candidate
from charmmachine import APP, FOUNDED, OWN, Machine, app_bag, network, on_disk, own_bag, relation, state
from dbaccessor.conf import ManagementSpace
from dbcluster import UnitBag
from managementspace import Wish

INSIDE = Candidate("10.1.0.4", "eth1", "10.1.0.0/24")
PEER = UnitBag("1", "10.0.0.5")


# What the option and the binding say.


@pytest.mark.parametrize(("option", "named"), [("Mgmt", "lower case"), ("a--b", "single hyphens"), ("alpha", "alpha")])
def test_a_name_that_cannot_be_is_refused_with_the_option_and_the_rule(option: str, named: str):
    wish = managementspace.check(option)

    assert wish.name is None, "what is in force stays"
    assert "option juju-mgmt-space" in wish.blocked
    assert named in wish.blocked


def test_the_subnets_are_those_of_the_binding_s_addresses_sorted_and_once():
    others = [Candidate("fd00::4", "eth1", "fd00::/64"), Candidate("10.1.0.5", "eth1", "10.1.0.0/24")]

    assert managementspace.find("mgmt", APP, [*others, INSIDE]) == Wish("mgmt", ("10.1.0.0/24", "fd00::/64"))
    assert managementspace.find("mgmt", APP, [INSIDE, *others]) == Wish("mgmt", ("10.1.0.0/24", "fd00::/64"))


def test_what_no_other_machine_can_dial_makes_no_subnet():
    wish = managementspace.find("mgmt", APP, [INSIDE, Candidate("127.0.0.1", "lo", "127.0.0.0/8")])

    assert wish == Wish("mgmt", ("10.1.0.0/24",))


def test_a_binding_with_nothing_usable_blocks_naming_each_and_the_bind():
    wish = managementspace.find("mgmt", APP, [Candidate("fe80::1", "eth0", "fe80::/64"), Candidate("10.1.0.4")])

    assert wish.subnets == ()
    assert "fe80::1 (eth0, fe80::/64): link-local" in wish.blocked
    assert f"juju bind {APP} management=<space>" in wish.blocked


@pytest.mark.parametrize("failure", ["network-get failed: no devices in space", ""])
def test_a_unit_without_an_answer_waits_says_so_and_guesses_nothing(failure: str):
    wish = managementspace.find("mgmt", APP, [], failure)

    assert (wish.subnets, wish.blocked) == ((), "")
    assert (failure or "no address on the management binding") in wish.waiting
    assert "agents get all of this unit's addresses" in wish.waiting


# Through one hook.


def management(*addresses: str) -> testing.Network:
    return dataclasses.replace(network(*addresses), binding_name=managementspace.BINDING)


def given(
    option: str, *inside: str, leader: bool = True, own: UnitBag = OWN, app=FOUNDED, peer: UnitBag = PEER
) -> testing.State:
    made = state(relation(app, own, unit1=peer), "10.0.0.4/24", leader=leader, config={managementspace.OPTION: option})
    return dataclasses.replace(made, networks={*made.networks, management(*inside)})


def test_a_unit_shares_its_subnets_and_the_leader_merges_them_under_the_name(machine: Machine):
    machine.units(0, 1)
    peer = dataclasses.replace(PEER, management=("10.1.0.0/24", "10.1.1.0/24"))

    out = machine.run(machine.context.on.config_changed(), given("mgmt", "10.1.0.4/24", "10.0.7.4/24", peer=peer))

    wanted = ManagementSpace("mgmt", ("10.0.7.0/24", "10.1.0.0/24", "10.1.1.0/24"))
    assert own_bag(out).management == ("10.0.7.0/24", "10.1.0.0/24")
    assert app_bag(out).management_space == wanted
    assert on_disk(machine).management_space == wanted
    assert app_bag(out).generation == FOUNDED.generation + 1
    assert not [call for call in machine.systemd.calls if call.startswith("restart")]


def test_nothing_is_published_before_every_unit_has_said_what_it_has(machine: Machine):
    machine.units(0, 1)

    out = machine.run(machine.context.on.config_changed(), given("mgmt", "10.1.0.4/24"))

    assert own_bag(out).management == ("10.1.0.0/24",)
    assert (app_bag(out).management_space, app_bag(out).generation) == (None, FOUNDED.generation)


def test_a_unit_that_is_not_there_yet_leaves_the_space_as_it_is(machine: Machine):
    machine.units(0, 1, 2)
    app = dataclasses.replace(FOUNDED, management_space=ManagementSpace("old", ("10.9.0.0/24",)))
    peer = dataclasses.replace(PEER, management=())

    out = machine.run(machine.context.on.config_changed(), given("mgmt", "10.1.0.4/24", app=app, peer=peer))

    assert app_bag(out).management_space == app.management_space


def test_an_unset_option_takes_the_space_away_at_once(machine: Machine):
    machine.units(0, 1, 2)
    app = dataclasses.replace(FOUNDED, management_space=ManagementSpace("mgmt", ("10.1.0.0/24",)))
    own = dataclasses.replace(OWN, management=("10.1.0.0/24",))

    out = machine.run(machine.context.on.config_changed(), given("", "10.1.0.4/24", app=app, own=own))

    assert own_bag(out).management is None
    assert app_bag(out).management_space is None
    assert app_bag(out).generation == FOUNDED.generation + 1
    assert "management-space" not in machine.conf.read_text()


def test_a_follower_renders_the_space_and_a_digest_that_counts_it(machine: Machine):
    app = dataclasses.replace(FOUNDED, management_space=ManagementSpace("mgmt", ("10.1.0.0/24",)))

    out = machine.run(machine.context.on.config_changed(), given("mgmt", "10.1.0.4/24", app=app, leader=False))

    assert yaml.safe_load(machine.conf.read_text())["management-space"] == {"name": "mgmt", "subnets": ["10.1.0.0/24"]}
    assert own_bag(out).digest == app.digest() != FOUNDED.digest()


def test_a_bad_name_blocks_and_what_is_in_force_stays(machine: Machine):
    machine.units(0, 1)
    app = dataclasses.replace(FOUNDED, management_space=ManagementSpace("mgmt", ("10.1.0.0/24",)))
    own = dataclasses.replace(OWN, management=("10.1.0.0/24",))

    out = machine.run(machine.context.on.config_changed(), given("No Name", "10.1.0.4/24", app=app, own=own))

    assert isinstance(out.unit_status, ops.BlockedStatus)
    assert "juju-mgmt-space" in out.unit_status.message
    assert own_bag(out).management == ("10.1.0.0/24",)
    assert on_disk(machine).management_space == app.management_space


def test_a_unit_outside_of_the_space_says_so_in_its_status(machine: Machine):
    machine.controllerd.serve()

    with machine.controllerd:
        out = machine.run(machine.context.on.config_changed(), given("mgmt", leader=False))

    assert own_bag(out).management == (), "it has said that it has none"
    assert isinstance(out.unit_status, ops.WaitingStatus)
    assert out.unit_status.message.startswith("juju-mgmt-space is mgmt: no address on the management binding")


def test_without_the_option_juju_is_not_asked_for_the_binding(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []
    get = ops.model.Model.get_binding

    def note(model: ops.Model, key: str) -> ops.Binding | None:
        asked.append(key)
        return get(model, key)

    monkeypatch.setattr(ops.model.Model, "get_binding", note)
    machine.run(machine.context.on.config_changed(), given("", "10.1.0.4/24"))

    assert asked == ["db-cluster"]

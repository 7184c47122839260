"""The truth of the model: numbers, scopes, leases, bindings, bags."""

import pytest
from localjuju.events import SeenRelation
from localjuju.hookcontext import HookContext, ToolError
from localjuju.leadership import Lease
from localjuju.model import Model, ModelSettings, Refused

from localjujumodel import CHARM, add


@pytest.fixture
def model():
    model = Model("test", ModelSettings(lease_seconds=10), clock=lambda: 0.0)
    model.add_app("app", CHARM, {}, {})
    return model


def context(model, unit):
    for rid in model.facts(unit).relations:
        unit.seen.relations.setdefault(rid, SeenRelation())
    return HookContext("c", model, unit, model.facts(unit))


def test_unit_numbers_and_addresses_are_never_used_again(model):
    first = add(model)
    model.remove_unit(first, orderly=True)

    second = add(model)

    assert (second.name, second.machine) == ("app/1", 1)
    assert model.topology.first_address(1) == "10.77.0.11"


def test_a_refused_address_uses_up_no_number(model):
    with pytest.raises(Refused, match="in use"):
        add(model, "10.77.0.1/24")

    assert add(model).name == "app/0"


def test_buffered_writes_are_seen_by_the_hook_and_by_nobody_else_until_commit(model):
    unit = add(model)
    hook = context(model, unit)
    relation = hook.relations("peer")[0]

    hook.write_bag(relation, {"k": "v"}, app=False)

    assert hook.read_bag(relation, unit.name, app=False)["k"] == "v"
    assert "k" not in relation.bag(unit.name).content
    version = relation.bag(unit.name).version
    hook.commit()
    assert relation.bag(unit.name).content["k"] == "v"
    assert relation.bag(unit.name).version == version + 1


def test_the_same_content_is_no_new_version(model):
    unit = add(model)
    hook = context(model, unit)
    relation = hook.relations("peer")[0]
    hook.write_bag(relation, {"k": "v", "gone": ""}, app=False)
    hook.commit()
    version = relation.bag(unit.name).version

    again = context(model, unit)
    again.write_bag(relation, {"k": "v"}, app=False)
    again.commit()

    assert relation.bag(unit.name).version == version


def test_only_the_leader_writes_the_application_bag_and_only_if_it_still_leads(model):
    leader, other = add(model), add(model)
    model.tick_leases(0)
    relation = model.relations[0]
    with pytest.raises(ToolError, match="cannot write"):
        context(model, other).write_bag(relation, {"k": "v"}, app=True)

    hook = context(model, leader)
    hook.write_bag(relation, {"k": "v"}, app=True)
    hook.write_bag(relation, {"own": "too"}, app=False)
    leader.alive = False
    model.tick_leases(20)

    assert model.is_leader(other.name)
    with pytest.raises(ToolError, match="leadership was lost"):
        hook.commit()
    assert relation.app_bag.content == {}
    assert "own" not in relation.bag(leader.name).content, "all or nothing"


def test_a_hook_reads_each_bag_as_it_first_saw_it(model):
    reader, writer = add(model), add(model)
    reader.seen.relations.clear()
    hook = context(model, reader)
    relation = hook.relations("peer")[0]
    hook.members[relation.id].add(writer.name)
    before = hook.read_bag(relation, writer.name, app=False)

    relation.bag(writer.name).update({"k": "new"}, writer.name)

    assert hook.read_bag(relation, writer.name, app=False) == before


def test_a_leaver_is_in_scope_until_it_has_left_it_and_keeps_its_lease_until_it_is_gone(model):
    leaver, other = add(model), add(model)
    model.tick_leases(0)

    model.start_dying(leaver)
    model.tick_leases(100)

    assert list(model.facts(other).relations[0].members) == [leaver.name]
    model.leave_scope(leaver, 0)
    assert model.facts(other).relations[0].members == {}
    assert model.is_leader(leaver.name)
    model.remove_unit(leaver, orderly=True)
    model.tick_leases(100.1)
    assert model.is_leader(other.name)


def test_a_unit_told_to_leave_before_it_was_installed_never_enters_a_scope(model):
    stays = add(model)
    unit = model.add_unit(model.app("app"), [])
    model.start_dying(unit)

    model.enter_scope(unit)  # Its install hook was running and ends now.

    assert model.facts(stays).relations[0].members == {}


def test_a_writer_is_not_told_of_its_own_application_bag(model):
    unit, other = add(model), add(model)
    model.relations[0].app_bag.update({"k": "v"}, unit.name)

    assert model.facts(unit).relations[0].app_version == 0
    assert model.facts(other).relations[0].app_version == 1


def test_config_is_typed_and_a_new_address_or_binding_counts_as_a_change_of_it(model):
    unit, app = add(model), model.app("app")
    seen = {model.facts(unit).config}

    model.set_config(app, {"level": "3"}, [])
    seen.add(model.facts(unit).config)
    model.topology.add_subnet("10.88.0.0/24", "db")
    model.topology.add_address(unit.machine, "10.88.0.5/24")
    seen.add(model.facts(unit).config)
    model.bind(app, {"peer": "db"}, force=False)
    seen.add(model.facts(unit).config)

    assert len(seen) == 4
    for bad, reason in (({"level": "x"}, "expected int"), ({"other": "1"}, "unknown option")):
        with pytest.raises(Refused, match=reason):
            model.set_config(app, bad, [])


def test_a_bind_that_leaves_a_unit_without_address_is_refused_and_changes_nothing(model):
    unit, app = add(model), model.app("app")
    model.topology.add_subnet("10.88.0.0/24", "db")

    with pytest.raises(Refused, match='no devices in space "db"'):
        model.bind(app, {"peer": "db"}, force=False)

    assert app.space("peer") == "alpha"
    model.bind(app, {"peer": "db"}, force=True)
    assert "no devices" in model.topology.missing(unit.machine, app.space("peer"))


class TestLease:
    def test_a_living_holder_keeps_it_whoever_else_is_there(self):
        lease = Lease(5)

        assert lease.tick(0, ["a", "b"]) and lease.holder == "a"
        assert not lease.tick(100, ["b", "a"])
        assert lease.holder == "a"

    def test_a_dead_holders_lease_runs_out_first(self):
        lease = Lease(5)
        lease.tick(0, ["a"])
        lease.tick(10, ["a", "b"])

        lease.tick(14.9, ["b"])
        assert lease.holder == "a"
        lease.tick(15, ["b"])
        assert lease.holder == "b"

    def test_nobody_left_means_nobody_leads(self):
        lease = Lease(5)
        lease.tick(0, ["a"])

        assert lease.tick(6, []) and lease.holder is None

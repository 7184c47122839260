"""Flow 1, first half: from an address to a file, what one hook publishes, renders and says on the way."""

import dataclasses
import json

import ops
import pytest
from ops import testing

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

# From an address to a file.


def test_the_leader_shares_its_unique_address_and_publishes_the_map(machine: Machine):
    out = machine.run(machine.context.on.config_changed(), state(relation(), "10.0.0.4/24"))

    assert own_bag(out) == UnitBag("0", "10.0.0.4", request=REQUEST, code=workload.code_digest(machine.charm_dir))
    assert app_bag(out).addresses == {"0": "10.0.0.4"}
    assert app_bag(out).bootstrap_controller == "0"


def test_a_founder_is_rendered_only_in_a_later_hook_than_the_one_that_named_it(machine: Machine):
    first = machine.run(machine.context.on.config_changed(), state(relation(), "10.0.0.4/24"))
    assert not machine.conf.exists()
    assert machine.asked_for_hooks == 1

    machine.run(machine.context.on.update_status(), first)

    assert on_disk(machine).bootstrap_controller == "0"
    assert on_disk(machine).cluster_uuid == app_bag(first).cluster_uuid


def test_a_founder_named_by_a_hook_that_failed_is_never_acted_on(machine: Machine):
    before = state(relation(), "10.0.0.4/24")
    uuids = {app_bag(machine.run(machine.context.on.config_changed(), before)).cluster_uuid for _ in range(3)}

    assert len(uuids) == 3  # Each time another one, since each time nothing of it was known;
    assert not machine.conf.exists()  # so none may have been rendered.


def test_a_follower_renders_what_is_published_and_says_so(machine: Machine):
    out = machine.run(machine.context.on.config_changed(), state(relation(FOUNDED, OWN), "10.0.0.4/24", leader=False))

    assert on_disk(machine) == FOUNDED.conf("0", network_latency_ms=10, extra={}, application="control")
    assert (own_bag(out).rendered, own_bag(out).digest) == (4, FOUNDED.digest())
    assert app_bag(out) == FOUNDED


def test_the_leader_renders_a_changed_map_in_the_same_hook(machine: Machine):
    machine.units(0, 1, 2)

    out = machine.run(
        machine.context.on.config_changed(),
        state(relation(FOUNDED, OWN, unit1=UnitBag("1", "10.0.0.5"), unit2=UnitBag("2", "10.0.0.6")), "10.0.0.4/24"),
    )

    assert app_bag(out).addresses == {"0": "10.0.0.4", "1": "10.0.0.5", "2": "10.0.0.6"}
    assert on_disk(machine).db_bind_addresses == app_bag(out).addresses
    assert on_disk(machine).generation == app_bag(out).generation == 5


def test_the_controller_id_once_given_stays_whatever_the_unit_s_number_is(machine: Machine):
    out = machine.run(machine.context.on.config_changed(), state(relation(own=UnitBag("9", "10.0.0.4")), "10.0.0.4/24"))

    assert app_bag(out).addresses == {"9": "10.0.0.4"}
    assert app_bag(out).units == {"9": f"{APP}/0"}


def test_a_unit_bag_that_was_lost_takes_its_id_from_the_disk(machine: Machine):
    machine.run(
        machine.context.on.config_changed(),
        state(relation(FOUNDED, UnitBag("9", "10.0.0.4")), "10.0.0.4/24", leader=False),
    )

    out = machine.run(machine.context.on.config_changed(), state(relation(FOUNDED), "10.0.0.4/24", leader=False))

    assert own_bag(out).controller_id == "9"


def test_the_file_says_the_newest_voters_and_the_latency_without_a_new_generation(machine: Machine):
    newest = {
        "cluster-uuid": "u-1",
        "epoch": {"number": 1, "tag": "9f"},
        "controller-id": "1",
        "role": "voter",
        "last-index": 90,
        "voters": ["0", "1"],
    }
    app = dataclasses.replace(FOUNDED, db_state=json.dumps(newest))
    given = state(relation(app, OWN), "10.0.0.4/24", leader=False, config={"network-latency-ms": 50})

    machine.run(machine.context.on.config_changed(), given)

    assert (on_disk(machine).db_voters, on_disk(machine).db_last_index) == (("0", "1"), 90)
    assert (on_disk(machine).network_latency_ms, on_disk(machine).generation) == (50, 4)


def test_only_root_may_enter_the_state_folder(machine: Machine):
    machine.state_dir.chmod(0o755)

    machine.run(machine.context.on.install(), state(None))

    assert machine.state_dir.stat().st_mode & 0o777 == 0o700


def test_the_ports_are_open(machine: Machine):
    out = machine.run(machine.context.on.start(), state(relation(), "10.0.0.4/24"))

    assert out.opened_ports == {testing.TCPPort(17666), testing.TCPPort(17070)}


# What the operator is told about addresses.


def test_two_addresses_block_name_both_and_the_remedy(machine: Machine):
    out = machine.run(machine.context.on.config_changed(), state(relation(), "10.0.0.4/24", "10.0.9.4/24"))

    assert out.unit_status == ops.BlockedStatus(
        "several local-cloud addresses: 10.0.0.4 (eth0, 10.0.0.0/24); 10.0.9.4 (eth1, 10.0.9.0/24);"
        f" run `juju bind {APP} db-cluster=<space>`"
    )
    assert own_bag(out).address == ""
    assert app_bag(out).unresolved == ("0",)


def test_it_unblocks_by_itself_when_the_binding_is_narrowed(machine: Machine):
    blocked = machine.run(machine.context.on.config_changed(), state(relation(), "10.0.0.4/24", "10.0.9.4/24"))
    bound = dataclasses.replace(blocked, networks=state(None, "10.0.9.4/24").networks)

    first = machine.run(machine.context.on.config_changed(), bound)
    second = machine.run(machine.context.on.update_status(), first)

    assert app_bag(first).addresses == {"0": "10.0.9.4"}
    assert on_disk(machine).own_address == "10.0.9.4"
    assert not isinstance(second.unit_status, ops.BlockedStatus)


def test_addresses_but_none_local_cloud_block(machine: Machine):
    out = machine.run(machine.context.on.config_changed(), state(relation(), "8.8.8.8/24"))

    assert isinstance(out.unit_status, ops.BlockedStatus)
    assert "8.8.8.8 (eth0, 8.8.8.0/24): public" in out.unit_status.message


def test_no_address_at_all_waits(machine: Machine):
    out = machine.run(machine.context.on.config_changed(), state(relation()))

    assert out.unit_status == ops.WaitingStatus("no address on the db-cluster binding yet")


def test_a_failing_network_get_waits_with_juju_s_own_words_and_keeps_the_shared_address(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object) -> None:
        raise ops.ModelError("ERROR no network config found for binding")

    monkeypatch.setattr(ops.model.Model, "get_binding", fail)
    out = machine.run(machine.context.on.config_changed(), state(relation(FOUNDED, OWN), leader=False))

    assert out.unit_status == ops.WaitingStatus("network-get failed: ERROR no network config found for binding")
    assert own_bag(out).address == "10.0.0.4"
    assert on_disk(machine).own_address == "10.0.0.4"


def test_a_second_network_card_blocks_a_running_member_but_takes_nothing_away(machine: Machine):
    machine.controllerd.serve(members=2)
    given = state(relation(FOUNDED, OWN, unit1=UnitBag("1", "10.0.0.5")), "10.0.0.4/24", "10.0.9.4/24")
    machine.units(0, 1)

    with machine.controllerd:
        out = machine.run(machine.context.on.config_changed(), given)

    assert isinstance(out.unit_status, ops.BlockedStatus)
    assert own_bag(out).address == "10.0.0.4"
    assert app_bag(out).addresses == FOUNDED.addresses


def test_a_changed_address_of_a_member_is_shared_and_its_old_one_given_up(machine: Machine):
    (machine.state_dir / "identity.json").write_text('{"cluster-uuid": "u-1", "schema": 1}')

    out = machine.run(machine.context.on.config_changed(), state(relation(FOUNDED, OWN), "10.0.9.4/24", leader=False))

    assert own_bag(out).address == "10.0.9.4"


def test_the_leader_publishes_and_renders_its_own_changed_address(machine: Machine):
    machine.units(0, 1)
    given = state(relation(FOUNDED, OWN, unit1=UnitBag("1", "10.0.0.5")), "10.0.9.4/24")

    out = machine.run(machine.context.on.config_changed(), given)

    assert app_bag(out).addresses == {"0": "10.0.9.4", "1": "10.0.0.5"}
    assert app_bag(out).generation == FOUNDED.generation + 1


# Configuration.


@pytest.mark.parametrize("latency", [4, 1001, -1])
def test_a_latency_out_of_range_blocks_names_the_option_and_keeps_the_one_in_force(machine: Machine, latency: int):
    good = state(relation(FOUNDED, OWN), "10.0.0.4/24", leader=False, config={"network-latency-ms": 50})
    machine.run(machine.context.on.config_changed(), good)
    bad = dataclasses.replace(good, config={"network-latency-ms": latency})

    out = machine.run(machine.context.on.config_changed(), bad)

    assert isinstance(out.unit_status, ops.BlockedStatus)
    assert "network-latency-ms" in out.unit_status.message
    assert on_disk(machine).network_latency_ms == 50


# Trouble in the bags and on the disk.


def test_a_file_ahead_of_what_is_published_stays_and_is_told_to_the_leader(machine: Machine):
    ahead = dataclasses.replace(FOUNDED, generation=7, addresses={"0": "10.0.0.4"})
    machine.run(machine.context.on.config_changed(), state(relation(ahead, OWN), "10.0.0.4/24", leader=False))

    out = machine.run(machine.context.on.config_changed(), state(relation(FOUNDED, OWN), "10.0.0.4/24", leader=False))

    assert on_disk(machine).generation == 7
    assert own_bag(out).rendered == 7
    assert isinstance(out.unit_status, ops.WaitingStatus)
    assert "backwards" in out.unit_status.message


def test_a_torn_file_is_repaired_by_the_next_hook(machine: Machine):
    given = state(relation(FOUNDED, OWN), "10.0.0.4/24", leader=False)
    out = machine.run(machine.context.on.config_changed(), given)
    machine.conf.write_text('schema: 1\ncontroller-id: "0')

    machine.run(machine.context.on.update_status(), out)

    assert on_disk(machine).generation == 4


def test_an_app_bag_of_a_newer_charm_blocks_and_leaves_the_file_alone(machine: Machine):
    given = state(relation(FOUNDED, OWN), "10.0.0.4/24", leader=False)
    out = machine.run(machine.context.on.config_changed(), given)
    before = machine.conf.read_text()
    newer = dict(relation_of(out).local_app_data) | {"schema": "2", "generation": "9"}

    out = machine.run(machine.context.on.update_status(), with_relation(out, local_app_data=newer))

    assert machine.conf.read_text() == before
    assert isinstance(out.unit_status, ops.BlockedStatus)
    assert "refresh this unit" in out.unit_status.message


def test_a_leader_that_cannot_read_the_app_bag_does_not_overwrite_it(machine: Machine):
    newer = {"schema": "2", "generation": "9"}

    out = machine.run(
        machine.context.on.update_status(),
        with_relation(state(relation(None, OWN), "10.0.0.4/24"), local_app_data=newer),
    )

    assert relation_of(out).local_app_data == newer


def test_a_unit_whose_id_departed_is_told_so(machine: Machine):
    gone = dataclasses.replace(FOUNDED, addresses={"1": "10.0.0.5"}, departed=("0",))

    out = machine.run(machine.context.on.update_status(), state(relation(gone, OWN), "10.0.0.4/24", leader=False))

    assert isinstance(out.unit_status, ops.BlockedStatus)
    assert "remove this unit, add another" in out.unit_status.message

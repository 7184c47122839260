"""Flow 1, hop 2 to 3: what the leader publishes, row by row of contract C1."""

import dataclasses
import json
from collections.abc import Iterable

import pytest

import topology
from dbcluster import AppBag, UnitBag
from topology import Goal, Rendered, View

U0, U1, U2, U3 = (UnitBag(str(n), f"10.0.0.{n + 4}") for n in range(4))
FOUNDED = AppBag(
    generation=4,
    cluster_uuid="u-1",
    bootstrap_controller="0",
    bootstrapped=True,
    addresses={"0": "10.0.0.4", "1": "10.0.0.5"},
    units={"0": "c/0", "1": "c/1"},
)
FOUNDING = dataclasses.replace(FOUNDED, bootstrapped=False)


def propose(
    app: AppBag,
    *bags: UnitBag,
    alive: Iterable[str] | None = None,
    dying: Iterable[str] = (),
    rendered: Rendered = Rendered(),  # noqa: B008  # A frozen value.
    known: bool = True,
) -> topology.Proposal:
    units = {f"c/{bag.controller_id}": bag for bag in bags}
    goal = Goal(frozenset(units if alive is None else alive), frozenset(dying)) if known else None
    return topology.propose(View(app, units, goal, rendered), lambda: "u-new")


def state(controller_id: str, uuid: str = "u-1", epoch: int = 1, index: int = 17, voters: str = "01") -> str:
    return json.dumps(
        {
            "cluster-uuid": uuid,
            "epoch": {"number": epoch, "tag": "9f"},
            "controller-id": controller_id,
            "role": "voter",
            "last-index": index,
            "voters": list(voters),
        }
    )


def told(bag: UnitBag, db_state: str) -> UnitBag:
    return dataclasses.replace(bag, db_state=db_state)


# The map is complete or unchanged.


def test_a_whole_view_becomes_a_map_of_all_addresses():
    app = propose(AppBag(), U0, U1).app

    assert app.addresses == {"0": "10.0.0.4", "1": "10.0.0.5"}
    assert app.units == {"0": "c/0", "1": "c/1"}
    assert (app.unresolved, app.departed, app.generation) == ((), (), 1)


@pytest.mark.parametrize(
    "unready", [UnitBag("2"), UnitBag("", "10.0.0.6"), UnitBag("")], ids=["no address", "no id", "nothing"]
)
def test_a_peer_without_both_keys_is_unresolved_never_half_present(unready: UnitBag):
    view = View(AppBag(), {"c/0": U0, "c/2": unready}, Goal(frozenset({"c/0", "c/2"})))

    app = topology.propose(view, lambda: "u-new").app

    assert app.addresses == {"0": "10.0.0.4"}
    assert app.unresolved == ("2",)


def test_an_id_is_the_one_its_unit_publishes_whatever_the_unit_s_number_is():
    view = View(AppBag(), {"c/0": U0, "c/1": UnitBag("9", "10.0.0.5")}, Goal(frozenset({"c/0", "c/1"})))

    app = topology.propose(view, lambda: "u-new").app

    assert app.addresses == {"0": "10.0.0.4", "9": "10.0.0.5"}
    assert app.units == {"0": "c/0", "9": "c/1"}


def test_a_unit_that_is_not_in_the_relation_yet_leaves_the_map_unchanged():
    proposal = propose(FOUNDED, U0, U1, U2, alive=["c/0", "c/1", "c/2", "c/3"])

    assert proposal.app == FOUNDED
    assert proposal.hole == "c/3 not in the relation yet"


def test_a_fresh_leader_that_does_not_see_its_peers_yet_does_not_shrink_the_map():
    assert propose(FOUNDED, U1, alive=["c/0", "c/1"]).app == FOUNDED


def test_a_force_removed_unit_that_has_not_departed_yet_leaves_the_map_unchanged():
    assert propose(FOUNDED, U0, U1, U2, alive=["c/0", "c/2"]).app == FOUNDED


def test_an_unknown_goal_state_leaves_the_map_unchanged():
    proposal = propose(FOUNDED, U0, known=False)

    assert proposal.app == FOUNDED
    assert "goal-state" in proposal.hole


def test_a_peer_with_a_newer_schema_leaves_the_map_unchanged():
    newer = dataclasses.replace(U2, schema=2)

    assert propose(FOUNDED, U0, U1, newer).app == FOUNDED


def test_an_id_departs_when_goal_state_no_longer_names_its_unit():
    proposal = propose(FOUNDED, U0)

    assert proposal.app.addresses == {"0": "10.0.0.4"}
    assert proposal.app.departed == ("1",)
    assert proposal.app.generation == 5
    assert "departed: 1" in " ".join(proposal.reasons)


def test_a_dying_unit_that_left_the_relation_stays_in_the_map_while_goal_state_names_it():
    assert propose(FOUNDED, U0, dying=["c/1"]).app == FOUNDED


def test_a_dying_unit_that_is_still_in_the_relation_keeps_nobody_out_and_stays_in_the_map():
    before = propose(FOUNDED, U0, U1, U2).app

    proposal = propose(before, U0, U1, U2, U3, alive=["c/0", "c/1", "c/3"], dying=["c/2"])

    assert proposal.hole == ""
    assert proposal.app.addresses == {**before.addresses, "3": U3.address}
    assert proposal.app.departed == ()


def test_a_dying_unit_that_was_never_in_the_map_does_not_come_into_it():
    assert propose(FOUNDED, U0, U1, U2, alive=["c/0", "c/1"], dying=["c/2"]).app == FOUNDED


def test_a_living_unit_that_is_not_seen_holds_up_the_map_whoever_is_dying():
    proposal = propose(FOUNDED, U0, U1, alive=["c/0", "c/3"], dying=["c/1"])

    assert proposal.app == FOUNDED
    assert proposal.hole == "c/3 not in the relation yet"


def test_a_unit_that_came_in_place_of_a_dying_one_may_have_its_address():
    app = propose(FOUNDED, U0, U1, UnitBag("2", U1.address), alive=["c/0", "c/2"], dying=["c/1"]).app

    assert app.addresses == {"0": U0.address, "2": U1.address}
    assert (app.unresolved, app.departed) == (("1",), ())


def test_a_dying_unit_says_nothing_of_the_management_space():
    units = {"c/0": dataclasses.replace(U0, management=("10.0.0.0/24",)), "c/1": U1}
    view = View(FOUNDED, units, Goal(frozenset({"c/0"}), frozenset({"c/1"})), space="blue")

    space = topology.propose(view, lambda: "u-new").app.management_space

    assert space is not None
    assert (space.name, space.subnets) == ("blue", ("10.0.0.0/24",))


def test_an_unresolved_unit_departs_as_well():
    app = propose(dataclasses.replace(FOUNDED, unresolved=("2",), units={**FOUNDED.units, "2": "c/2"}), U0, U1).app

    assert (app.unresolved, app.departed) == ((), ("2",))


def test_an_address_that_a_peer_no_longer_publishes_stays_in_the_map():
    assert propose(FOUNDED, U0, UnitBag("1")).app == FOUNDED


def test_a_new_address_of_a_peer_replaces_its_old_one():
    assert propose(FOUNDED, U0, UnitBag("1", "10.0.0.9")).app.addresses["1"] == "10.0.0.9"


def test_two_units_may_swap_their_addresses():
    app = propose(FOUNDED, dataclasses.replace(U0, address=U1.address), dataclasses.replace(U1, address=U0.address)).app

    assert app.addresses == {"0": U1.address, "1": U0.address}
    assert app.unresolved == ()


def test_a_new_address_that_another_unit_has_still_is_taken_once_that_one_has_moved():
    moved = dataclasses.replace(U0, address=U1.address)

    first = propose(FOUNDED, moved, U1).app
    second = propose(first, moved, dataclasses.replace(U1, address="10.0.0.9")).app

    assert first.addresses == FOUNDED.addresses
    assert second.addresses == {"0": U1.address, "1": "10.0.0.9"}


def test_a_remembered_address_that_another_unit_publishes_now_is_no_longer_that_of_the_first():
    app = propose(FOUNDED, dataclasses.replace(U0, address=U1.address), UnitBag("1")).app

    assert app.addresses == {"0": U1.address}
    assert app.unresolved == ("1",)


def test_a_departed_id_never_comes_back():
    tombstoned = dataclasses.replace(FOUNDED, departed=("2",))

    app = propose(tombstoned, U0, U1, U2).app

    assert app == tombstoned


def test_of_two_units_with_one_address_the_later_is_unresolved():
    app = propose(FOUNDED, U0, U1, UnitBag("2", "10.0.0.5")).app

    assert app.addresses == FOUNDED.addresses
    assert app.unresolved == ("2",)


def test_ids_are_ordered_by_number():
    app = propose(AppBag(), UnitBag("10", "10.0.0.5"), UnitBag("9", "10.0.0.5")).app

    assert app.unresolved == ("10",)


# The generation.


def test_nothing_new_changes_nothing():
    proposal = propose(FOUNDED, U0, U1, rendered=Rendered(4, FOUNDED.digest()))

    assert proposal.app == FOUNDED
    assert proposal.reasons == ()


@pytest.mark.parametrize("where", ["peer", "disk"])
def test_a_change_is_numbered_above_whatever_anybody_rendered(where: str):
    peer = dataclasses.replace(U0, rendered=9 if where == "peer" else 4, digest="x")

    app = propose(FOUNDED, peer, rendered=Rendered(9 if where == "disk" else 4, "x")).app

    assert app.generation == 10


def test_a_generation_that_was_rendered_and_never_published_is_overtaken_although_nothing_else_is_new():
    app = propose(FOUNDED, U0, dataclasses.replace(U1, rendered=5, digest="x")).app

    assert app.generation == 6
    assert app.digest() == FOUNDED.digest()


def test_one_number_rendered_with_other_content_is_overtaken():
    app = propose(FOUNDED, U0, dataclasses.replace(U1, rendered=4, digest="other")).app

    assert app.generation == 5


def test_an_older_number_that_a_peer_still_has_is_no_reason_for_a_new_one():
    assert propose(FOUNDED, U0, dataclasses.replace(U1, rendered=3, digest="x")).app == FOUNDED


# Bootstrap once.


def test_the_first_map_names_a_founder_and_a_new_cluster():
    app = propose(AppBag(), U0, U1).app

    assert (app.cluster_uuid, app.bootstrap_controller, app.bootstrapped) == ("u-new", "0", False)


def test_there_is_no_founder_before_there_is_an_address():
    app = propose(AppBag(), UnitBag("0")).app

    assert (app.cluster_uuid, app.bootstrap_controller) == ("", "")
    assert app.unresolved == ("0",)


def test_a_founder_is_acted_on_only_when_it_was_read_back():
    proposal = propose(AppBag(), U0)

    assert not proposal.acts_on(AppBag())
    assert proposal.acts_on(proposal.app)


def test_the_founder_stays_while_its_unit_is_there():
    assert propose(FOUNDING, U0, U1).app == FOUNDING


@pytest.mark.parametrize("where", ["dying", "out of sight"])
def test_the_founder_stays_while_its_unit_may_still_be_there(where: str):
    if where == "dying":
        proposal = propose(FOUNDING, U1, dying=["c/0"])
    else:
        proposal = propose(FOUNDING, U1, alive=["c/0", "c/1"])

    assert (proposal.app.cluster_uuid, proposal.app.bootstrap_controller) == ("u-1", "0")


def test_a_departed_founder_is_replaced_with_a_new_cluster_uuid():
    proposal = propose(FOUNDING, U1)

    assert (proposal.app.cluster_uuid, proposal.app.bootstrap_controller) == ("u-new", "1")
    assert not proposal.acts_on(FOUNDING)


def test_a_departed_founder_is_not_replaced_while_a_disk_shows_its_cluster():
    proposal = propose(FOUNDING, dataclasses.replace(U1, cluster_uuid="u-1"))

    assert (proposal.app.cluster_uuid, proposal.app.bootstrap_controller) == ("u-1", "0")


def test_a_departed_founder_is_not_replaced_once_the_cluster_exists():
    app = propose(FOUNDED, U1).app

    assert (app.cluster_uuid, app.bootstrap_controller, app.bootstrapped) == ("u-1", "0", True)


def test_a_dying_unit_does_not_become_the_founder():
    three = dataclasses.replace(FOUNDING, addresses={"0": "10.0.0.4", "1": "10.0.0.5", "2": "10.0.0.6"})
    three = dataclasses.replace(three, units={"0": "c/0", "1": "c/1", "2": "c/2"})

    app = propose(three, U1, U2, alive=["c/2"], dying=["c/1"]).app

    assert (app.cluster_uuid, app.bootstrap_controller) == ("u-new", "2")


def test_a_founder_without_any_successor_stays_named():
    app = propose(FOUNDING, UnitBag("2")).app

    assert (app.cluster_uuid, app.bootstrap_controller) == ("u-1", "0")


def test_the_first_db_state_of_any_unit_makes_the_cluster_bootstrapped():
    app = propose(FOUNDING, U0, told(U1, state("1"))).app

    assert app.bootstrapped
    assert app.cluster_uuid == "u-1"


def test_bootstrapped_is_published_although_the_map_cannot_change_now():
    app = propose(FOUNDING, told(U0, state("0")), alive=["c/0", "c/1"]).app

    assert app.bootstrapped
    assert app.addresses == FOUNDING.addresses


def test_a_lost_cluster_uuid_is_taken_from_a_member_never_invented():
    lost = dataclasses.replace(FOUNDED, cluster_uuid="", bootstrapped=False, bootstrap_controller="")

    app = propose(lost, U0, told(U1, state("1"))).app

    assert (app.cluster_uuid, app.bootstrapped) == ("u-1", True)


def test_a_lost_cluster_uuid_is_taken_from_a_disk_and_nobody_may_found_another():
    lost = dataclasses.replace(FOUNDED, cluster_uuid="", bootstrapped=False, bootstrap_controller="")

    app = propose(lost, U0, dataclasses.replace(U1, cluster_uuid="u-1")).app

    assert (app.cluster_uuid, app.bootstrap_controller) == ("u-1", "")


def test_a_db_state_of_another_cluster_does_not_rename_a_bootstrapped_one():
    app = propose(FOUNDED, U0, told(U1, state("1", uuid="u-other"))).app

    assert app.cluster_uuid == "u-1"
    assert app.db_state == ""


# The newest known voters.


def test_the_newest_db_state_is_the_one_of_the_highest_epoch_then_index():
    states = [state("0", epoch=1, index=90), state("1", epoch=2, index=20), state("2", epoch=2, index=30)]

    app = propose(FOUNDED, *(told(bag, text) for bag, text in zip((U0, U1, U2), states, strict=True))).app

    assert app.db_state == states[2]


def test_the_newest_db_state_does_not_get_older_when_its_unit_is_gone():
    newest = state("1", index=90)

    app = propose(dataclasses.replace(FOUNDED, db_state=newest), told(U0, state("0", index=17))).app

    assert app.db_state == newest


def test_a_newer_db_state_alone_is_no_new_generation():
    app = propose(FOUNDED, U0, told(U1, state("1"))).app

    assert (app.generation, app.db_state) == (4, state("1"))

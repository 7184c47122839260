"""Flow 1, first half, several units: the stories that contract C1 was written for, told hook by hook."""

from collections.abc import Iterator

import pytest

from manyunits import Model


@pytest.fixture
def model() -> Iterator[Model]:
    model = Model()
    for _ in range(3):
        model.add_unit()
    model.leader = 0
    yield model
    model.close()


def round_of_hooks(model: Model, *numbers: int) -> None:
    """Tell these units (all, if none is named) of everybody, and run one hook of each, in this order."""
    for number in numbers or sorted(model.hosts):
        for peer in range(model.next_number):
            model.tell(number, peer)
        model.hook(number)


def settle(model: Model) -> None:
    for _ in range(6):
        round_of_hooks(model)


def test_three_units_become_one_cluster_founded_by_the_first(model: Model):
    settle(model)

    assert [unit for unit, _ in model.foundings] == [0]
    assert {host.node.cluster for host in model.hosts.values()} == {model.published[-1].cluster_uuid}
    assert model.published[-1].bootstrapped
    assert all(host.conf and host.conf.bootstrapped for host in model.hosts.values())


def test_a_leader_whose_founding_hook_failed_and_who_lost_leadership_founded_nothing(model: Model):
    round_of_hooks(model, 1, 2)  # They share their addresses; nobody leads yet.
    for peer in (1, 2):
        model.tell(0, peer)

    model.hook(0, fails=True)
    model.leader = 1
    settle(model)

    assert len(model.foundings) == 1


def test_a_hook_that_fails_after_its_node_founded_the_cluster_founds_no_second_one(model: Model):
    round_of_hooks(model, 1, 2)
    round_of_hooks(model, 0)

    model.hook(0, fails=True)
    model.leader = 1
    settle(model)

    assert [unit for unit, _ in model.foundings] == [0]
    assert {host.node.cluster for host in model.hosts.values()} == {model.foundings[0][1]}


def test_a_leader_that_dies_between_a_peer_s_change_and_its_own_hook_is_made_up_for(model: Model):
    settle(model)
    newcomer = model.add_unit()
    round_of_hooks(model, newcomer)

    model.force_remove(0)
    model.leader = 1
    settle(model)

    assert set(model.published[-1].addresses) == {"1", "2", str(newcomer)}
    assert model.published[-1].departed == ("0",)
    assert {host.conf.generation for host in model.hosts.values() if host.conf} == {model.published[-1].generation}


def test_a_generation_that_only_a_failed_leader_rendered_is_overtaken_by_its_successor(model: Model):
    settle(model)
    model.force_remove(2)
    model.tell(0, 2)
    model.hook(0, fails=True)  # It rendered the map without unit 2, and nobody knows.
    alone = model.hosts[0].conf
    assert alone is not None
    assert alone.generation > model.published[-1].generation

    model.leader = 1
    model.add_unit()
    settle(model)

    assert model.published[-1].generation > alone.generation
    assert model.hosts[0].conf is not None
    assert model.hosts[0].conf.generation == model.published[-1].generation


def test_two_units_removed_by_force_at_once_leave_a_file_that_names_the_last_one_after_one_hook(model: Model):
    settle(model)
    model.force_remove(1)
    model.force_remove(2)

    model.tell(0, 1)
    model.hook(0)  # The departure of the first: the second is still in the relation.
    assert set(model.published[-1].addresses) == {"0", "1", "2"}
    model.tell(0, 2)
    model.hook(0)

    assert model.hosts[0].conf is not None
    assert model.hosts[0].conf.db_bind_addresses == {"0": "10.0.0.10"}
    assert model.hosts[0].conf.departed == ("1", "2")


def test_a_fresh_leader_that_was_told_of_nobody_yet_shrinks_nothing(model: Model):
    settle(model)
    newcomer = model.add_unit()

    model.leader = newcomer
    model.hook(newcomer)

    assert set(model.published[-1].addresses) == {"0", "1", "2"}


def test_a_founder_removed_before_it_founded_is_replaced_with_another_cluster_uuid(model: Model):
    round_of_hooks(model, 1, 2)
    round_of_hooks(model, 0)
    named = model.published[-1]
    assert (named.bootstrap_controller, model.foundings) == ("0", [])

    model.force_remove(0)
    model.leader = 1
    settle(model)

    assert [unit for unit, _ in model.foundings] == [1]
    assert model.foundings[0][1] != named.cluster_uuid
    assert {host.node.cluster for host in model.hosts.values()} == {model.foundings[0][1]}


def test_settled_units_change_nothing_however_often_their_hooks_run(model: Model):
    settle(model)
    before = (dict(model.app_bag), [(dict(h.bag), h.conf) for h in model.hosts.values()])

    for number in (2, 0, 0, 1, 2, 1):
        round_of_hooks(model, number)

    assert (model.app_bag, [(h.bag, h.conf) for h in model.hosts.values()]) == before

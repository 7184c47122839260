"""Quorum, what may be lost, and targets: laws rather than examples."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from dbaccessor.dqlite import cluster
from dbaccessor.dqlite.cluster import Member, Role, Targets


def members_of(roles: list[Role]) -> list[Member]:
    return [Member(number, f"controller-{number}-{number}", role) for number, role in enumerate(roles, 1)]


roles = st.lists(st.sampled_from(Role), min_size=0, max_size=9)
states = roles.flatmap(
    lambda found: st.tuples(
        st.just(members_of(found)),
        st.sets(st.sampled_from(range(1, len(found) + 1)) if found else st.nothing()),
    )
)


@given(st.integers(min_value=1, max_value=99))
def test_two_quorums_always_meet(voters: int):
    assert 2 * cluster.quorum(voters) > voters
    assert cluster.quorum(voters) <= voters


@given(states)
def test_as_many_as_may_be_lost_can_be_lost_and_one_more_cannot(state: tuple[list[Member], set[int]]):
    members, answering = state
    if not cluster.has_quorum(members, answering):
        assert cluster.may_lose(members, answering) == 0
        return
    voters = [m.dqlite_id for m in members if m.role is Role.VOTER and m.dqlite_id in answering]
    margin = cluster.may_lose(members, answering)

    for lost in itertools.combinations(voters, margin):
        assert cluster.has_quorum(members, answering - set(lost))
    for lost in itertools.combinations(voters, margin + 1):
        assert not cluster.has_quorum(members, answering - set(lost))


@given(states, st.data())
def test_losing_one_that_does_not_vote_changes_no_margin(state: tuple[list[Member], set[int]], data: st.DataObject):
    members, answering = state
    others = [m.dqlite_id for m in members if m.role is not Role.VOTER]
    if others:
        lost = data.draw(st.sampled_from(others))
        assert cluster.may_lose(members, answering - {lost}) == cluster.may_lose(members, answering)


def test_the_margins_of_the_sizes_that_people_run():
    def margin(voters: int, dead: int = 0) -> int:
        members = members_of([Role.VOTER] * voters)
        return cluster.may_lose(members, range(1, voters - dead + 1))

    assert [margin(n) for n in (1, 2, 3, 4, 5)] == [0, 0, 1, 1, 2]
    assert [margin(3, dead) for dead in (0, 1, 2, 3)] == [1, 0, 0, 0]
    assert cluster.may_lose([], []) == 0
    assert not cluster.has_quorum([], [])


@given(st.integers(min_value=0, max_value=50))
def test_targets_give_everybody_a_role(count: int):
    targets = cluster.targets(count)

    assert targets.voters + targets.standbys + targets.spares == count
    assert targets.voters <= cluster.VOTERS
    assert targets.standbys <= cluster.STANDBYS
    assert targets.standbys == 0 or targets.voters == cluster.VOTERS
    assert targets.spares == 0 or targets.standbys == cluster.STANDBYS


def test_seven_are_three_voters_three_standbys_and_a_spare():
    assert cluster.targets(7) == Targets(voters=3, standbys=3, spares=1)


@given(st.integers(min_value=1, max_value=9))
def test_roles_at_their_target_are_not_off_target(count: int):
    targets = cluster.targets(count)
    found = [Role.VOTER] * targets.voters + [Role.STANDBY] * targets.standbys + [Role.SPARE] * targets.spares
    members = members_of(found)

    assert cluster.off_target(members, range(1, count + 1)) is None


@given(states)
def test_what_dqlite_would_change_nothing_about_is_on_target(state: tuple[list[Member], set[int]]):
    """Dqlite makes every silent member a spare, then fills voters, then stand-bys, from those that answer."""
    members, answering = state
    silent_ok = all(m.role is Role.SPARE for m in members if m.dqlite_id not in answering)
    found = [m.role for m in members if m.dqlite_id in answering]
    targets = cluster.targets(len(found))
    settled = silent_ok and (found.count(Role.VOTER), found.count(Role.STANDBY)) == (targets.voters, targets.standbys)

    sentence = cluster.off_target(members, answering)

    if cluster.has_quorum(members, answering):
        assert (sentence is None) == settled
    else:
        assert sentence is None


def test_the_sentence_names_what_is_there_and_what_should_be():
    members = members_of([Role.VOTER, Role.SPARE, Role.SPARE, Role.SPARE])

    assert cluster.off_target(members, range(1, 5)) == (
        "there are 1 voter, 0 stand-bys and 3 spares that answer, and there should be 3 voters, 1 stand-by and 0 spares"
    )


def test_the_sentence_names_the_silent_ones():
    members = members_of([Role.VOTER, Role.VOTER, Role.VOTER])

    assert cluster.off_target(members, {1, 2}) == "controller-3-3 should be a spare while silent"

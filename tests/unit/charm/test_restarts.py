"""Whose turn it is to restart after a refresh: every case of the rule, and that no two units find it theirs."""

import dataclasses
import itertools

import pytest

from controlsocket import Cluster, Member, Status
from dbcluster import UnitBag
from restarts import DEADLINE_SECONDS, UNWELL_SECONDS, Restart, View, Wait, decide

OLD, NEW = "0ld", "new"
SERVES, BEHIND = UnitBag(code=NEW, serves_with=NEW), UnitBag(code=OLD, serves_with=OLD)
HAS_IT, SILENT = UnitBag(code=NEW), UnitBag()
LATE = DEADLINE_SECONDS


def status(roles: str = "vvv", *, here: int = 1, silent: str = "", leader: str | None = "0") -> Status:
    """A member for each letter (voter, stand-by or spare), of which `here` is this unit's."""
    names = {"v": "voter", "b": "stand-by", "s": "spare"}
    members = tuple(
        Member(str(n), names[role], str(n) == leader, str(n) not in silent, n == here) for n, role in enumerate(roles)
    )
    return Status("serving", cluster=Cluster(leader=leader, members=members))


def view(
    *bags: UnitBag, own: int = 1, seen: Status | None = None, due_seconds: float = 1.0, unwell_seconds: float = 0.0
) -> View:
    """What unit `own` sees; the bags are those of units 0, 1, … without its own."""
    numbers = [n for n in range(len(bags) + 1) if n != own][: len(bags)]
    peers = {f"c/{n}": dataclasses.replace(bag, controller_id=str(n)) for n, bag in zip(numbers, bags, strict=True)}
    return View(str(own), NEW, due_seconds, seen, unwell_seconds, peers)


# The turn. Unit 1 of three looks at unit 0, and never at unit 2.


@pytest.mark.parametrize(
    ("before", "due_seconds", "waits"),
    [
        (SERVES, 1.0, False),
        (BEHIND, 1.0, True),  # Its hook has not run yet.
        (BEHIND, LATE, False),  # Its agent is down.
        (BEHIND, -1.0, False),  # The clock was set back: nobody knows how long it has been.
        (SILENT, 1.0, True),  # Its charm is older, or it has only just come.
        (SILENT, LATE, False),
        (HAS_IT, 1.0, True),  # It is restarting, or waits itself.
        (HAS_IT, LATE, True),  # The new code does not start there.
        (UnitBag(code=NEW, serves_with=OLD), LATE, True),
        (UnitBag(code=OLD, serves_with=NEW), 1.0, True),  # It served with this code once, and is to go back to it.
    ],
)
@pytest.mark.parametrize("after", [SERVES, BEHIND, SILENT, HAS_IT])
def test_the_turn_is_this_unit_s_when_those_before_it_serve_with_the_new_code(
    before: UnitBag, due_seconds: float, waits: bool, after: UnitBag
):
    decision = decide(view(before, after, seen=status(), due_seconds=due_seconds))

    assert decision == (Wait("c/0 first") if waits else Restart("it is its turn"))


def test_the_first_in_the_order_of_numbers_is_named():
    assert decide(view(*[BEHIND] * 10, own=10, seen=status("v" * 11, here=10))) == Wait("c/0 first")
    assert decide(view(SERVES, SERVES, *[BEHIND] * 8, own=10, seen=status("v" * 11, here=10))) == Wait("c/2 first")
    assert decide(view(*[SERVES] * 2, *[BEHIND] * 9, own=2, seen=status("v" * 11, here=2))) == Restart("it is its turn")


def test_a_unit_that_is_no_member_is_not_waited_for():
    seen = status("vvvv", here=1)
    assert seen.cluster is not None
    without_0 = dataclasses.replace(view(BEHIND, own=1), status=Status("serving", cluster=_without(seen.cluster, "0")))

    assert decide(without_0) == Restart("it is its turn")


def _without(cluster: Cluster, controller_id: str) -> Cluster:
    members = tuple(m for m in cluster.members if m.controller_id != controller_id)
    return Cluster(leader="2", members=members)


# The margin, in this unit's turn.


@pytest.mark.parametrize(
    ("seen", "lacking"),
    [
        (status("vv"), ""),  # Two members cannot help it.
        (status("vvv"), ""),
        (status("vvvb"), ""),
        (status("vsv"), "2 of 3 voters"),  # Unit 1 comes back without its vote, and gets it in a moment.
        (status("svv"), "2 of 3 voters"),
        (status("vvvb", silent="3"), ""),
        (status("vvvb", silent="2"), "2 of 3 voters"),
        (status("vvv", silent="0", leader="2"), "the quorum would be lost"),
        (status("vvs", silent="2"), "the quorum would be lost"),
        (status("vvvvv", silent="4"), ""),
        (status("vvvvv", silent="34"), "the quorum would be lost"),
        (status("vbvv"), ""),  # It has no vote to take away.
    ],
)
def test_a_member_is_stopped_only_when_the_others_keep_the_quorum(seen: Status, lacking: str):
    assert decide(view(SERVES, seen=seen)) == (Wait(lacking, soon=True) if lacking else Restart("it is its turn"))
    late = decide(view(SERVES, seen=seen, due_seconds=LATE))
    assert isinstance(late, Restart)
    assert lacking in late.reason


def test_who_is_before_comes_before_the_margin_even_after_the_deadline():
    decision = decide(view(HAS_IT, seen=status(silent="0", leader="2"), due_seconds=LATE))

    assert decision == Wait("c/0 first")


# Nothing to lose.


@pytest.mark.parametrize(
    "seen",
    [
        Status("waiting"),
        Status("serving", cluster=Cluster(leader="0", members=(Member("0", "voter", True, True),))),
        status("v", here=0),
    ],
    ids=["no cluster", "no member", "alone"],
)
def test_a_unit_that_nobody_counts_on_restarts_at_once(seen: Status):
    assert isinstance(decide(view(own=0 if seen == status("v", here=0) else 1, seen=seen)), Restart)


@pytest.mark.parametrize("seen", [None, status(leader=None)], ids=["silent", "without a quorum"])
def test_what_is_unwell_for_longer_than_an_election_is_restarted_out_of_turn(seen: Status | None):
    first = decide(view(BEHIND, seen=seen, unwell_seconds=UNWELL_SECONDS - 1))
    later = decide(view(BEHIND, seen=seen, unwell_seconds=UNWELL_SECONDS))

    assert isinstance(first, Wait) and first.soon
    assert isinstance(later, Restart)


# All of them together.


@pytest.mark.parametrize("bags", list(itertools.product([SERVES, BEHIND, SILENT, HAS_IT], repeat=4)))
def test_at_most_one_of_those_that_have_not_restarted_finds_its_turn(bags: tuple[UnitBag, ...]):
    waiting = [n for n, bag in enumerate(bags) if bag != SERVES]

    turns = [
        n
        for n in waiting
        if isinstance(decide(view(*bags[:n], *bags[n + 1 :], own=n, seen=status("vvvv", here=n))), Restart)
    ]

    assert turns == waiting[:1]

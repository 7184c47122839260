"""An operator's rebuild-cluster: every refusal with its sentence, and what force changes and what it does not."""

from __future__ import annotations

import dataclasses
import itertools

import msgspec
import pytest

from dbaccessor import rebuild
from dbaccessor.actions import Reconfigure
from dbaccessor.dqlite.nodedir import NO_ENTRY, LastEntry
from dbaccessor.identity import Epoch
from dbaccessor.situation import Disk, Peer, View
from situations import E1, E1_OTHER, GOOD, LONELY, ME, NAMED, NAMES, silent

VOTERS = frozenset(NAMES)


def stuck(controller_id: str, term: int = 3, index: int = 50) -> Peer:
    """A member that answers, runs, and has no leader either."""
    return Peer(
        controller_id,
        answers=True,
        holds_data=True,
        same_cluster=True,
        epoch=E1,
        running=True,
        last=LastEntry(term, index),
    )


def stopped(controller_id: str, term: int = 3, index: int = 50) -> Peer:
    """A member whose controllerd answers, and whose node does not run: a full disk, say."""
    return dataclasses.replace(stuck(controller_id, term, index), running=False)


LOST = View(
    conf=NAMED,
    disk=GOOD,
    running=LONELY,
    peers=(silent("1"), silent("2")),
    members=NAMES,
)
BOTH_OFF = dataclasses.replace(LOST, conf=msgspec.structs.replace(NAMED, departed=("1", "2")))

NEVER = {
    "no identity": ({"disk": Disk()}, "no member of a cluster"),
    "still joining": (
        {"disk": dataclasses.replace(LOST.disk, identity=msgspec.structs.replace(ME, state="joining"))},
        "no member of a cluster",
    ),
    "not running": ({"running": None}, "does not run"),
    "a leader here": ({"running": dataclasses.replace(LONELY, leader=NAMES[1])}, "a quorum lives"),
    "an election": ({"running": dataclasses.replace(LONELY, silent_seconds=1.0)}, "ask again after"),
    "a leader there": (
        {"peers": (dataclasses.replace(stuck("1"), leader=NAMES[2]), silent("2"))},
        "controller 1 follows controller-2-102",
    ),
    "another epoch": ({"peers": (dataclasses.replace(stuck("1"), epoch=E1_OTHER), silent("2"))}, "hactl recover"),
    "a spare": ({"running": dataclasses.replace(LONELY, role="spare")}, "this node is a spare"),
    "an older log": ({"peers": (stuck("1", term=4, index=2), silent("2"))}, "on the unit of controller 1"),
    "an unknown log": ({"peers": (stuck("1", term=0, index=0), silent("2"))}, "has not told yet"),
    "a quorum": ({"peers": (stuck("1"), silent("2"))}, "2 of 3 voters answer"),
    "a newer log at rest": (
        {"peers": (stopped("1", index=52), stopped("2", index=51))},
        "controller 1 has a newer log (index 52 of term 3; here index 50 of term 3), and its node does not run",
    ),
    "an unknown log at rest": ({"peers": (stopped("1"), stopped("2", 0, 0))}, "stop controllerd there"),
}


@pytest.mark.parametrize("case", NEVER)
@pytest.mark.parametrize("force", [False, True])
def test_what_refuses_a_rebuild_whether_forced_or_not(case: str, force: bool):
    change, sentence = NEVER[case]

    answer = rebuild.plan(dataclasses.replace(LOST, **change), VOTERS, force=force)  # type: ignore[arg-type]

    assert isinstance(answer, str)
    assert sentence in answer


def test_a_silent_majority_needs_the_operators_word():
    answer = rebuild.plan(LOST, VOTERS, force=False)

    assert isinstance(answer, str)
    assert "controllers 1, 2 do not answer, and together they would be a quorum" in answer
    assert rebuild.plan(LOST, VOTERS, force=True) == Reconfigure(
        NAMES[1:], "rebuild-cluster by force, on the operator's word that those who are silent are off"
    )


@pytest.mark.parametrize("force", [False, True])
def test_a_newer_log_is_taken_from_a_node_that_runs_where_one_at_rest_has_as_much(force: bool):
    view = dataclasses.replace(LOST, peers=(stopped("1", index=60), stuck("3", index=60)))

    answer = rebuild.plan(dataclasses.replace(view, members=(*NAMES, "controller-3-103")), VOTERS, force=force)

    assert isinstance(answer, str)
    assert "run it on the unit of controller 3" in answer


def test_members_at_rest_that_have_nothing_newer_are_no_silent_majority():
    answer = rebuild.plan(dataclasses.replace(LOST, peers=(stopped("1"), stopped("2", 2, 99))), VOTERS, force=False)

    assert answer == Reconfigure(NAMES[1:], "rebuild-cluster on the operator's word")


def test_what_a_member_of_an_earlier_epoch_has_at_rest_was_given_up_before():
    earlier = dataclasses.replace(stopped("1", 0, 0), epoch=Epoch(0, "dddd"))
    view = dataclasses.replace(LOST, peers=(earlier, silent("2")))

    assert isinstance(rebuild.plan(view, VOTERS, force=True), Reconfigure)


def test_those_that_departed_are_known_to_be_off():
    assert isinstance(rebuild.plan(BOTH_OFF, VOTERS, force=False), Reconfigure)


def test_of_two_voters_the_one_left_needs_no_force_because_the_other_is_no_quorum():
    view = dataclasses.replace(LOST, peers=(silent("1"),), members=NAMES[:2])

    assert isinstance(rebuild.plan(view, frozenset(NAMES[:2]), force=False), Reconfigure)


def test_a_stand_by_that_answers_is_no_quorum_and_joins_again():
    view = dataclasses.replace(LOST, peers=(silent("1"), silent("2"), stuck("3", term=3, index=40)))

    answer = rebuild.plan(dataclasses.replace(view, members=(*NAMES, "controller-3-103")), VOTERS, force=True)

    assert isinstance(answer, Reconfigure)
    assert answer.dropping == (*NAMES[1:], "controller-3-103")


def test_a_spare_whose_log_is_empty_has_nothing_to_tell_and_is_not_waited_for():
    spare = dataclasses.replace(stuck("3", term=0, index=0), empty=True)
    view = dataclasses.replace(LOST, peers=(silent("1"), silent("2"), spare), members=(*NAMES, "controller-3-103"))

    answer = rebuild.plan(view, VOTERS, force=True)

    assert isinstance(answer, Reconfigure), answer


def test_over_every_combination_nothing_is_rebuilt_over_a_leader_or_over_a_newer_log():
    peers = [
        (
            silent(i),
            stuck(i),
            stuck(i, 4, 1),
            stuck(i, 2, 99),
            stopped(i),
            stopped(i, 3, 51),
            stopped(i, 0, 0),
            dataclasses.replace(stuck(i), leader=NAMES[2]),
        )
        for i in ("1", "2")
    ]
    runs = (LONELY, dataclasses.replace(LONELY, leader=NAMES[0]), dataclasses.replace(LONELY, role=""))
    done = 0
    for one, two, run, force in itertools.product(*peers, runs, (False, True)):
        view = dataclasses.replace(LOST, peers=(one, two), running=run)
        if isinstance(rebuild.plan(view, VOTERS, force=force), Reconfigure):
            done += 1
            assert run is LONELY
            assert all(not p.leader and (not p.answers or NO_ENTRY < p.last <= run.last) for p in (one, two))
    assert done

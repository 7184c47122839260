"""Comparing directories and picking one: the order, and everything that has no order."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbaccessor import recovery
from dbaccessor.dqlite.raftlog import Log
from dbaccessor.identity import Epoch, Identity, Known
from dbaccessor.recovery import Candidate, compare

ONE, TWO, RIVAL = Epoch(1, "aa"), Epoch(2, "bb"), Epoch(2, "cc")


def candidate(
    n: int,
    epoch: Epoch | None = ONE,
    *,
    term: int = 1,
    index: int = 10,
    superseded: Epoch | None = None,
    cluster: str = "u",
    damage: str = "",
    known: tuple[Known, ...] = (),
    problem: str = "",
) -> Candidate:
    own = None
    if epoch is not None:
        own = Identity(
            cluster_uuid=cluster,
            controller_id=str(n),
            dqlite_id=100 + n,
            epoch=epoch,
            state="member",
            superseded=superseded,
        )
    path = Path(f"/d/{n}")
    return Candidate(path, path / "dqlite", path, own, Log(term, index, 1, damage), known, problem=problem)


def voters(*numbers: int) -> tuple[Known, ...]:
    return tuple(Known(str(n), f"controller-{n}-{100 + n}", f"10.0.0.{n}", "voter") for n in numbers)


def picked(*candidates: Candidate, use: int | None = None, salvage: bool = False) -> int | None:
    plan = compare(candidates, None if use is None else Path(f"/d/{use}"), salvage=salvage)
    return None if plan.chosen is None else int(plan.chosen.path.name)


def test_the_epoch_counts_before_the_term_and_the_term_before_the_index():
    assert picked(candidate(0, ONE, term=9, index=900), candidate(1, TWO, term=1, index=3)) == 1
    assert picked(candidate(0, term=2, index=10), candidate(1, term=3, index=9)) == 1
    assert picked(candidate(0, term=2, index=10), candidate(1, term=2, index=11)) == 1


def test_two_epochs_of_one_number_wait_for_a_person_who_names_one():
    pair = candidate(0, TWO, index=99), candidate(1, RIVAL)
    plan = compare(pair)

    assert plan.chosen is None
    assert "bb, cc" in plan.refusal
    assert "--use" in plan.refusal
    assert picked(*pair, use=1) == 1
    assert "went apart" in compare(pair, Path("/d/1")).losses[0].sentence


def test_the_new_epoch_is_above_every_epoch_that_anybody_heard_of():
    plan = compare([candidate(0, ONE, superseded=Epoch(7, "gg"))], Path("/d/0"))

    assert plan.epoch_number == 8
    assert any("epoch 7 (gg) exists" in w for w in plan.warnings)


def test_superseded_data_is_chosen_only_by_name():
    plan = compare([candidate(0, ONE, superseded=TWO)])

    assert plan.chosen is None
    assert "epoch 2 (bb) exists" in plan.refusal


def test_what_a_chosen_older_directory_has_not_is_said_in_entries():
    plan = compare([candidate(0, index=10), candidate(1, index=25)], Path("/d/0"))

    (loss,) = plan.losses
    assert (loss.path, loss.entries) == (Path("/d/1"), 15)
    assert "15 entries, 11 to 25" in loss.sentence


def test_a_longer_log_of_an_older_term_holds_nothing_that_was_acknowledged():
    plan = compare([candidate(0, term=5, index=10), candidate(1, term=4, index=12)])

    assert plan.chosen is not None and plan.chosen.path.name == "0"
    assert "none was acknowledged" in plan.losses[0].sentence


def test_members_that_were_not_given_are_named():
    plan = compare([candidate(0, known=voters(0, 1, 2))])

    assert [k.controller_id for k in plan.absent] == ["1", "2"]
    assert any("of 3 voters only 1 are given" in w for w in plan.warnings)


def test_a_majority_of_voters_needs_no_warning():
    known = voters(0, 1, 2)

    assert compare([candidate(0, known=known), candidate(1, known=known)]).warnings == ()


def test_a_damaged_log_that_reaches_further_is_not_passed_over_in_silence():
    whole, damaged = candidate(0, index=10), candidate(1, index=12, damage="open-3 is damaged")

    assert "salvage" in compare([whole, damaged]).refusal
    assert picked(whole, damaged, use=0) == 0
    assert picked(whole, damaged, salvage=True) == 1
    assert picked(whole, candidate(1, index=9, damage="x")) == 0


def test_data_without_an_identity_has_no_place_in_the_order():
    nameless = candidate(1, None)

    assert "epoch is not known" in compare([candidate(0), nameless]).refusal
    assert picked(candidate(0), nameless, use=1) == 1


def test_damaged_data_without_an_identity_waits_for_salvage_as_any_other():
    nameless = candidate(1, None, damage="open-3 is damaged")

    assert "--salvage" in compare([nameless], nameless.path).refusal
    assert picked(nameless, use=1) is None
    assert picked(nameless, use=1, salvage=True) == 1


def test_two_clusters_are_not_compared():
    assert "different clusters" in compare([candidate(0), candidate(1, cluster="v")]).refusal


@pytest.mark.parametrize("problem", ["it holds no data", "identity.json is damaged"])
def test_what_cannot_be_used_is_reported_and_never_chosen(problem: str):
    bad = candidate(1, TWO, problem=problem)

    assert picked(candidate(0), bad, use=1) is None
    assert "used" in compare([bad]).refusal


epochs = st.builds(Epoch, st.integers(1, 4), st.sampled_from("xy"))
directories = st.builds(
    candidate,
    st.integers(0, 50),
    epochs,
    term=st.integers(0, 4),
    index=st.integers(0, 30),
    superseded=st.none() | epochs,
    damage=st.sampled_from(["", "", "broken"]),
    problem=st.sampled_from(["", "", "", "gone"]),
)


@given(st.lists(directories, min_size=1, max_size=6))
def test_left_to_itself_it_never_picks_what_is_older_and_never_orders_different_tags(found: list[Candidate]):
    plan = compare(found)
    usable = [c for c in found if not c.problem]

    assert plan.epoch_number > max(e.number for c in found for e in c.epochs)
    if plan.chosen is None:
        assert plan.refusal
        return
    own = plan.chosen.identity
    assert own is not None and plan.chosen in usable and not plan.chosen.log.damage
    assert all(e.number < own.epoch.number or e == own.epoch for c in usable for e in c.epochs)
    same = [c for c in usable if c.identity is not None and c.identity.epoch == own.epoch]
    assert max(c.reach for c in same) == plan.chosen.reach


def test_a_directory_that_is_not_there_is_a_problem_and_no_crash(tmp_path: Path):
    assert recovery.look(tmp_path / "nowhere").problem == "it is no directory"
    assert recovery.look(tmp_path).problem == "it holds no data"
    (tmp_path / "identity.json").write_text("{")
    assert "identity.json is damaged" in recovery.look(tmp_path).problem

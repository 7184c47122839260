"""demo.history: a broken promise of the database must show, whichever it is."""

from __future__ import annotations

import pytest
from demo import history
from demo.history import Attempt, Outage, Outcome


def attempt(number: int, outcome: Outcome = "acknowledged", done: float = 0.0) -> Attempt:
    return Attempt(number, outcome, sent=done - 0.001, done=done)


MADE = [attempt(1), attempt(2, "refused"), attempt(3, "indefinite"), attempt(4, "indefinite"), attempt(5)]


def test_a_history_that_was_kept_has_nothing_wrong():
    verdict = history.judge(MADE, {1: 1, 3: 1, 5: 1})

    assert verdict.wrong == {}
    assert (verdict.acknowledged, verdict.refused, verdict.indefinite) == (2, 1, 2)
    assert verdict.indefinite_kept == 1


@pytest.mark.parametrize(
    ("rows", "wrong"),
    [
        ({1: 1}, {"acknowledged and not there": (5,)}),
        ({}, {"acknowledged and not there": (1, 5)}),
        ({1: 1, 2: 1, 5: 1}, {"refused and there": (2,)}),
        ({1: 2, 5: 1}, {"applied more than once": (1,)}),
        ({1: 1, 3: 2, 5: 1}, {"applied more than once": (3,)}),
        ({1: 1, 5: 1, 9: 1}, {"there and never sent": (9,)}),
    ],
)
def test_every_kind_of_broken_promise_is_named(rows: dict[int, int], wrong: dict[str, tuple[int, ...]]):
    assert history.judge(MADE, rows).wrong == wrong


def test_a_number_used_twice_proves_nothing():
    with pytest.raises(ValueError, match="two attempts"):
        history.judge([attempt(1, "refused"), attempt(1)], {1: 1})


def test_the_gap_is_the_longest_time_without_an_acknowledgement_around_the_outage():
    times = [1.0, 1.01, 1.02, 1.30, 1.31, 1.40]
    made = [attempt(n, done=t) for n, t in enumerate(times)]

    assert history.gap_ms(made, Outage(begun=1.015, ended=2.0)) == 280.0
    assert history.gap_ms(made, Outage(begun=1.305, ended=2.0)) == 90.0


def test_refused_and_indefinite_rows_do_not_end_a_gap():
    made = [attempt(1, done=1.0), attempt(2, "refused", 1.1), attempt(3, "indefinite", 1.2), attempt(4, done=1.5)]

    assert history.gap_ms(made, Outage(begun=1.05, ended=2.0)) == 500.0


def test_an_outage_that_nothing_followed_has_no_gap():
    assert history.gap_ms([attempt(1, done=1.0), attempt(2, done=1.1)], Outage(begun=1.2, ended=2.0)) is None
    assert history.gap_ms([], Outage(begun=1.2, ended=2.0)) is None


def test_an_earlier_or_later_outage_is_not_counted_in():
    made = [attempt(n, done=t) for n, t in enumerate([0.0, 5.0, 5.1, 5.3, 9.0])]

    assert history.gap_ms(made, Outage(begun=5.05, ended=6.0)) == 200.0


def test_first_acknowledged_was_sent_after_the_moment_not_only_answered():
    made = [Attempt(1, "acknowledged", 0.9, 1.2), Attempt(2, "refused", 1.3, 1.4), attempt(3, done=1.6)]

    assert history.first_acknowledged(made, after=1.0) == 1.6
    assert history.first_acknowledged(made, after=2.0) is None


def test_lines_come_back_as_they_went_and_a_cut_off_one_is_left_out():
    told = history.line("write", number=1, outcome="refused", sent=1.0, done=2.0, reason="busy\nreally")
    cut = history.line("write", number=2, outcome="refused", sent=1.0, done=2.0, reason="")[:-5]

    events = history.parse(told + cut)

    assert history.attempts(events) == [Attempt(1, "refused", 1.0, 2.0, "busy\nreally")]
    assert history.parse(b"") == []

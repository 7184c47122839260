"""The table of durations: its relations hold at every setting, and are checked."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.leases import timing
from dbaccessor import timing as database


@given(st.integers(1, 1000))
def test_a_take_over_keeps_the_promise_at_every_latency(latency_ms: int):
    table = timing.for_latency(latency_ms)
    assert table.duration_seconds + table.lag_seconds <= table.promised_seconds + 1.000001
    assert table.promised_seconds >= 8 * database.for_latency(latency_ms).election_seconds


def test_at_the_default_latency_it_is_five_seconds():
    table = timing.for_latency(10)
    assert table.promised_seconds == table.duration_seconds == 5
    assert table.renew_seconds(5) == 1
    assert table.margin_seconds(5) == 0.255


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"duration_seconds": 2.0}, "must fit"),
        ({"attempt_seconds": 2.0, "failover_seconds": 3.0}, "must fit"),
        ({"duration_seconds": 6.0}, "more than what is promised"),
        ({"poll_seconds": 0.5, "answer_seconds": 0.0, "failover_seconds": 0.5}, "quarter of a second"),
        ({"duration_seconds": 3601.0, "promised_seconds": 9999.0}, "out of range"),
    ],
)
def test_a_table_whose_relations_do_not_hold_cannot_be_made(changes: dict[str, float], words: str):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(timing.for_latency(10), **changes)


def test_the_table_of_what_a_margin_beyond_the_hold_would_cost_is_as_computed():
    page = next((Path(__file__).parents[3] / "docs" / "decisions").glob("18-*.md")).read_text()
    rows = re.findall(r"^\| (\d+) ms[^|]*\|" + r" ([\d.]+) \|" * 5, page, re.MULTILINE)

    assert len(rows) == 4
    for latency, *told in rows:
        leases, below = timing.for_latency(int(latency)), database.for_latency(int(latency))
        duration = leases.duration_seconds
        assert leases.margin_seconds(duration) < below.hold_seconds
        shortest = (below.hold_seconds + leases.failover_seconds + 2 * leases.attempt_seconds) / 0.8
        computed = (below.election_seconds, below.hold_seconds, leases.margin_seconds(duration), duration, shortest)
        assert tuple(map(float, told)) == pytest.approx(computed, abs=0.0006)
        assert leases.attempt(shortest) == leases.attempt_seconds


def test_a_promise_that_the_network_cannot_keep_is_refused():
    with pytest.raises(ValueError, match="must fit"):
        timing.for_latency(100, promised_seconds=5)

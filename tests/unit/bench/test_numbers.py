"""Medians, percentiles and ratios of a bench."""

from __future__ import annotations

import pytest
from bench import numbers


def test_a_percentile_is_one_of_the_values():
    values = [float(n) for n in range(1, 101)]
    assert numbers.percentile(values, 0.5) == 51.0
    assert numbers.percentile(values, 0.99) == 100.0
    assert numbers.percentile([7.0], 0.99) == 7.0
    with pytest.raises(ValueError, match="no values"):
        numbers.percentile([], 0.5)


def test_a_summary_counts_and_measures_whatever_the_order():
    found = numbers.summary([0.003, 0.001, 0.002], 0.5)
    assert found == {"count": 3, "per_s": 6.0, "p50_ms": 2.0, "p99_ms": 3.0}
    assert numbers.summary([], 1)["per_s"] == 0


def test_a_ratio_shows_its_worst_and_best_pairing():
    assert numbers.ratio([4.0, 6.0], [2.0, 3.0]) == {"median": 2.0, "min": 1.333, "max": 3.0}
    with pytest.raises(ValueError, match="nothing"):
        numbers.ratio([1.0], [])


def test_a_spread_is_median_lowest_and_highest():
    assert numbers.spread([3.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 3.0}

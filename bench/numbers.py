"""From single durations to what a table shows. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any


def percentile(sorted_values: Sequence[float], share: float) -> float:
    """Return the value that `share` (0 to 1) of the values do not exceed; the nearest one, not a mean of two."""
    if not sorted_values:
        raise ValueError("no values")
    return sorted_values[min(len(sorted_values) - 1, int(share * len(sorted_values)))]


def summary(seconds_taken: Sequence[float], within_seconds: float) -> dict[str, Any]:
    """Return rate and latencies of calls that took so long each, made within so many seconds."""
    taken = sorted(seconds_taken)
    if not taken:
        return {"count": 0, "per_s": 0.0, "p50_ms": None, "p99_ms": None}
    return {
        "count": len(taken),
        "per_s": round(len(taken) / within_seconds, 1),
        "p50_ms": round(percentile(taken, 0.50) * 1000, 3),
        "p99_ms": round(percentile(taken, 0.99) * 1000, 3),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, lowest and highest of what several rounds gave."""
    return {"median": round(statistics.median(values), 3), "min": round(min(values), 3), "max": round(max(values), 3)}


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Return ours/theirs by medians, and the worst and best of all pairings."""
    pairs = [a / b for a in ours for b in theirs if b]
    if not pairs or not statistics.median(theirs):
        raise ValueError("nothing to compare with")
    return {
        "median": round(statistics.median(ours) / statistics.median(theirs), 3),
        "min": round(min(pairs), 3),
        "max": round(max(pairs), 3),
    }

"""What is counted of the engines, and that the reference names all of it."""

from __future__ import annotations

import re
from pathlib import Path

from controller.enginemetrics import EngineMetrics

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "metrics.md"
REPORT = {"manifolds": {"sockets": {"state": "started"}, "models": {"state": "stopped"}}}


def collected(metrics: EngineMetrics) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in metrics.collect(REPORT)
        for sample in family.samples
    }


def test_starts_are_counted_and_the_engines_of_all_models_are_one():
    metrics = EngineMetrics()
    metrics.counting("controller")("sockets")
    for _ in range(3):
        metrics.counting("model")("undertaker")

    assert collected(metrics) == {
        ("ha_controller_engine_worker_starts_total", "controller", "sockets"): 1,
        ("ha_controller_engine_worker_starts_total", "model", "undertaker"): 3,
        ("ha_controller_engine_worker_running", "sockets"): 1,
        ("ha_controller_engine_worker_running", "models"): 0,
    }


def test_every_series_has_its_line_in_the_reference_and_the_reference_names_no_other():
    metrics = EngineMetrics()
    metrics.counting("controller")("sockets")

    documented = set(re.findall(r"^\| `(ha_controller_engine_\w+)`", PAGE.read_text(), re.MULTILINE))
    assert {key[0] for key in collected(metrics)} == documented

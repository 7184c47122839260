"""What is counted of the engines, and that the reference names all of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from controller.enginemetrics import EngineMetrics

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "metrics.md"
REPORT = {"manifolds": {"sockets": {"state": "started"}, "models": {"state": "stopped"}}}


def collected(metrics: EngineMetrics, report: dict[str, Any] = REPORT) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in metrics.collect(report)
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

    documented = set(re.findall(r"^\| `(ha_controller_(?:engine|api)_\w+)`", PAGE.read_text(), re.MULTILINE))
    told = with_setter({"fallbacks": [], "skipped": []})["manifolds"] | with_api()["manifolds"]
    assert {key[0] for key in collected(metrics, {"manifolds": told})} == documented


def with_setter(report: dict[str, Any]) -> dict[str, Any]:
    return {"manifolds": {**REPORT["manifolds"], "api-address-setter": {"state": "started", "report": report}}}


def test_controllers_outside_of_the_management_space_are_counted_where_it_is_known():
    found = collected(EngineMetrics(), with_setter({"fallbacks": ["1", "2"], "skipped": ["3"]}))

    assert found["ha_controller_api_address_fallbacks",] == 2
    assert found["ha_controller_api_address_skipped",] == 1


def with_api(**told: Any) -> dict[str, Any]:
    report = {
        "served": True,
        "connections": 3,
        "not-logged-in": 1,
        "refused": {"no-tls": 2},
        "failed-logins": 5,
        "failed-logins-held-back": 4,
        **told,
    }
    return {"manifolds": {**REPORT["manifolds"], "api-server": {"state": "started", "report": report}}}


def test_connections_and_failed_logins_are_counted_where_the_api_is_served():
    found = collected(EngineMetrics(), with_api())

    assert found["ha_controller_api_connections", "yes"] == 3
    assert found["ha_controller_api_connections", "no"] == 1
    assert found["ha_controller_api_connections_refused_total", "no-tls"] == 2
    assert found["ha_controller_api_logins_failed_total", "denied"] == 5
    assert found["ha_controller_api_logins_failed_total", "held-back"] == 4
    assert not [key for key in collected(EngineMetrics(), with_api(served=False)) if "_api_" in key[0]]

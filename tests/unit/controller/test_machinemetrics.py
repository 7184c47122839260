"""What is counted of machines, and that the reference names all of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from controller.workers import machinemetrics
from controller.workers.computeprovisioner import ComputeProvisioner
from controller.workers.machines import State

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "metrics.md"


def provisioner(**counted: int) -> dict[str, Any]:
    """The report of one that has begun, with these counts."""
    told = ComputeProvisioner(None, None, None, None).report()  # type: ignore[arg-type]
    counters = {word: counted.pop(word.replace("-", "_"), 0) for word in told["counters"]}  # type: ignore[attr-defined]
    assert not counted, "there is no such count"
    return {**told, "counters": counters}


def collected(*models: tuple[str, dict[str, Any] | None]) -> dict[tuple[str, ...], float]:
    engines = {
        f"uuid-{name}": {
            "name": name,
            "state": "started",
            "manifolds": {"compute-provisioner": {"state": "started", **({} if told is None else {"report": told})}},
        }
        for name, told in models
    }
    report = {"manifolds": {"model-worker-manager": {"state": "started", "report": {"models": engines}}}}
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in machinemetrics.collect(report)
        for sample in family.samples
    }


def test_machines_are_counted_by_model_and_state():
    one, two = provisioner(), provisioner()
    one["machines"] = {**one["machines"], "started": 3, "error": 1}

    found = collected(("one", one), ("two", two))

    assert found["ha_controller_machines", "one", "started"] == 3
    assert found["ha_controller_machines", "one", "error"] == 1
    assert {state for name, model, state in (k for k in found if k[0] == "ha_controller_machines")} == {*State}
    assert found["ha_controller_machines", "two", "started"] == 0


def test_calls_are_counted_by_what_came_of_them():
    told = provisioner(started=5, adopted=2, failed_starts=1, stopped=4, failed_stops=3, unknown_stopped=6, lost=7)

    found = collected(("one", told))

    assert found["ha_controller_machine_starts_total", "one", "started"] == 5
    assert found["ha_controller_machine_starts_total", "one", "adopted"] == 2
    assert found["ha_controller_machine_starts_total", "one", "failed"] == 1
    assert found["ha_controller_machine_stops_total", "one", "stopped"] == 4
    assert found["ha_controller_machine_stops_total", "one", "failed"] == 3
    assert found["ha_controller_machine_leaks_stopped_total", "one"] == 6
    assert found["ha_controller_machine_lost_total", "one"] == 7


def test_a_model_that_is_provisioned_elsewhere_is_not_told_of():
    assert collected(("one", None)) == {}
    assert list(machinemetrics.collect({"manifolds": {}})) == []


def test_every_series_has_its_line_in_the_reference_and_the_reference_names_no_other():
    documented = set(re.findall(r"^\| `(ha_controller_machine\w+)`", PAGE.read_text(), re.MULTILINE))

    assert {name for name, *_ in collected(("one", provisioner()))} == documented

"""How a person reads the engine's report, and the exit code that it stands for."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest

from controller import engineview

NOW = datetime.datetime(2026, 11, 24, 10, 5, tzinfo=datetime.UTC)


def manifold(state: str = "started", why: str = "", **report: Any) -> dict[str, Any]:
    told: dict[str, Any] = {"state": state, "since": "2026-11-24 10:00:00", "inputs": [], "start-count": 2}
    return told | ({"why": why} if why else {}) | ({"report": report} if report else {})


def parsed(manifolds: dict[str, Any], **more: Any) -> engineview.Report:
    return engineview.parse(json.dumps({"state": "started", "manifolds": manifolds, **more}).encode())


def in_models(**manifolds: Any) -> dict[str, Any]:
    engine = {"state": "started", "name": "staging", "life": "alive", "manifolds": manifolds}
    return {"model-worker-manager": manifold(models={"u-1": engine})}


def test_each_worker_has_a_line_with_its_reason_and_each_model_its_part():
    report = parsed(
        {
            "db-accessor": manifold(),
            **in_models(
                **{
                    "is-responsible": manifold(holds=False, lease="x"),
                    "undertaker": manifold("stopped", "missing: is-responsible says no"),
                    "yes": manifold(holds=True, token="1.7"),
                }
            ),
        },
        plugins={"probe": {"state": "refused", "source": "probe:make", "why": "no\nsuch"}},
    )

    assert list(engineview.lines(report, NOW)) == [
        "WORKER                STATE    SINCE  STARTS  NOTE",
        "db-accessor           started  5 min  2",
        "model-worker-manager  started  5 min  2",
        "",
        "model staging (u-1), alive",
        "WORKER          STATE    SINCE  STARTS  NOTE",
        "is-responsible  started  5 min  2       no",
        "undertaker      stopped  5 min  2       missing: is-responsible says no",
        "yes             started  5 min  2       yes, by 1.7",
        "",
        "PLUGIN  SOURCE      STATE    WHY",
        "probe   probe:make  refused  no\\nsuch",
    ]


@pytest.mark.parametrize(
    ("manifolds", "plugins", "code"),
    [
        ({"a": manifold()}, {}, 0),
        ({"a": manifold("stopped", "missing: b")}, {}, 0),
        ({"a": manifold("stopped", "finished")}, {}, 0),
        ({"a": manifold("stopped", "failed: ValueError: x")}, {}, 3),
        ({"a": manifold("stopped", "fatal: x")}, {}, 3),
        (in_models(a=manifold("stopped", "failed: x")), {}, 3),
        (in_models(a=manifold()), {}, 0),
        ({}, {"p": {"state": "in use"}}, 0),
        ({}, {"p": {"state": "refused"}}, 3),
        ({"model-worker-manager": manifold(models={}, plugins={"p": {"state": "refused"}})}, {}, 3),
    ],
)
def test_what_failed_is_degraded_and_what_waits_is_not(manifolds: Any, plugins: Any, code: int):
    assert engineview.exit_code(parsed(manifolds, plugins=plugins)) == code


def test_something_that_is_no_report_is_refused():
    with pytest.raises(engineview.BadReport, match="no report"):
        engineview.parse(b"[]")


def test_instances_that_a_provisioner_spares_are_named():
    report = parsed(in_models(**{"compute-provisioner": manifold(calls=0, spared={"uuid-1": "i-7", "uuid-2": "i-9"})}))

    (line,) = [line for line in engineview.lines(report, NOW) if "compute-provisioner" in line]
    assert line.endswith("stops within ten minutes what no machine knows: i-7, i-9")

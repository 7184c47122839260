"""What can be counted of the engines, for Prometheus: docs/reference/metrics.md lists the names."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric


class EngineMetrics:
    """Counts the starts of workers. One for the whole process; the engines of all models are counted as one."""

    def __init__(self) -> None:
        self._starts: collections.Counter[tuple[str, str]] = collections.Counter()

    def counting(self, engine: str) -> Callable[[str], None]:
        """Return what the engine of this name is to call whenever one of its workers starts."""

        def started(worker: str) -> None:
            self._starts[engine, worker] += 1

        return started

    def collect(self, report: Mapping[str, Any]) -> Iterator[Metric]:
        """Yield the metrics. `report` is the controller's engine's."""
        starts = CounterMetricFamily(
            "ha_controller_engine_worker_starts", "Times that a worker was started.", labels=["engine", "worker"]
        )
        for (engine, worker), count in sorted(self._starts.items()):
            starts.add_metric([engine, worker], count)
        yield starts
        running = GaugeMetricFamily(
            "ha_controller_engine_worker_running",
            "1 for each worker of the controller that runs.",
            labels=["worker"],
        )
        for worker, told in report["manifolds"].items():
            running.add_metric([worker], float(told["state"] == "started"))
        yield running
        yield from _addresses(report)
        yield from _api(report)


def _addresses(report: Mapping[str, Any]) -> Iterator[Metric]:
    """What the address setter knows, where it runs: on the one controller that is responsible."""
    told = report["manifolds"].get("api-address-setter", {}).get("report")
    if told is None:
        return
    for name, what in (
        ("fallbacks", "Controllers that agents dial outside of the management space: none is inside."),
        ("skipped", "Controllers that are in no list: no other machine can dial them."),
    ):
        yield GaugeMetricFamily(f"ha_controller_api_address_{name}", what, value=len(told[name]))


def _api(report: Mapping[str, Any]) -> Iterator[Metric]:
    """What the API server counts, where there is one."""
    told = report["manifolds"].get("api-server", {}).get("report")
    if told is None or not told["served"]:
        return
    connections = GaugeMetricFamily(
        "ha_controller_api_connections", "Connections to the API that are open.", labels=["logged_in"]
    )
    connections.add_metric(["yes"], told["connections"])
    connections.add_metric(["no"], told["not-logged-in"])
    yield connections
    refused = CounterMetricFamily(
        "ha_controller_api_connections_refused", "Connections that did not get as far as a request.", labels=["why"]
    )
    for why, count in told["refused"].items():
        refused.add_metric([why], count)
    yield refused
    failed = CounterMetricFamily("ha_controller_api_logins_failed", "Logins that failed.", labels=["how"])
    failed.add_metric(["denied"], told["failed-logins"])
    failed.add_metric(["held-back"], told["failed-logins-held-back"])
    yield failed

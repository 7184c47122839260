"""What can be counted of this controller's leases, for Prometheus: docs/reference/metrics.md lists the names.

Read off the lease manager's report at the moment of the question. Where no lease manager runs there is nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)


def collect(report: Mapping[str, Any]) -> Iterator[Metric]:
    """Yield the metrics. `report` is the controller's engine's. Pure."""
    told = report["manifolds"].get("lease-manager", {}).get("report")
    if told is None:
        return
    counted = told["counters"]
    yield GaugeMetricFamily("ha_controller_lease_held", "Leases that are held here.", value=told["held"])
    yield GaugeMetricFamily("ha_controller_lease_waiting", "Who waits here for a lease.", value=told["waiting"])
    claims = {"granted": counted.get("claims", 0), "denied": counted.get("denied", 0)}
    yield _counters("ha_controller_lease_claims", "Claims of leases that were not held here.", "result", claims)
    yield _counter("ha_controller_lease_extensions", "Claims of what was held here.", counted.get("extensions", 0))
    renewals = {"done": counted.get("renewals", 0), "failed": counted.get("failed-renewals", 0)}
    yield _counters("ha_controller_lease_renewals", "Attempts to renew what is held here.", "result", renewals)
    yield _counter(
        "ha_controller_lease_late_renewals", "Renewals that came late, and in time.", counted.get("late-renewals", 0)
    )
    yield _counter("ha_controller_lease_revocations", "Leases that were given up in order.", counted.get("given-up", 0))
    yield _counters("ha_controller_lease_losses", "Leases that were lost, by the reason.", "reason", told["losses"])
    yield _counters("ha_controller_lease_lookups", "Looks at what has changed.", "result", told["lookups"])
    if "least-seconds-left" in told:
        yield GaugeMetricFamily(
            "ha_controller_lease_least_seconds_left",
            "The shortest time that a renewal had left when it came.",
            value=told["least-seconds-left"],
        )
    yield _takeovers(told["take-overs"])


def _takeovers(told: Mapping[str, Any]) -> Metric:
    family = HistogramMetricFamily(
        "ha_controller_lease_takeover_seconds",
        "From the last change that was seen of a lease until it was held here instead.",
    )
    buckets = [*told["within"].items(), ("+Inf", told["count"])]
    family.add_metric([], buckets, told["total-seconds"])
    return family


def _counter(name: str, what: str, value: float) -> Metric:
    return CounterMetricFamily(name, what, value=value)


def _counters(name: str, what: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(name, what, labels=[label])
    for word, value in values.items():
        family.add_metric([word], value)
    return family

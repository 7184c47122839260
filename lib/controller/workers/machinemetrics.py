"""What can be counted of machines, for Prometheus, by the controllers that provision them: docs/reference/metrics.md.

Read off the reports of the compute provisioners at the moment of the question. Each runs on one controller, so the
series of a model are on that one's page; the counters begin anew when another takes over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

_MODELS = "model-worker-manager"
_PROVISIONER = "compute-provisioner"

# By the provisioner's own word for it: the name's end, what it counts, and the label that tells it from others.
_COUNTERS = {
    "starts": ("Calls to start a machine's instance, by what came of them.", ("started", "adopted", "failed-starts")),
    "stops": ("Calls to stop a machine's instance, by what came of them.", ("stopped", "failed-stops")),
}
_RESULTS = {"failed-starts": "failed", "failed-stops": "failed"}
_PLAIN = {
    "leaks_stopped": ("Instances that no machine knew, and that were stopped.", "unknown-stopped"),
    "lost": ("Machines whose provider did not have their instance any more.", "lost"),
}


def collect(report: Mapping[str, Any]) -> Iterator[Metric]:
    """Yield the metrics of each model that is provisioned here. `report` is the controller's engine's. Pure."""
    told = dict(_provisioners(report))
    if not told:
        return
    states = GaugeMetricFamily("ha_controller_machines", "Machines, by their state.", labels=["model", "state"])
    for model, of in told.items():
        for state, count in of["machines"].items():
            states.add_metric([model, state], count)
    yield states
    for name, (what, words) in _COUNTERS.items():
        family = CounterMetricFamily(f"ha_controller_machine_{name}", what, labels=["model", "result"])
        for model, of in told.items():
            for word in words:
                family.add_metric([model, _RESULTS.get(word, word)], of["counters"][word])
        yield family
    for name, (what, word) in _PLAIN.items():
        family = CounterMetricFamily(f"ha_controller_machine_{name}", what, labels=["model"])
        for model, of in told.items():
            family.add_metric([model], of["counters"][word])
        yield family


def _provisioners(report: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield name of the model and report of each provisioner that runs."""
    models = report["manifolds"].get(_MODELS, {}).get("report", {}).get("models", {})
    for model in models.values():
        told = model["manifolds"].get(_PROVISIONER, {}).get("report")
        if told is not None:
            yield model["name"], told

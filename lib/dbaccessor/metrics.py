"""What can be counted of one worker, for Prometheus: its databases' traffic, its Actions, whom it turned away.

Three sources make one page. Requests to databases are counted in dbmetrics.py, other events here as they happen, in a
registry that belongs to one worker. State (roles, members, epoch, …) is not kept twice: `state_of` reads it off the
status document at the moment somebody asks.
docs/reference/metrics.md lists every name; those that begin with `juju_` are Juju's own, with Juju's meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.samples import Sample

from dbaccessor.dbmetrics import Namespace, families

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

_STATES = ("waiting", "starting", "bootstrapping", "joining", "serving", "reconfiguring", "leaving", "stopped")
_ROLES = ("voter", "stand-by", "spare")


class Metrics:
    """One worker's counts. `text` may be called on any thread; everything else on the worker's loop or, where it
    says so, on any thread."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._namespaces: dict[str, Namespace] = {}
        self._actions = self._counter(
            "ha_controller_db_actions", "What the worker did to its node.", "action", "result"
        )
        for action in ("bootstrap", "start", "join", "reconfigure", "put-aside", "supersede", "forget"):
            self._actions.labels(action, "done")
        self._refused = self._counter(
            "ha_controller_db_connections_refused", "Callers that were turned away, by the reason.", "reason"
        )
        self._confirms = {"beside": 0, "after": 0, "unconfirmed": 0}
        self._relieved = self._counter(
            "ha_controller_db_log_relieved", "What was done for a write-ahead log that had become too long.", "how"
        )
        for how in ("handover", "restart"):
            self._relieved.labels(how)

    def namespace(self, name: str) -> Namespace:
        """Return the counts of one database; the same for everybody who asks for this name."""
        found = self._namespaces.get(name)
        if found is None:
            found = self._namespaces[name] = Namespace()
        return found

    def forget(self, name: str) -> None:
        """A database was deleted: so are its series. Nothing happens for one that was never counted."""
        self._namespaces.pop(name, None)

    @contextmanager
    def action(self, name: str) -> Iterator[None]:
        """Count one Action, `name` being its class, as done or (when it raises) failed."""
        result = "failed"
        try:
            yield
            result = "done"
        finally:
            self._actions.labels(_kebab(name), result).inc()

    def refused(self, reason: str) -> None:
        """Count a caller that was turned away. `reason` is one of a few words, never a sentence. From any thread."""
        self._refused.labels(reason).inc()

    def confirmed(self, result: str) -> None:
        """Count one round of confirming what was read: "beside" the read or "after" it, or "unconfirmed"."""
        self._confirms[result] += 1

    def relieved(self, how: str) -> None:
        """Count what was done for a log that was too long: "handover" or "restart"."""
        self._relieved.labels(how).inc()

    def databases(self) -> dict[str, dict[str, Any]]:
        """Return the part of the report that has a section for each database."""
        return {name: namespace.report() for name, namespace in sorted(self._namespaces.items())}

    def text(self, status: Mapping[str, Any], more: Iterable[Metric] = ()) -> bytes:
        """Return the page that Prometheus reads: what was counted, the state that `status` describes, and `more`."""
        confirmed = CounterMetricFamily(
            "ha_controller_db_confirm_rounds",
            "Rounds in which other voters were asked to vouch for reads.",
            labels=["result"],
        )
        for result, count in self._confirms.items():
            confirmed.add_metric([result], count)
        counted = (*families(dict(self._namespaces)), *_without_birthdays(self._registry.collect()), confirmed)
        return generate_latest(_Page(lambda: (*counted, *state_of(status), *more)))

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(name, what, labels, registry=self._registry)


def state_of(status: Mapping[str, Any]) -> Iterator[Metric]:
    """Turn the status document into metrics. Pure; keys that a status may lack are left out of the page."""
    version = {key: str(status.get(key, "")) for key in ("controller-id", "version", "dqlite-version")}
    yield _info("ha_controller", "Who this is.", {key.replace("-", "_"): text for key, text in version.items()})
    proven = int(bool(status.get("dqlite-proven")))
    yield _gauge("ha_controller_dqlite_proven", "Whether the functional tests passed on this library.", proven)
    yield _one_of("ha_controller_state", "1 for the state that controllerd is in.", "state", _STATES, status["state"])
    waits = {wait["for"]: 1.0 for wait in status["waits"]}
    yield _gauges("ha_controller_waiting", "1 for each thing that is waited for.", "topic", waits)
    conf = status["conf"]
    yield _gauge(
        "ha_controller_conf_generation", "Of the configuration in force; 0: none yet.", conf["generation"] or 0
    )
    problem = int(conf["problem"] is not None)
    yield _gauge("ha_controller_conf_problem", "1 while a newer configuration is refused.", problem)
    yield from _story(status)
    yield from _cluster(status["cluster"])


def _story(status: Mapping[str, Any]) -> Iterator[Metric]:
    """What happened since the start of this process, and how the one before it ended."""
    changes = CounterMetricFamily("ha_controller_db_leader_changes", "Times that another node was seen to lead.")
    changes.add_metric([], status.get("leader-changes", 0))
    yield changes
    ready = status.get("ready-seconds")
    if ready is not None:
        yield _gauge("ha_controller_db_ready_seconds", "How long it last took until this controller served.", ready)
    frames = status.get("log-frames")
    if frames is not None:
        yield _gauge("ha_controller_db_log_frames", "Of the longest write-ahead log, while this node leads.", frames)
    handover = status.get("last-handover")
    if handover is not None:
        result = GaugeMetricFamily(
            "ha_controller_db_last_handover_seconds", "How long the last handover took.", labels=["result"]
        )
        result.add_metric([handover["result"]], handover["seconds"])
        yield result


def _cluster(cluster: Mapping[str, Any] | None) -> Iterator[Metric]:
    members = cluster["members"] if cluster is not None else []
    own = next((m["role"] for m in members if m["here"]), "")
    leader = cluster["leader"] if cluster is not None else None
    leading = any(m["here"] and m["leader"] for m in members)
    count = {role: float(sum(m["role"] == role for m in members)) for role in _ROLES}
    answering = sum(m["answers"] for m in members)
    margin = cluster["may-lose"] if cluster is not None and leader is not None else -1
    epoch = cluster["epoch"]["number"] if cluster is not None else 0
    dropped = len(cluster["dropped"]) if cluster is not None else 0
    yield _one_of("ha_controller_db_role", "1 for the role of this node.", "role", _ROLES, own)
    yield _gauges("ha_controller_db_members", "Members of the cluster, by role.", "role", count)
    yield _gauge("ha_controller_db_members_answering", "Members that answer this controller.", answering)
    yield _gauge("ha_controller_db_has_leader", "1 while this node is in touch with a leader.", int(leader is not None))
    yield _gauge("ha_controller_db_leading", "1 while this node leads.", int(leading))
    yield _gauge("ha_controller_db_quorum_margin", "Voters that may still fail; -1: the quorum is lost.", margin)
    yield _gauge("ha_controller_db_epoch", "How many forced reconfigurations the cluster has been through.", epoch)
    yield _gauge("ha_controller_db_dropped", "Members dropped by force and not yet seen refused.", dropped)


class _Page:
    """What generate_latest takes for a registry."""

    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self.collect = collect


def _without_birthdays(metrics: Iterable[Metric]) -> Iterator[Metric]:
    """Leave out the time at which each series was made: one more series for each, which nobody here asks for."""
    for metric in metrics:
        metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
        yield metric


def _info(name: str, what: str, labels: dict[str, str]) -> Metric:
    family = InfoMetricFamily(name, what)
    family.samples.append(Sample(f"{name}_info", labels, 1))
    return family


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(name, what, value=value)


def _gauges(name: str, what: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, what, labels=[label])
    for text, value in values.items():
        family.add_metric([text], value)
    return family


def _one_of(name: str, what: str, label: str, words: Iterable[str], word: str) -> Metric:
    return _gauges(name, what, label, {each: float(each == word) for each in words})


def _kebab(name: str) -> str:
    return "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("-")

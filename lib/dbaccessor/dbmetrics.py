"""What is counted of each database: requests, how they ended, how long they took.

Every request of every user passes here, so counting is adding to plain numbers; the client library's own counters take
a lock and six calls for each. Only when somebody asks are they made into the library's metrics, which it puts into
words (its *custom collectors*).
"""

from __future__ import annotations

import bisect
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from dbaccessor import errors

# From a read beside the leader (0.1 ms) to a call that waits out its whole deadline.
_BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

# What an error was to its caller. The first is Juju's word; its `no-rows` does not occur: no rows are no error here.
_ERRORS: tuple[tuple[type[errors.DbAccessorError], str], ...] = (
    (errors.NotReady, "retryable"),
    (errors.NotLeader, "retryable"),
    (errors.Indefinite, "indefinite"),
    (errors.Refused, "refused"),
)
_WORDS = ("retryable", "indefinite", "refused", "unknown")


class Durations:
    """A histogram. `counts` are those of each bucket alone, the last one's without an end."""

    def __init__(self) -> None:
        self.counts = [0] * (len(_BUCKETS) + 1)
        self.seconds = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect.bisect_left(_BUCKETS, seconds)] += 1
        self.seconds += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Return (upper bound, how many took no longer), as Prometheus has them."""
        told, below = [], 0
        for bound, count in zip((*map(str, _BUCKETS), "+Inf"), self.counts, strict=True):
            below += count
            told.append((bound, float(below)))
        return told


class Namespace:
    """The counts of one database, on the loop of its users. Reading them is possible on any thread."""

    def __init__(self) -> None:
        self.active = 0
        self.success = 0
        self.attempts = 0
        self.retries = 0
        self.queue = 0
        self.connections = 0
        self.errors = dict.fromkeys(_WORDS, 0)
        self.succeeded = Durations()
        self.failed = Durations()
        self.last_ping_seconds = self.max_ping_seconds = 0.0
        self.last_ping_attempts = 0
        self._replaced = 0

    def request(self) -> Request:
        """Measure one call of a user of the database, from its first attempt to its end, as a context manager."""
        return Request(self)

    @contextmanager
    def queued(self) -> Iterator[None]:
        """Count one that waits for its turn, for as long as the block lasts."""
        self.queue += 1
        try:
            yield
        finally:
            self.queue -= 1

    def connected(self) -> None:
        """Count a connection to a leader, newly opened."""
        self.connections += 1

    def lost(self) -> None:
        """Count a connection that can be used no more, so that another one has to take its place."""
        self._replaced += 1

    def report(self) -> dict[str, Any]:
        """Return this database's section of the report, under Juju's names."""
        return {
            "last-ping-duration": _duration(self.last_ping_seconds),
            "last-ping-attempts": self.last_ping_attempts,
            "max-ping-duration": _duration(self.max_ping_seconds),
            "db-replacements": self._replaced,
        }


@functools.cache
def unread() -> Namespace:
    """Return counts that nobody reads."""
    return Namespace()


class Request:
    """One call under way: `attempt` at the beginning of each attempt, `answered` when a leader first did so."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._attempts = 0
        self._started = 0.0
        self._told = ""
        self.heard = False
        """Whether a leader has answered."""

    def __enter__(self) -> Request:
        self._started = time.perf_counter()
        self._namespace.active += 1
        return self

    def attempt(self) -> None:
        self._attempts += 1
        self._namespace.attempts += 1
        if self._attempts > 1:
            self._namespace.retries += 1

    def answered(self) -> None:
        self.heard = True
        space = self._namespace
        space.last_ping_seconds = seconds = time.perf_counter() - self._started
        space.last_ping_attempts = self._attempts
        if seconds > space.max_ping_seconds:
            space.max_ping_seconds = seconds

    @property
    def failed(self) -> bool:
        """Whether it will count as ended in an error, whatever comes."""
        return bool(self._told)

    def fail(self, error: BaseException) -> None:
        """Let it count as ended in this error, which is told without being raised through here.

        Of several the first counts, but one that left doubt before any other.
        """
        if not self._told or isinstance(error, errors.Indefinite):
            self._told = _word(error)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        space, seconds = self._namespace, time.perf_counter() - self._started
        space.active -= 1
        if error is None and not self._told:
            space.success += 1
            space.succeeded.observe(seconds)
        else:
            space.errors[self._told or _word(error)] += 1
            space.failed.observe(seconds)


def families(namespaces: Mapping[str, Namespace]) -> Iterator[Metric]:
    """Return Juju's six metrics, and ours, with a label for the namespace."""

    def gauge(name: str, what: str, value: Callable[[Namespace], int]) -> Metric:
        family = GaugeMetricFamily(name, what, labels=["namespace"])
        for namespace, space in namespaces.items():
            family.add_metric([namespace], value(space))
        return family

    def counter(name: str, what: str, value: Callable[[Namespace], int]) -> Metric:
        family = CounterMetricFamily(name, what, labels=["namespace"])
        for namespace, space in namespaces.items():
            family.add_metric([namespace], value(space))
        return family

    yield gauge("juju_db_requests_total", "Requests that are under way.", lambda space: space.active)
    durations = HistogramMetricFamily(
        "juju_db_duration_seconds", "How long requests took, retries included.", labels=["namespace", "result"]
    )
    ended = CounterMetricFamily("juju_db_errors", "Requests that ended in an error.", labels=["namespace", "error"])
    for namespace, space in namespaces.items():
        for result, taken in (("success", space.succeeded), ("error", space.failed)):
            durations.add_metric([namespace, result], taken.buckets(), taken.seconds)
        for word, count in space.errors.items():
            ended.add_metric([namespace, word], count)
    yield durations
    yield ended
    yield counter("juju_db_success", "Requests that ended well.", lambda space: space.success)
    yield counter(
        "juju_db_txn_requests", "Attempts at transactions and reads, retries included.", lambda space: space.attempts
    )
    yield counter("juju_db_txn_retries", "Attempts that were not the first.", lambda space: space.retries)
    yield gauge(
        "ha_controller_db_queue_length",
        "Transactions of this controller that wait for their turn.",
        lambda space: space.queue,
    )
    yield counter(
        "ha_controller_db_connections", "Connections to a leader that were opened.", lambda space: space.connections
    )


def _word(error: BaseException | None) -> str:
    return next((word for kind, word in _ERRORS if isinstance(error, kind)), "unknown")


def _duration(seconds: float) -> str:
    """Return a duration as Juju's reports write them: a number with its unit."""
    return f"{seconds * 1000:.3f}ms" if seconds < 1 else f"{seconds:.3f}s"

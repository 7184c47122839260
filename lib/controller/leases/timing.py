"""Flow 2: every duration of leases in one table, with the relations that make it safe and quick.

What is promised is a take-over: after the holder's death somebody else holds within `promised_seconds` + 1 s. An
observer counts the row's duration from when it first *saw* the last renewal, so it may begin to count late: by one
poll, and by one election where the node that led died too. The duration in the row is shorter than the promise by
what of that exceeds the one second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dbaccessor import timing as database

# At the default latency, where the slack below is a second; docs/decisions has the measurements.
PROMISED_SECONDS: Final = 5.0

_LEAST_MARGIN_SECONDS: Final = 0.25
_MARGIN_PART: Final = 0.001
_RENEW_PART: Final = 0.2
_LONGEST_SECONDS: Final = 3600.0
_ROUNDING_SECONDS: Final = 1e-6


@dataclass(frozen=True)
class Timing:
    """Durations in seconds. Build it with `for_latency`. Raises ValueError unless the relations hold."""

    promised_seconds: float
    duration_seconds: float  # What a lease is claimed for unless its claimant knows better.
    poll_seconds: float  # Between two looks of an observer at all leases.
    failover_seconds: float  # How long the database may be without a leader after one died: two elections.
    answer_seconds: float  # A claim and its answer, and the bounce of who waited for it.
    attempt_seconds: float  # One attempt to renew, at most; then it is in doubt, and the next one begins.
    claim_seconds: float  # How long a claim goes on trying.
    stop_seconds: float  # How long a stop may take to give up what is held.

    def __post_init__(self) -> None:
        duration = self.duration_seconds
        needed = self.renew_seconds(duration) + 2 * self.attempt(duration) + self.failover_seconds
        if needed + self.margin_seconds(duration) > duration:
            raise ValueError(
                f"between two renewals an attempt may hang and the leader may die: {needed:g} s and the margin must "
                f"fit into a duration of {duration:g} s"
            )
        if duration + self.lag_seconds > self.promised_seconds + 1 + _ROUNDING_SECONDS:
            raise ValueError(f"{duration:g} s and {self.lag_seconds:g} s are more than what is promised and a second")
        if not self.poll_seconds <= 0.25:
            raise ValueError("who waits for a lease that is given up must see it within a quarter of a second")
        if not self.shortest_seconds <= duration <= _LONGEST_SECONDS:
            raise ValueError(f"a duration of {duration:g} s is out of range")

    @property
    def lag_seconds(self) -> float:
        """How much later than a duration after the last renewal somebody else holds, at most."""
        return self.poll_seconds + self.failover_seconds + self.answer_seconds

    @property
    def shortest_seconds(self) -> float:
        """The shortest duration that a failover of the database need not end."""
        return self.failover_seconds + 3 * self.poll_seconds + _LEAST_MARGIN_SECONDS

    @property
    def longest_seconds(self) -> float:
        return _LONGEST_SECONDS

    @staticmethod
    def margin_seconds(duration_seconds: float) -> float:
        """How long before its lease could be taken the holder stops: to stop in, and for clocks that drift."""
        return _LEAST_MARGIN_SECONDS + _MARGIN_PART * duration_seconds

    @staticmethod
    def renew_seconds(duration_seconds: float) -> float:
        return _RENEW_PART * duration_seconds

    def attempt(self, duration_seconds: float) -> float:
        return min(self.attempt_seconds, _RENEW_PART * duration_seconds)


def for_latency(latency_ms: int, promised_seconds: float | None = None) -> Timing:
    """Return the table for a network whose messages take up to `latency_ms` one way."""
    election = database.for_latency(latency_ms).election_seconds
    failover = 2 * election
    poll, answer = 0.2, 0.2
    promised = max(PROMISED_SECONDS, 8 * election) if promised_seconds is None else promised_seconds
    return Timing(
        promised_seconds=promised,
        duration_seconds=promised - max(0.0, poll + failover + answer - 1),
        poll_seconds=poll,
        failover_seconds=failover,
        answer_seconds=answer,
        attempt_seconds=max(1.0, 20 * latency_ms / 1000),
        claim_seconds=max(10.0, 2 * failover),
        stop_seconds=max(2.0, failover),
    )

"""Every duration of the database half, in one table, scaled by one setting: the network latency.

Dqlite derives its heartbeat (1.5 latencies) and its election time-out (random in 15 to 30 latencies) from the latency
it is given. All our own waits that must stand in a relation to those are derived here too, and the relations are
checked when the table is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LATENCY_DEFAULT_MS: Final = 10


@dataclass(frozen=True)
class Timing:
    """Durations in seconds. Build it with `for_latency`."""

    heartbeat_seconds: float
    election_seconds: float  # The longest an election time-out can be.
    hold_seconds: float  # How long silence must last before a forced reconfiguration may be considered.
    watch_seconds: float  # Between two rounds of asking every member who it is.
    ask_seconds: float  # One question and its answer, connect included.
    connect_seconds: float  # One attempt to open a raft connection.
    seen_seconds: float  # A peer seen this recently is worth `persist_seconds` of attempts before failing.
    persist_seconds: float
    settle_seconds: float  # How long a membership change may wait for the roles to settle.
    join_seconds: float
    handover_seconds: float

    def __post_init__(self) -> None:
        order = (self.heartbeat_seconds, self.election_seconds, self.hold_seconds)
        if not order[0] < order[1] < order[2]:
            raise ValueError(f"heartbeat < election time-out < hold must hold, not {order}")
        if self.hold_seconds < 10 * self.election_seconds:
            raise ValueError("the hold must last ten election time-outs")
        if self.hold_seconds < 2 * self.watch_seconds:
            raise ValueError("two rounds of questions must fit into the hold")


def for_latency(latency_ms: int) -> Timing:
    """Return the table for a network whose messages take up to `latency_ms` one way."""
    latency = latency_ms / 1000
    election = 30 * latency
    ask = max(0.4, 8 * latency)
    return Timing(
        heartbeat_seconds=1.5 * latency,
        election_seconds=election,
        # Never under 2.5 s: the questions themselves have to be asked several times within it.
        hold_seconds=max(2.5, 10 * election),
        watch_seconds=min(0.5, max(2.5, 10 * election) / 4),
        ask_seconds=ask,
        connect_seconds=max(0.6, 8 * latency),
        seen_seconds=5.0,
        persist_seconds=3.0,
        settle_seconds=10.0,
        join_seconds=max(15.0, 20 * election),
        handover_seconds=max(5.0, 10 * election),
    )

"""What the writer lived through, and whether the database kept its word. Pure: lines in, verdict out.

A row's number is used for one attempt only, whatever came of it. So an acknowledged number must be there, a refused
one must not, and an indefinite one may be either; each counts the times it was applied, and that must be once.
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Outcome = Literal["acknowledged", "refused", "indefinite"]


@dataclass(frozen=True)
class Attempt:
    """One row that the writer tried to append. Times are CLOCK_MONOTONIC, which all processes here share."""

    number: int
    outcome: Outcome
    sent: float
    done: float
    reason: str = ""


@dataclass(frozen=True)
class Verdict:
    """The history against the rows that were read back at the end. `wrong` is empty when both agree."""

    acknowledged: int
    refused: int
    indefinite: int
    indefinite_kept: int
    lost: tuple[int, ...] = ()
    ghosts: tuple[int, ...] = ()
    repeated: tuple[int, ...] = ()
    unknown: tuple[int, ...] = ()

    @property
    def wrong(self) -> dict[str, tuple[int, ...]]:
        named = {
            "acknowledged and not there": self.lost,
            "refused and there": self.ghosts,
            "applied more than once": self.repeated,
            "there and never sent": self.unknown,
        }
        return {what: numbers for what, numbers in named.items() if numbers}


def line(event: str, **facts: Any) -> bytes:
    """Return one event as the line of JSON that `parse` reads."""
    return json.dumps({"event": event, **facts}, separators=(",", ":")).encode() + b"\n"


def parse(text: bytes) -> list[dict[str, Any]]:
    """Return the events of complete lines; a last line without its end is left out, its writer was cut off."""
    whole, _, _ = text.rpartition(b"\n")
    return [json.loads(text) for text in whole.split(b"\n") if text]


def attempts(events: Iterable[Mapping[str, Any]]) -> list[Attempt]:
    """Return the write events as attempts, in the order they were made."""
    return [
        Attempt(e["number"], e["outcome"], e["sent"], e["done"], e.get("reason", ""))
        for e in events
        if e["event"] == "write"
    ]


def judge(made: Sequence[Attempt], rows: Mapping[int, int]) -> Verdict:
    """Compare the attempts with `rows`: number -> times applied. Raises ValueError when a number was used twice."""
    outcome = {attempt.number: attempt.outcome for attempt in made}
    if len(outcome) != len(made):
        raise ValueError("a number was used for two attempts, so its row proves nothing")
    numbers: dict[str, list[int]] = {"acknowledged": [], "refused": [], "indefinite": []}
    for number, came in outcome.items():
        numbers[came].append(number)
    return Verdict(
        acknowledged=len(numbers["acknowledged"]),
        refused=len(numbers["refused"]),
        indefinite=len(numbers["indefinite"]),
        indefinite_kept=sum(n in rows for n in numbers["indefinite"]),
        lost=tuple(n for n in numbers["acknowledged"] if n not in rows),
        ghosts=tuple(n for n in numbers["refused"] if n in rows),
        repeated=tuple(n for n, times in sorted(rows.items()) if times != 1),
        unknown=tuple(n for n in sorted(rows) if n not in outcome),
    )


@dataclass(frozen=True)
class Outage:
    """One disturbance: when it was begun, and until when its consequences are looked for."""

    begun: float
    ended: float


def gap_ms(made: Iterable[Attempt], outage: Outage) -> float | None:
    """Return the longest time without a committed row around `outage`, in ms; None when none came after it.

    Measured from one acknowledgement to the next, as the writer saw them: the last may be older than the outage.
    """
    done = sorted(a.done for a in made if a.outcome == "acknowledged" and a.done <= outage.ended)
    gaps = [b - a for a, b in itertools.pairwise(done) if b >= outage.begun]
    return round(max(gaps) * 1000, 1) if gaps else None


def first_acknowledged(made: Iterable[Attempt], after: float) -> float | None:
    """Return when the first row sent after `after` was acknowledged."""
    return min((a.done for a in made if a.outcome == "acknowledged" and a.sent >= after), default=None)


def median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None

"""What the cloud's own log says about the instances of machines. Pure: events in, lives and take-overs out.

The log is the truth about them: it is written by who runs them, whatever the controllers believe.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_BEGIN = "start"
_ENDS = ("stopped", "failed", "lost")


@dataclass(frozen=True)
class Life:
    """One instance. Times are CLOCK_MONOTONIC; `ended` is None for one that is still there, `how` what ended it."""

    uuid: str
    instance: str
    begun: float
    ended: float | None = None
    how: str = ""


@dataclass(frozen=True)
class Takeover:
    """Who spoke to the cloud next, after somebody else had died, and when."""

    who: str
    at: float


def lives(log: Iterable[Mapping[str, Any]]) -> tuple[Life, ...]:
    """Return every instance that ever was, in the order in which they began."""
    found: dict[str, Life] = {}
    for event in log:
        if event["event"] == _BEGIN:
            found[event["instance"]] = Life(event["uuid"], event["instance"], event["at"])
        elif event["event"] in _ENDS:
            begun = found[event["instance"]]
            found[event["instance"]] = Life(begun.uuid, begun.instance, begun.begun, event["at"], event["event"])
    return tuple(found.values())


def doubled(all_lives: Iterable[Life]) -> list[str]:
    """Return a sentence for each machine with two instances, at one moment or one after another.

    One that never came up does not count as long as it had ended before the next one began.
    """
    by_uuid: dict[str, list[Life]] = {}
    for life in all_lives:
        by_uuid.setdefault(life.uuid, []).append(life)
    problems = []
    for uuid, each in by_uuid.items():
        for first, second in itertools.pairwise(sorted(each, key=lambda life: life.begun)):
            if first.ended is None or first.ended > second.begun:
                problems.append(f"{uuid} had two instances at once: {first.instance} and {second.instance}")
            elif first.how != "failed":
                problems.append(f"{uuid} had one instance after another: {first.instance} and {second.instance}")
    return problems


def askers(log: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return who said anything to the cloud, each once, in order: a controller with its token."""
    return tuple(dict.fromkeys(str(event["by"]) for event in log if event["event"].startswith("asked")))


def takeover(log: Sequence[Mapping[str, Any]], moment: float) -> Takeover | None:
    """Return the first that asked after `moment` and is not who asked last before it; None: nobody yet."""
    asked = [event for event in log if event["event"].startswith("asked")]
    before = [event["by"] for event in asked if event["at"] <= moment]
    for event in asked:
        if event["at"] > moment and (not before or event["by"] != before[-1]):
            return Takeover(str(event["by"]), float(event["at"]))
    return None

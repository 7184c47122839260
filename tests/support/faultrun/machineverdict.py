"""What a cloud logged, and the rows at the end -> what is wrong with the machines. Pure.

The log is the truth: it was written by who ran the instances. The rows only say which of them should be there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from demo.machinelog import Life, askers, doubled, lives


@dataclass(frozen=True)
class Verdict:
    """`problems` is empty when every promise was kept. `askers` are those who said anything to the cloud, in order."""

    problems: tuple[str, ...]
    lives: tuple[Life, ...]
    askers: tuple[str, ...]

    def __str__(self) -> str:
        there = sum(life.ended is None for life in self.lives)
        told = f"{len(self.lives)} instances, {there} there at the end; asked by: {'; '.join(self.askers)}"
        return "\n".join([*self.problems, told])


def judge(log: Sequence[Mapping[str, Any]], wanted: Iterable[str], rows: Sequence[Mapping[str, Any]]) -> Verdict:
    """`wanted`: the uuids whose adding was acknowledged; `rows`: the machines at the end, as hactl shows them."""
    all_lives = lives(log)
    by_uuid: dict[str, list[Life]] = {}
    for life in all_lives:
        by_uuid.setdefault(life.uuid, []).append(life)
    state = {str(row["uuid"]): str(row["state"]) for row in rows}
    problems = [f"{uuid} was added, and has no row" for uuid in wanted if uuid not in state]
    problems += [f"machine {row['number']} is {row['state']} at the end: {row['reason']}" for row in rows if _open(row)]
    problems += doubled(all_lives)
    for uuid, each in by_uuid.items():
        problems += [f"{uuid} was lost: {life.instance}" for life in each if life.how == "lost"]
        there = [life for life in each if life.ended is None]
        if there and state.get(uuid) != "started":
            problems.append(f"leaked: {there[0].instance} of {uuid}, whose row says {state.get(uuid, 'nothing')}")
        if any(life.how == "stopped" for life in each) and state.get(uuid) == "started":
            problems.append(f"{uuid} was stopped, and is wanted")
    for row in rows:
        found = [life.instance for life in by_uuid.get(str(row["uuid"]), []) if life.ended is None]
        if row["state"] == "started" and not row["manual"] and found != [row["instance"]]:
            problems.append(f"machine {row['number']} is {row['instance']} by its row and {found} by the log")
    return Verdict(tuple(problems), all_lives, askers(log))


def _open(row: Mapping[str, Any]) -> bool:
    return row["state"] not in ("started", "stopped") and not row["manual"]

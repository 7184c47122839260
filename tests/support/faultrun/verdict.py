"""Flow of a fault run, last hop: everybody's history and what was there at the end -> what is wrong. Pure."""

from __future__ import annotations

import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from demo import history

from faultrun import linearizable
from faultrun.linearizable import NEVER, Op


@dataclass(frozen=True)
class Done:
    """One question with what came of it. A question whose result was never written down is indefinite for ever."""

    client: str
    op: str
    outcome: history.Outcome
    sent: float
    done: float
    reason: str
    facts: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.client} {self.op} {dict(self.facts)} {self.outcome} {self.sent:.4f}–{self.done:.4f}"


@dataclass(frozen=True)
class Verdict:
    """`problems` is empty when every promise was kept; `counts` are outcomes by kind of question."""

    problems: tuple[str, ...]
    counts: Mapping[str, Mapping[str, int]]

    def acknowledged(self, op: str) -> int:
        return self.counts.get(op, {}).get("acknowledged", 0)

    def __str__(self) -> str:
        told = [
            f"{op}: " + ", ".join(f"{n} {o}" for o, n in sorted(c.items())) for op, c in sorted(self.counts.items())
        ]
        return "\n".join([*self.problems, "; ".join(told)])


def pair(events: Iterable[Mapping[str, Any]]) -> list[Done]:
    """Join each question with its result, in the order in which they were asked."""
    asked: dict[tuple[str, int], Mapping[str, Any]] = {}
    results: dict[tuple[str, int], Mapping[str, Any]] = {}
    for event in events:
        if event["event"] in ("invoke", "result"):
            (asked if event["event"] == "invoke" else results)[event["client"], event["id"]] = event
    made = []
    for key, question in asked.items():
        result = results.get(key, {"outcome": "indefinite", "done": NEVER, "reason": "its client ended first"})
        facts = {k: v for k, v in {**question, **result}.items() if k not in _ENVELOPE}
        made.append(
            Done(
                question["client"],
                question["op"],
                result["outcome"],
                question["sent"],
                result["done"],
                result["reason"],
                facts,
            )
        )
    return sorted(made, key=lambda d: d.sent)


_ENVELOPE = frozenset({"event", "client", "id", "op", "sent", "done", "outcome", "reason"})


def judge(events: Sequence[Mapping[str, Any]], balance: int) -> Verdict:
    """Check every promise. `balance` is what all accounts hold together; the last `last` event is what was there."""
    made = pair(events)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for one in made:
        counts[one.op][one.outcome] += 1
    last = next((e for e in reversed(events) if e["event"] == "last"), None)
    if last is None:
        return Verdict(("what was there at the end could not be read",), counts)
    problems = [
        *entries(made, last["entries"]),
        *tickets(made, last["entries"]),
        *counted(made),
        *registers(made, dict(last["registers"])),
        *bank(made, [money for _, money in last["bank"]], balance),
    ]
    return Verdict(tuple(problems), counts)


def entries(made: Sequence[Done], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Acknowledged rows are there, refused ones are not, and none is there twice."""
    problems = []
    for writer in sorted({d.client for d in made if d.op == "append"} | {row[0] for row in rows}):
        attempts = [
            history.Attempt(d.facts["number"], d.outcome, d.sent, d.done, d.reason)
            for d in made
            if d.op == "append" and d.client == writer
        ]
        there = Counter(number for who, number, _ in rows if who == writer)
        for what, numbers in history.judge(attempts, there).wrong.items():
            problems.append(f"rows of {writer}: {what}: {list(numbers)[:20]}")
    return problems


def tickets(made: Sequence[Done], rows: Sequence[Sequence[Any]]) -> list[str]:
    """All writes have one order, which agrees with real time: no two leaders acknowledged side by side."""
    problems = []
    found = [ticket for _, _, ticket in rows]
    if found != list(range(1, len(found) + 1)):
        problems.append(f"the tickets at the end are not 1 to {len(found)}: a row is lost, or has a place twice")
    kept = {(writer, number): ticket for writer, number, ticket in rows}
    acknowledged = [d for d in made if d.op == "append" and d.outcome == "acknowledged"]
    taken: dict[int, Done] = {}
    for one in acknowledged:
        ticket = one.facts["ticket"]
        if ticket in taken:
            problems.append(f"two leaders gave ticket {ticket}: {taken[ticket]}; {one}")
        taken[ticket] = one
        if kept.get((one.client, one.facts["number"]), ticket) != ticket:
            problems.append(f"acknowledged with one ticket and there with another: {one}")
    ended = sorted((d.done, d.facts["ticket"]) for d in acknowledged)
    highest = 0
    pointer = 0
    for one in sorted(acknowledged, key=lambda d: d.sent):
        while pointer < len(ended) and ended[pointer][0] < one.sent:
            highest = max(highest, ended[pointer][1])
            pointer += 1
        if one.facts["ticket"] <= highest:
            problems.append(f"a ticket older than one that was acknowledged before ({highest}): {one}")
    return problems


def counted(made: Sequence[Done]) -> list[str]:
    """A count shows every row that was acknowledged before it was asked for, and none that was not sent yet."""
    appends = [d for d in made if d.op == "append" and d.outcome != "refused"]
    acknowledged = sorted(d.done for d in appends if d.outcome == "acknowledged")
    sent = sorted(d.sent for d in appends)
    problems = []
    for one in made:
        if one.op != "count" or one.outcome != "acknowledged":
            continue
        least, most = bisect.bisect_left(acknowledged, one.sent), bisect.bisect_right(sent, one.done)
        if not least <= one.facts["rows"] <= most or one.facts["last"] != one.facts["rows"]:
            problems.append(f"a stale or wrong count, {least} to {most} rows were to be seen: {one}")
    return problems


def registers(made: Sequence[Done], at_the_end: Mapping[str, str]) -> list[str]:
    """Each register's history is linearizable, the value at the end included."""
    by_key: dict[str, list[Op]] = defaultdict(list)
    for one in made:
        if one.op in ("read", "write", "swap"):
            by_key[one.facts["key"]].append(_operation(one))
    problems = []
    for key, ops in sorted(by_key.items()):
        end = max((op.done for op in ops if op.done < NEVER), default=0.0) + 1
        seen = Op("read", at_the_end.get(key), "acknowledged", end, end + 1, client="the end")
        wrong = linearizable.problem([*ops, seen])
        if wrong is not None:
            problems.append(f"register {key}: {wrong}")
    return problems


def _operation(one: Done) -> Op:
    facts = one.facts
    if one.op == "swap" and not (one.outcome == "acknowledged" and not facts["swapped"]):
        return Op("swap", facts["new"], one.outcome, one.sent, one.done, facts["expected"], one.client)
    kind = "write" if one.op == "write" else "read"
    return Op(kind, facts.get("value"), one.outcome, one.sent, one.done, client=one.client)


def bank(made: Sequence[Done], at_the_end: Sequence[int], balance: int) -> list[str]:
    """Money is neither made nor lost, in any read; no account is overdrawn."""
    read = [(str(d), d.facts["balances"]) for d in made if d.op == "balances" and d.outcome == "acknowledged"]
    return [
        f"the accounts hold {sum(money)}, not {balance}: {who}"
        for who, money in [*read, ("at the end", at_the_end)]
        if (sum(money) != balance or min(money) < 0)
    ]

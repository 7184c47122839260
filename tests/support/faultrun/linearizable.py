"""Is the history of one register linearizable? Pure: operations in, what is wrong with them out.

Every written value is unique, so a read names the write it saw. That decides what became of an indefinite write: if
its value was seen it happened, before whoever saw it first was answered; if nobody saw it, it may be taken as never
done, because nothing that is checked here depends on it. What is left has an end, and the search of Wing and Gong,
with Lowe's memory of what was tried, is quick: it only branches over operations that overlap.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Outcome = Literal["acknowledged", "refused", "indefinite"]

NEVER = math.inf


@dataclass(frozen=True)
class Op:
    """One operation on one register.

    A read has the `value` it saw (None: the register was never written). A write sets `value`; a swap does so if it
    finds `expected`, and a swap that found another value is written down as a read of that one.
    """

    kind: Literal["read", "write", "swap"]
    value: str | None
    outcome: Outcome
    sent: float
    done: float
    expected: str | None = None
    client: str = ""

    def __str__(self) -> str:
        what = f"swap {self.expected} for {self.value}" if self.kind == "swap" else f"{self.kind} {self.value}"
        return f"{self.client}: {what}, {self.outcome}, {self.sent:.4f}–{self.done:.4f}"


def problem(ops: Iterable[Op]) -> str | None:
    """Return why no order of these operations explains what was seen, or None when there is one."""
    history = [op for op in ops if op.outcome == "acknowledged" or op.kind != "read"]
    written = [op.value for op in history if op.kind != "read"]
    if len(set(written)) != len(written):
        raise ValueError("a value was written twice, so a read of it proves nothing")
    certain, wrong = _settle(history)
    return wrong or _search(certain)


def _settle(history: Sequence[Op]) -> tuple[list[Op], str | None]:
    """Leave what surely happened, each with an end; or say what was seen that cannot be."""
    writes = {op.value: op for op in history if op.kind != "read"}
    certain = [op for op in history if op.outcome == "acknowledged"]
    first_seen: dict[str, Op] = {}
    todo = list(certain)
    while todo:
        op = todo.pop()
        seen = op.value if op.kind == "read" else op.expected
        if seen is None:
            continue
        write = writes.get(seen)
        if write is None:
            return [], f"a value was seen that nobody wrote: {op}"
        if write.outcome == "refused":
            return [], f"a refused write was seen: {write}; seen by {op}"
        if op.done < write.sent:
            return [], f"a value was seen before it was written: {op}; {write}"
        earlier = first_seen.get(seen)
        if earlier is not None and earlier.done <= op.done:
            continue
        first_seen[seen] = op
        if write.outcome == "indefinite":
            # It happened, and before this answer. What it saw itself was there by then, too.
            todo.append(replace(write, outcome="acknowledged", done=op.done))
    for value, seer in first_seen.items():
        if writes[value].outcome == "indefinite":
            certain.append(replace(writes[value], outcome="acknowledged", done=seer.done))
    return certain, None


class _Event:
    """The beginning or the end of an operation, in a list that operations can be taken out of and put back."""

    __slots__ = ("after", "before", "end", "number")

    def __init__(self, number: int, end: _Event | None) -> None:
        self.number = number
        self.end = end  # None: this is an end itself.
        self.before: _Event | None = None
        self.after: _Event | None = None

    def lift(self) -> None:
        for event in (self, self.end):
            assert event is not None and event.before is not None
            event.before.after = event.after
            if event.after is not None:
                event.after.before = event.before

    def unlift(self) -> None:
        for event in (self.end, self):
            assert event is not None and event.before is not None
            event.before.after = event
            if event.after is not None:
                event.after.before = event


def _timeline(ops: Sequence[Op]) -> _Event:
    """Return the head of the list of all events. Of two at one moment the beginning comes first: they overlap."""
    moments: list[tuple[float, int, int, _Event]] = []
    for number, op in enumerate(ops):
        end = _Event(number, None)
        moments.append((op.sent, 0, number, _Event(number, end)))
        moments.append((op.done, 1, number, end))
    head = last = _Event(-1, None)
    for _, _, _, event in sorted(moments, key=lambda m: m[:3]):
        last.after, event.before = event, last
        last = event
    return head


def _search(ops: Sequence[Op]) -> str | None:
    """Try orders that respect real time until one explains every answer; return where the longest one got stuck."""
    head = _timeline(ops)
    state: str | None = None
    taken = 0
    tried: set[tuple[int, str | None]] = set()
    path: list[tuple[_Event, str | None]] = []
    deepest, stuck = -1, ""
    event = head.after
    while head.after is not None:
        assert event is not None
        if event.end is not None:
            op = ops[event.number]
            after = _apply(op, state)
            grown = taken | 1 << event.number
            if after is not _IMPOSSIBLE and (grown, after) not in tried:
                tried.add((grown, after))
                path.append((event, state))
                state, taken = after, grown
                event.lift()
                event = head.after
            else:
                event = event.after
            continue
        # The end of an operation that has no place in the order yet: the last choice was wrong.
        if len(path) > deepest:
            deepest = len(path)
            last = f"; the last in order is {ops[path[-1][0].number]}" if path else ""
            stuck = f"no place in any order for {ops[event.number]}; the value would be {state}{last}"
        if not path:
            return stuck
        event, state = path.pop()
        taken &= ~(1 << event.number)
        event.unlift()
        event = event.after
    return None


_IMPOSSIBLE = "\0"


def _apply(op: Op, state: str | None) -> str | None:
    """Return the register's value after the operation, _IMPOSSIBLE if its answer does not fit the value before."""
    if op.kind == "read":
        return state if op.value == state else _IMPOSSIBLE
    if op.kind == "swap" and op.expected != state:
        return _IMPOSSIBLE
    return op.value

"""The judge of machines, against logs that are wrong on purpose."""

from __future__ import annotations

from typing import Any

import pytest

from faultrun import machineverdict


def log(*events: str) -> list[dict[str, Any]]:
    """`start a i-1` and so on, one a second."""
    found = []
    for at, words in enumerate(events):
        event, uuid, *rest = words.split()
        found.append({"at": float(at), "event": event, "uuid": uuid, "instance": (rest or [""])[0], "by": "c 0"})
    return found


def row(uuid: str, state: str, instance: str = "", **more: Any) -> dict[str, Any]:
    return {"number": 0, "uuid": uuid, "state": state, "instance": instance, "reason": "", "manual": False, **more}


GOOD = log("asked-start a", "start a i-1", "running a i-1", "start b i-2", "stop b i-2", "stopped b i-2")
ROWS = [row("a", "started", "i-1"), row("b", "stopped")]


def test_a_good_run_has_no_problems_and_names_who_asked():
    verdict = machineverdict.judge(GOOD, ["a", "b"], ROWS)

    assert verdict.problems == ()
    assert verdict.askers == ("c 0",)
    assert "2 instances, 1 there at the end" in str(verdict)


def test_a_start_that_failed_may_be_repeated():
    again = log("start a i-1", "failed a i-1", "start a i-2", "running a i-2")

    assert machineverdict.judge(again, ["a"], [row("a", "started", "i-2")]).problems == ()


@pytest.mark.parametrize(
    ("events", "rows", "problem"),
    [
        (["start a i-1", "start a i-2", "stopped a i-2"], [row("a", "started", "i-1")], "two instances at once"),
        (["start a i-1", "stopped a i-1", "start a i-2"], [row("a", "started", "i-2")], "one instance after another"),
        (["start a i-1"], [], "has no row"),
        (["start a i-1", "start x i-2"], [row("a", "started", "i-1")], "leaked: i-2 of x"),
        (["start a i-1"], [row("a", "stopped")], "leaked: i-1 of a"),
        (["start a i-1", "stopped a i-1"], [row("a", "started", "i-1")], "a was stopped, and is wanted"),
        (["start a i-1", "lost a i-1"], [row("a", "started", "i-1")], "a was lost"),
        ([], [row("a", "started", "i-1")], "by its row and [] by the log"),
        (["start a i-1"], [row("a", "started", "i-9")], "is i-9 by its row"),
        (["start a i-1"], [row("a", "starting")], "is starting at the end"),
        ([], [row("a", "error")], "is error at the end"),
    ],
)
def test_each_broken_promise_is_seen(events: list[str], rows: list[dict[str, Any]], problem: str):
    verdict = machineverdict.judge(log(*events), ["a"], rows)

    assert any(problem in told for told in verdict.problems), verdict

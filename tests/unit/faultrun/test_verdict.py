"""Each promise that a fault run judges, kept and broken by hand."""

from __future__ import annotations

from typing import Any

import pytest

from faultrun import verdict

LAST = {"event": "last", "entries": [["w", 1, 1], ["w", 2, 2]], "registers": [["a", "v2"]], "bank": [[0, 60], [1, 40]]}


class Story:
    """Events one after another, a second each."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self._now = 0.0

    def op(self, op: str, outcome: str = "acknowledged", client: str = "w", **facts: Any) -> Story:
        number = len(self.events)
        self.events.append({"event": "invoke", "client": client, "id": number, "op": op, "sent": self._now})
        self.events.append(
            {"event": "result", "client": client, "id": number, "outcome": outcome, "reason": "", **facts}
            | {"done": self._now + 0.5}
        )
        self._now += 1
        return self

    def problems(self, **last: Any) -> str:
        return "\n".join(verdict.judge([*self.events, LAST | last], 100).problems)


def good() -> Story:
    return (
        Story()
        .op("append", number=1, ticket=1)
        .op("count", rows=1, last=1)
        .op("append", number=2, ticket=2)
        .op("count", rows=2, last=2)
        .op("write", key="a", value="v1")
        .op("swap", key="a", new="v2", expected="v1", swapped=True)
        .op("swap", key="a", new="v3", expected="v1", swapped=False, value="v2")
        .op("read", key="a", value="v2")
        .op("transfer", moved=True)
        .op("balances", balances=[60, 40])
    )


def test_a_good_history_has_no_problems_and_is_counted():
    result = verdict.judge([*good().events, LAST], 100)

    assert result.problems == ()
    assert result.acknowledged("append") == 2
    assert result.acknowledged("swap") == 2


def test_an_acknowledged_row_that_is_gone_is_found():
    assert "acknowledged and not there: [2]" in good().problems(entries=[["w", 1, 1]])


def test_a_refused_row_that_is_there_is_found():
    story = good().op("append", "refused", number=3)
    assert "refused and there: [3]" in story.problems(entries=[*LAST["entries"], ["w", 3, 3]])


def test_an_indefinite_row_may_be_there_or_not():
    story = good().op("append", "indefinite", number=3)
    assert story.problems() == ""
    assert story.problems(entries=[*LAST["entries"], ["w", 3, 3]]) == ""


def test_a_row_that_was_applied_twice_is_found():
    assert "applied more than once: [2]" in good().problems(entries=[*LAST["entries"], ["w", 2, 3]])


def test_a_question_whose_client_died_is_indefinite():
    story = good().op("append", number=3, ticket=3)
    del story.events[-1]
    story.events[-1]["number"] = 3
    assert story.problems() == ""
    assert story.problems(entries=[*LAST["entries"], ["w", 3, 3]]) == ""


def test_one_ticket_from_two_leaders_is_found():
    story = good().op("append", client="x", number=1, ticket=2)
    assert "two leaders gave ticket 2" in story.problems(entries=[*LAST["entries"], ["x", 1, 2]])


def test_an_old_ticket_is_found():
    story = Story().op("append", number=1, ticket=2).op("append", number=2, ticket=1)
    assert "older than one that was acknowledged before (2)" in story.problems(
        entries=[["w", 2, 1], ["w", 1, 2]], registers=[]
    )


def test_a_hole_in_the_tickets_is_found():
    assert "not 1 to 2" in Story().problems(entries=[["w", 1, 1], ["w", 2, 3]], registers=[])


def test_a_count_that_misses_an_acknowledged_row_is_found():
    assert "stale or wrong count" in good().op("count", rows=1, last=1).problems()


def test_a_count_of_rows_that_nobody_sent_is_found():
    assert "stale or wrong count" in good().op("count", rows=3, last=3).problems()


def test_a_stale_read_is_found():
    assert "register a: " in good().op("read", key="a", value="v1").problems()


def test_a_swap_that_won_against_an_old_value_is_found():
    story = good().op("swap", key="a", new="v4", expected="v1", swapped=True)
    assert "register a: " in story.problems(registers=[["a", "v4"]])


def test_a_swap_that_lost_against_an_old_value_is_found():
    assert "register a: " in good().op("swap", key="a", new="v4", expected="v0", swapped=False, value="v1").problems()


def test_the_value_at_the_end_belongs_to_the_history():
    assert "register a: " in good().problems(registers=[["a", "v1"]])


@pytest.mark.parametrize("balances", [[60, 50], [110, -10]])
def test_money_from_nowhere_is_found(balances: list[int]):
    assert "the accounts hold" in good().op("balances", balances=balances).problems()
    assert "at the end" in good().problems(bank=list(enumerate(balances)))


def test_a_run_that_could_not_be_read_at_its_end_proves_nothing():
    assert verdict.judge(good().events, 100).problems

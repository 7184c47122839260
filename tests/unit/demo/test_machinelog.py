"""demo.machinelog: who had instances, who had two, and who took over when."""

from __future__ import annotations

from typing import Any

from demo import machinelog
from demo.machinelog import Life, Takeover


def asked(at: float, by: str) -> dict[str, Any]:
    return {"at": at, "event": "asked-start", "uuid": "a", "by": by}


def event(at: float, name: str, uuid: str, instance: str) -> dict[str, Any]:
    return {"at": at, "event": name, "uuid": uuid, "instance": instance, "by": ""}


def test_an_instance_lives_from_its_start_until_nothing_of_it_is_left():
    log = [
        event(1, "start", "a", "i-1"),
        event(2, "running", "a", "i-1"),
        event(3, "start", "b", "i-2"),
        event(4, "stop", "a", "i-1"),
        event(5, "stopped", "a", "i-1"),
    ]

    assert machinelog.lives(log) == (Life("a", "i-1", 1, 5, "stopped"), Life("b", "i-2", 3))
    assert machinelog.doubled(machinelog.lives(log)) == []


def test_two_at_once_and_two_in_a_row_are_both_seen_and_a_failed_one_is_not_one():
    assert "at once" in machinelog.doubled([Life("a", "i-1", 1), Life("a", "i-2", 2)])[0]
    assert "at once" in machinelog.doubled([Life("a", "i-1", 1, 3, "failed"), Life("a", "i-2", 2)])[0]
    assert "after another" in machinelog.doubled([Life("a", "i-1", 1, 2, "stopped"), Life("a", "i-2", 3)])[0]
    assert machinelog.doubled([Life("a", "i-1", 1, 2, "failed"), Life("a", "i-2", 3)]) == []
    assert machinelog.doubled([Life("a", "i-1", 1), Life("b", "i-2", 1)]) == []


def test_who_takes_over_is_the_next_other_one_that_asks():
    first, second = "controller 0, token 1.1", "controller 2, token 1.2"
    log = [asked(1, first), asked(5, first), asked(8, second)]

    assert machinelog.takeover(log, 4) == Takeover(second, 8)
    assert machinelog.takeover(log[:2], 4) is None
    assert machinelog.askers(log) == (first, second)

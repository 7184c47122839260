"""demo.telling: the same story for a person at a terminal and for a log."""

from __future__ import annotations

import io

import pytest
from demo import telling
from rich.console import Console


def told(*, terminal: bool) -> str:
    out = io.StringIO()
    teller = telling.teller(Console(file=out, force_terminal=terminal, width=60, highlight=False))
    teller.chapter("One unit")
    teller.typed("scripts/localjuju add-unit controller -n 2")
    teller.say("controller/3 is blocked: [eth0] 10.0.0.4 " + "and " * 20)
    with teller.waiting("three voters") as progress:
        progress.now("controller 0 voter")
    teller.check(telling.Check("three voters", True, "2.1 s"))
    teller.check(telling.Check("nothing lost", False, "1 row"))
    return out.getvalue()


def test_without_a_terminal_every_line_is_whole_timed_and_without_escapes():
    lines = told(terminal=False).splitlines()

    assert len(lines) == 5
    assert "\x1b" not in "".join(lines)
    assert [float(line.split()[0]) for line in lines] == sorted(float(line.split()[0]) for line in lines)
    assert lines[-1].endswith("FAIL nothing lost: 1 row")


@pytest.mark.parametrize("terminal", [False, True])
def test_brackets_in_messages_are_text_and_not_markup(terminal: bool):
    assert "[eth0]" in told(terminal=terminal)

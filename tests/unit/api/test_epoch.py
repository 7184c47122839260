"""Which controller to believe, by its epoch."""

from __future__ import annotations

import pytest

from controller.api import epoch
from controller.api.epoch import Verdict
from controller.api.messages import Epoch

ONE, TWO, OTHER_TWO = Epoch(1, "a"), Epoch(2, "b"), Epoch(2, "c")


@pytest.mark.parametrize(
    ("known", "offered", "verdict"),
    [
        (None, None, Verdict.SAME),
        (None, ONE, Verdict.NEWER),
        (ONE, ONE, Verdict.SAME),
        (ONE, TWO, Verdict.NEWER),
        (TWO, ONE, Verdict.OLDER),
        (TWO, OTHER_TWO, Verdict.RIVAL),
        (ONE, None, Verdict.OLDER),
    ],
)
def test_who_has_seen_a_newer_epoch_does_not_go_back(known: Epoch | None, offered: Epoch | None, verdict: Verdict):
    assert epoch.judge(known, offered) is verdict


def test_an_epoch_survives_as_text():
    assert epoch.parse(epoch.text_of(TWO)) == TWO
    assert [epoch.parse(text) for text in ("", "2", "2:", ":b", "x:b", "-1:b", "²:b")] == [None] * 7

"""When controllerd asks the charm for a hook."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from dbaccessor import charmnews
from dbaccessor.charmnews import CharmNews
from dbaccessor.identity import Store


@pytest.mark.parametrize(
    ("looks", "asked"),
    [
        ([(0.0, True), (5.0, True)], 0),
        ([(0.0, True), (0.5, False), (1.0, True)], 0),  # An election.
        ([(0.0, True), (0.5, False), (1.0, False), (60.0, False)], 0),
        ([(0.0, True), (0.5, False), (1.0, False), (60.0, True), (60.5, True)], 1),
        ([(0.0, False), (3.0, True), (3.5, False), (9.0, True)], 2),
    ],
)
def test_a_hook_is_asked_for_when_a_node_serves_again_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looks: Sequence[tuple[float, bool]], asked: int
):
    now = [0.0]
    monkeypatch.setattr(charmnews.time, "monotonic", lambda: now[0])
    news, told = CharmNews(Store(tmp_path)), list[float]()
    news.notify = lambda: told.append(now[0])

    for now[0], serves in looks:
        news.tell_whether_it_serves(serves)

    assert len(told) == asked

"""When a leader whose write-ahead log is long gives leadership away, and when it restarts its node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

import jumpingloop
from dbaccessor import errors
from dbaccessor.dqlite.walindex import WalIndexes
from dbaccessor.logwatch import HUGE_FRAMES, LONG_FRAMES, LogWatch


class Told(WalIndexes):
    def __init__(self, *lengths: int | None) -> None:
        super().__init__()
        self._lengths = list(lengths)

    def frames(self) -> int | None:
        return self._lengths.pop(0) if len(self._lengths) > 1 else self._lengths[0]


def watched(
    *lengths: int | None,
    heir: str = "controller-1-2",
    leads: Callable[[], bool | None] = lambda: True,
    looks: int = 10,
    pause: float = 0.0,
) -> tuple[list[str], LogWatch]:
    """What a watch did that saw these lengths, the last one for ever."""
    done: list[str] = []

    async def hand_over() -> str:
        if heir == "refused":
            done.append("refused")
            raise errors.NotLeader("no")
        return heir

    async def restart() -> None:
        done.append("stopped")

    watch = LogWatch(Told(*lengths), leads, hand_over, restart, done.append)

    async def story() -> None:
        for _ in range(looks):
            await watch.look()
            await asyncio.sleep(pause)

    jumpingloop.run(story())
    return done, watch


@pytest.mark.parametrize("lengths", [(None,), (0, 900, 1500), (LONG_FRAMES - 1,)])
def test_a_log_that_is_not_long_is_left_alone(lengths: tuple[int | None, ...]):
    assert watched(*lengths)[0] == []


def test_a_log_that_is_long_for_a_moment_is_left_alone():
    assert watched(LONG_FRAMES, LONG_FRAMES, 12)[0] == []


def test_a_leader_whose_log_stays_long_gives_leadership_away_once():
    done, watch = watched(LONG_FRAMES)
    assert done == ["handover"]
    assert watch.frames == LONG_FRAMES


def test_with_nobody_to_lead_the_node_is_restarted_but_only_when_its_log_is_huge():
    assert watched(HUGE_FRAMES - 1, heir="")[0] == []
    assert watched(*[LONG_FRAMES] * 5, HUGE_FRAMES, heir="")[0] == ["stopped", "restart"]
    assert watched(HUGE_FRAMES, heir="")[0] == ["stopped", "restart"]


def test_one_huge_transaction_restarts_nobody():
    assert watched(0, HUGE_FRAMES, HUGE_FRAMES, 0, heir="")[0] == []


def test_what_could_not_be_done_is_tried_again_later():
    assert watched(HUGE_FRAMES, heir="refused")[0] == ["refused"]
    assert watched(HUGE_FRAMES, heir="refused", looks=30, pause=0.1)[0] == ["refused"] * 3


def test_what_was_done_is_given_time():
    assert watched(LONG_FRAMES, looks=40, pause=0.1)[0] == ["handover"]
    assert watched(HUGE_FRAMES, looks=60, pause=0.1)[0] == ["handover"] * 2


def test_a_node_that_does_not_lead_is_not_watched():
    done, watch = watched(HUGE_FRAMES, leads=lambda: False)
    assert done == []
    assert watch.frames is None


def test_a_leader_that_is_too_busy_to_answer_is_watched_all_the_same():
    said = iter([True, *[None] * 9])
    assert watched(LONG_FRAMES - 1, LONG_FRAMES, leads=lambda: next(said))[0] == ["handover"]


def test_one_that_did_not_lead_when_it_answered_last_is_not():
    said = iter([False, *[None] * 9])
    assert watched(HUGE_FRAMES, leads=lambda: next(said))[0] == []

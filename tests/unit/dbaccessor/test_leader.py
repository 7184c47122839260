"""The search for a leader: however many callers, one round of questions at a time."""

from __future__ import annotations

import asyncio

import pytest

from dbaccessor import errors, leader
from dbaccessor.leader import OutsideConnector


class Questions:
    """Stands in for asking everybody: nobody leads, and an answer takes a moment."""

    def __init__(self) -> None:
        self.rounds = 0
        self.at_once = 0
        self.most_at_once = 0

    async def ask(self, *_: object) -> leader.Found:
        self.rounds += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0.01)
        self.at_once -= 1
        return None, "nobody leads"


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> Questions:
    asked = Questions()
    monkeypatch.setattr(leader, "find_leader", asked.ask)
    return asked


def test_callers_that_wait_together_share_every_round(questions: Questions):
    async def play() -> None:
        connector = OutsideConnector(lambda: {"0": "127.0.0.1"})
        deadline = asyncio.get_running_loop().time() + 0.3
        ends = await asyncio.gather(
            *(connector.to_leader(deadline=deadline) for _ in range(50)), return_exceptions=True
        )
        assert {type(end) for end in ends} == {errors.NotReady}

    asyncio.run(play())
    assert questions.most_at_once == 1
    assert 1 <= questions.rounds <= 30


def test_a_caller_that_gives_up_takes_no_round_away_from_the_others(questions: Questions):
    async def play() -> None:
        connector = OutsideConnector(lambda: {"0": "127.0.0.1"})
        deadline = asyncio.get_running_loop().time() + 0.2
        first = asyncio.create_task(connector.to_leader(deadline=deadline))
        second = asyncio.create_task(connector.to_leader(deadline=deadline))
        await asyncio.sleep(0.005)
        first.cancel()
        with pytest.raises(errors.NotReady, match="nobody leads"):
            await second
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(play())

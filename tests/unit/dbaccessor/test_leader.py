"""The search for a leader: however many callers, one round of questions at a time."""

from __future__ import annotations

import asyncio

import pytest

from dbaccessor import errors, leader, timing
from dbaccessor.dial import AddressBook, Caller, Dialer
from dbaccessor.leader import MemberConnector, OutsideConnector
from dbaccessor.localnode import Probe


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


class OwnNode:
    """Stands in for the node of this process; `follows` is what it says."""

    def __init__(self, follows: str = "") -> None:
        self.follows = follows
        self.questions = 0

    async def probe(self, deadline_seconds: float) -> Probe:
        self.questions += 1
        await asyncio.sleep(0)
        return Probe(self.follows, ())


def member(own: OwnNode) -> MemberConnector:
    dialer = Dialer(Caller("uuid", None, "0", 1), AddressBook(current={"1": "127.0.0.1"}), timing.for_latency(10))
    return MemberConnector(dialer, lambda: own)  # type: ignore[arg-type,return-value]


def test_the_own_node_is_heard_while_the_others_are_silent(monkeypatch: pytest.MonkeyPatch):
    own = OwnNode()

    async def silence(*_: object) -> leader.Found:
        await asyncio.sleep(60)
        raise AssertionError("nobody waits for this")

    async def play() -> None:
        connector = member(own)
        reached: list[str] = []

        async def reach(name: str, *, deadline: float) -> str:
            reached.append(name)
            return f"a connection to {name}"

        connector.to_member = reach  # type: ignore[method-assign,assignment]
        loop = asyncio.get_running_loop()
        searches = [asyncio.create_task(connector.to_leader(deadline=loop.time() + 5)) for _ in range(50)]
        began = loop.time()
        await asyncio.sleep(0.1)
        # They share their questions: one every few milliseconds, however many wait.
        assert own.questions <= 100
        own.follows = "controller-1-1"
        async with asyncio.timeout(5):
            assert set(await asyncio.gather(*searches)) == {"a connection to controller-1-1"}  # type: ignore[comparison-overlap]
        assert loop.time() - began < 2
        connector._rounds._begin().cancel()

    monkeypatch.setattr(leader, "find_leader", silence)
    asyncio.run(play())


def test_a_leader_whose_machine_is_gone_is_not_waited_for_once_another_leads(questions: Questions):
    own = OwnNode("controller-1-1")

    async def play() -> None:
        connector = member(own)

        async def reach(name: str, *, deadline: float) -> str:
            if name == "controller-1-1":
                await asyncio.sleep(60)  # Nothing refuses, nothing answers.
            return f"a connection to {name}"

        connector.to_member = reach  # type: ignore[method-assign,assignment]
        search = asyncio.create_task(connector.to_leader(deadline=asyncio.get_running_loop().time() + 5))
        await asyncio.sleep(0.05)
        own.follows = "controller-2-2"
        async with asyncio.timeout(4):
            assert await search == "a connection to controller-2-2"  # type: ignore[comparison-overlap]

    asyncio.run(play())


def test_why_nobody_was_found_is_told_at_the_deadline(monkeypatch: pytest.MonkeyPatch):
    async def nobody(*_: object) -> leader.Found:
        return None, "nobody leads (controller 1 does not answer)"

    async def play() -> None:
        with pytest.raises(errors.NotReady, match="controller 1 does not answer"):
            await member(OwnNode()).to_leader(deadline=asyncio.get_running_loop().time() + 0.1)

    monkeypatch.setattr(leader, "find_leader", nobody)
    asyncio.run(play())

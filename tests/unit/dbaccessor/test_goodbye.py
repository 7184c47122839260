"""Handing leadership over: to whom."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dbaccessor import errors, goodbye
from dbaccessor.dqlite.connection import Member, Role

MEMBERS = (
    Member(1, "controller-0-1", Role.VOTER),
    Member(2, "controller-1-2", Role.VOTER),
    Member(3, "controller-2-3", Role.VOTER),
    Member(4, "controller-3-4", Role.VOTER),
    Member(5, "controller-4-5", Role.STANDBY),
)


def heirs(alive: frozenset[int], times: int) -> set[int]:
    """Whom the first member gave leadership to."""
    given: set[int] = set()

    class Connection:
        async def cluster(self) -> tuple[Member, ...]:
            return MEMBERS

        async def transfer(self, dqlite_id: int) -> None:
            given.add(dqlite_id)

        def close(self) -> None:
            pass

    async def connect(seconds: float) -> Connection:
        return Connection()

    for _ in range(times):
        asyncio.run(
            goodbye.hand_leadership_over(
                SimpleNamespace(dqlite_id=1), SimpleNamespace(connect=connect), SimpleNamespace(alive=alive)
            )
        )
    return given


def test_two_that_leave_together_do_not_hand_leadership_to_each_other_for_ever():
    # The other one that leaves is a voter and alive, as any; so nobody may be the choice every time.
    assert heirs(frozenset({1, 2, 3, 5}), 100) == {2, 3}


def test_with_no_other_voter_alive_leadership_is_kept():
    assert heirs(frozenset({1, 5}), 3) == set()


@pytest.mark.parametrize(
    ("leader", "role", "departed", "taken"),
    [
        ("controller-1-2", "voter", ("1",), True),
        ("controller-1-2", "voter", ("2", "3"), False),
        ("controller-1-2", "stand-by", ("1",), False),
        ("controller-1-2", "voter", ("0", "1"), False),
        ("controller-0-1", "voter", ("0",), False),
        ("", "voter", ("1",), False),
    ],
)
@pytest.mark.parametrize("refused", [False, True])
def test_a_voter_takes_leadership_over_from_a_leader_that_departed_and_from_no_other(
    leader: str, role: str, departed: tuple[str, ...], taken: bool, refused: bool
):
    told: list[object] = []

    class Connection:
        async def transfer(self, dqlite_id: int) -> None:
            told.append(dqlite_id)
            if refused:
                raise errors.NotLeader("it leads no longer")

        def close(self) -> None:
            told.append("closed")

    async def connect(name: str) -> Connection:
        told.append(name)
        return Connection()

    async def play() -> str:
        me = SimpleNamespace(dqlite_id=1, name="controller-0-1", controller_id="0")
        outlook = SimpleNamespace(leader=leader, own_role=role)
        return await goodbye.take_leadership_over(cast(Any, me), cast(Any, outlook), departed, cast(Any, connect))

    if taken and refused:
        with pytest.raises(errors.NotLeader):
            asyncio.run(play())
    else:
        assert asyncio.run(play()) == (leader if taken else "")
    assert told == ([leader, 1, "closed"] if taken else [])

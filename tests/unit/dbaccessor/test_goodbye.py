"""Handing leadership over: to whom."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from dbaccessor import goodbye
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

"""What the voters of a real cluster say of a leader, without the leader's own word."""

from __future__ import annotations

import asyncio

import pytest

from dbaccessor import errors
from dbaccessor.confirm import Confirmer
from dqlitenodes import Processes


def test_voters_vouch_for_the_leader_they_follow_and_for_no_other(three: Processes):
    async def play() -> None:
        await three.grow()
        await three.wait_for_roles(3, 0)
        loop = asyncio.get_running_loop()
        old = await three.wait_for_leader()
        confirmer = Confirmer(three)

        async def ask(seconds: float = 10) -> None:
            connection = await three.to_member(three.name(old), deadline=loop.time() + 5)
            try:
                members = await connection.cluster()
                await confirmer.confirm(connection, members, deadline=loop.time() + seconds)
            finally:
                connection.close()

        await ask()
        others = [index for index in range(3) if index != old]
        three.freeze(others[0])
        try:
            await ask()  # One of the two is enough.
        finally:
            three.thaw(others[0])
        await three.wait_for_roles(3, 0)

        async with three.connect(old) as connection:
            await connection.transfer(three.ids[others[1]])
        new = await three.wait_for_leader(other_than=old)
        assert new == others[1]
        async with three.connect(others[0]) as follower:
            # Whoever has voted goes on naming its old leader until it hears from the new one.
            while (named := await follower.leader()) is None or named[1] != three.name(new):
                await asyncio.sleep(0.005)
        with pytest.raises(errors.NotReady, match=f"not confirmed.*names {three.name(new)}"):
            await ask()
        confirmer.close()

    asyncio.run(play())

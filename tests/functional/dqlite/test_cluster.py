"""Several real nodes: the roles that Dqlite gives them, failover, handover, removal."""

from __future__ import annotations

import asyncio
import statistics
import time

import pytest

from dbaccessor import errors
from dbaccessor.dqlite import cluster, node
from dbaccessor.dqlite.connection import Role
from dqlitenodes import InProcess, Processes, until


@pytest.mark.parametrize(
    ("count", "voters", "standbys", "spares"), [(2, 2, 0, 0), (3, 3, 0, 0), (5, 3, 2, 0), (7, 3, 3, 1)]
)
def test_roles_fill_up_to_three_voters_and_three_standbys(
    nodes: InProcess, count: int, voters: int, standbys: int, spares: int
):
    async def play() -> None:
        await nodes.grow(count)
        await nodes.wait_for_roles(voters, standbys, spares)
        members = await nodes.members()
        everybody = {member.dqlite_id for member in members}
        assert cluster.off_target(members, everybody) is None
        assert cluster.may_lose(members, everybody) == (voters - 1) // 2

    asyncio.run(play())


def test_one_voter_of_two_can_be_had_and_the_other_may_be_lost(nodes: InProcess):
    """Two voters stop writing when either is lost. The aim can be changed while the nodes run."""

    async def play() -> None:
        await nodes.grow(2, voters=1)
        await nodes.wait_for_roles(1, 1)
        leader = await nodes.wait_for_leader()
        await asyncio.to_thread(nodes.stop, 1 - leader)
        async with nodes.connect(leader) as connection:
            await connection.open_database("data")
            await connection.execute("CREATE TABLE t(a)")
        await asyncio.to_thread(nodes.start, 1 - leader, voters=1)
        await asyncio.to_thread(nodes.start, 2, voters=1)
        await nodes.join(2)
        await nodes.wait_for_roles(1, 2)

        for index in range(3):
            nodes.nodes[index].aim_for(voters=3, standbys=3)

        await nodes.wait_for_roles(3, 0)

    asyncio.run(play())


def test_a_stopped_voter_becomes_a_spare_and_a_standby_takes_its_place(nodes: InProcess):
    async def play() -> None:
        await nodes.grow(5)
        await nodes.wait_for_roles(3, 2)
        leader = await nodes.wait_for_leader()
        voter = next(
            member
            for member in await nodes.members()
            if member.role is Role.VOTER and member.dqlite_id != nodes.ids[leader]
        )
        await asyncio.to_thread(nodes.stop, nodes.index_of(voter.name))

        await nodes.wait_for_roles(3, 1, 1)

        spare = next(member for member in await nodes.members() if member.role is Role.SPARE)
        assert spare.dqlite_id == voter.dqlite_id
        assert cluster.off_target(await nodes.members(), nodes.ids.values()) is not None
        answering = set(nodes.ids.values()) - {voter.dqlite_id}
        assert cluster.off_target(await nodes.members(), answering) is None

    asyncio.run(play())


def test_the_leader_removes_members_and_at_last_itself_stays(nodes: InProcess):
    async def play() -> None:
        await nodes.grow(3)
        await nodes.wait_for_roles(3, 0)
        leader = await nodes.wait_for_leader()
        for index in {0, 1, 2} - {leader}:
            await asyncio.to_thread(nodes.stop, index)
            async with nodes.connect(leader) as connection:
                with pytest.raises(errors.Refused):
                    await connection.remove(4711)  # Nobody has this id.

                async def removed(index: int = index) -> bool:
                    # Role management may have a change of its own in flight; then this is NotReady.
                    async with nodes.connect(leader) as connection:
                        if nodes.ids[index] in {m.dqlite_id for m in await connection.cluster()}:
                            await connection.remove(nodes.ids[index])
                        return True

                await until(removed, "removal")
        assert [m.dqlite_id for m in await nodes.members()] == [nodes.ids[leader]]
        async with nodes.connect(leader) as connection:
            await connection.open_database("data")
            await connection.execute("CREATE TABLE t(a)")

    asyncio.run(play())


def test_leadership_is_transferred_to_the_voter_that_was_named(nodes: InProcess):
    async def play() -> None:
        await nodes.grow(3)
        await nodes.wait_for_roles(3, 0)
        leader = await nodes.wait_for_leader()
        heir = (leader + 1) % 3
        async with nodes.connect(leader) as connection:
            await connection.transfer(nodes.ids[heir])

        assert await nodes.wait_for_leader(other_than=leader) == heir

        async with nodes.connect(leader) as connection:
            with pytest.raises(errors.NotLeader):
                await connection.transfer(nodes.ids[leader])
            # A plain answer: the same connection goes on.
            assert await connection.leader() == (nodes.ids[heir], nodes.name(heir))

    asyncio.run(play())


def test_writes_go_on_after_the_leader_was_killed_and_nothing_acknowledged_is_lost(three: Processes):
    async def play() -> None:
        await three.grow()
        await three.wait_for_roles(3, 0)
        leader = await three.wait_for_leader()
        async with three.connect(leader) as connection:
            await connection.open_database("data")
            await connection.execute("CREATE TABLE t(a INTEGER PRIMARY KEY)")
            for number in range(50):
                await connection.execute("INSERT INTO t VALUES(?)", (number,))

        three.kill(leader)
        killed = time.monotonic()
        heir = await three.wait_for_leader(other_than=leader)
        async with three.connect(heir) as connection:
            await connection.open_database("data")
            await connection.execute("INSERT INTO t VALUES(1000)")
            gap = time.monotonic() - killed
            rows = (await connection.query("SELECT a FROM t ORDER BY a")).rows

        assert rows == (*((number,) for number in range(50)), (1000,))
        # Elections take 0.15 to 0.3 s at this latency. Dqlite's own default would need 3 to 6.
        assert gap < 2.5
        three.start(leader)
        await three.wait_for_roles(3, 0)

    asyncio.run(play())


def test_a_leader_that_hands_over_first_leaves_a_leader_behind(three: Processes):
    async def play() -> None:
        await three.grow()
        await three.wait_for_roles(3, 0)
        leader = await three.wait_for_leader()

        # With nobody to promote in its place, the voting right stays: that part says False.
        assert three.command(leader, "handover") == "False"
        heir = await three.wait_for_leader(other_than=leader)
        assert three.command(leader, "stop") == "stopped"
        three.kill(leader)

        assert await three.leader() == heir

    asyncio.run(play())


def test_a_frozen_leader_makes_requests_end_at_their_deadline(three: Processes):
    async def play() -> None:
        await three.grow()
        await three.wait_for_roles(3, 0)
        leader = await three.wait_for_leader()
        async with three.connect(leader) as connection:
            await connection.open_database("data")
            await connection.execute("CREATE TABLE t(a)")
            three.freeze(leader)
            try:
                started = time.monotonic()
                with pytest.raises(errors.Indefinite, match="no answer within"):
                    await connection.execute("INSERT INTO t VALUES(1)", deadline_seconds=0.3)
                assert time.monotonic() - started < 2
                assert not connection.usable
                with pytest.raises(errors.NotReady, match="closed"):
                    await connection.leader()
                await three.wait_for_leader(other_than=leader)
            finally:
                three.thaw(leader)

    asyncio.run(play())


def test_a_lost_quorum_is_indefinite_for_what_was_on_its_way(nodes: InProcess):
    async def play() -> None:
        await nodes.grow(2)
        await nodes.wait_for_roles(2, 0)
        leader = await nodes.wait_for_leader()
        async with nodes.connect(leader) as connection:
            await connection.open_database("data")
            await connection.execute("CREATE TABLE t(a)")
            await asyncio.to_thread(nodes.stop, 1 - leader)
            with pytest.raises(errors.Indefinite) as caught:
                await connection.execute("INSERT INTO t VALUES(1)")
            assert caught.value.code == errors.LEADERSHIP_LOST
            assert not connection.usable
        async with nodes.connect(leader) as connection:
            assert await connection.leader() is None
            with pytest.raises(errors.NotLeader):
                await connection.open_database("data")
                await connection.query("SELECT 1")  # Older libraries open it, and say so only now.
            with pytest.raises(errors.NotLeader):
                await connection.add(node.new_id(), "controller-9-9")

    asyncio.run(play())


@pytest.mark.slow
def test_one_frozen_follower_does_not_slow_the_writes_of_the_others(three: Processes):
    """With libuv's usual pool of four threads, role management's probes of a frozen peer stall each write for seconds.

    That takes about fifteen seconds to build up, hence the long look.
    """

    async def play() -> None:
        await three.grow()
        await three.wait_for_roles(3, 0)
        leader = await three.wait_for_leader()
        frozen = (leader + 1) % 3
        async with three.connect(leader) as connection:
            await connection.open_database("data")
            await connection.execute("CREATE TABLE t(a)")
            three.freeze(frozen)
            try:
                started = time.monotonic()
                late: list[float] = []
                while (passed := time.monotonic() - started) < 22:
                    before = time.monotonic()
                    await connection.execute("INSERT INTO t VALUES(1)")
                    if passed > 16:
                        late.append(time.monotonic() - before)
                    await asyncio.sleep(0.05)
            finally:
                three.thaw(frozen)
        assert statistics.median(late) < 0.25

    asyncio.run(play())

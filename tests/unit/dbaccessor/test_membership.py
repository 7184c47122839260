"""The leader's side of membership, with a list for a cluster: one change at a time, none that costs the quorum."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec
import pytest

from dbaccessor import errors, membership, registry, timing
from dbaccessor.conf import ControllerConf
from dbaccessor.dqlite import cluster
from dbaccessor.dqlite.connection import Member, Role
from dbaccessor.identity import controller_of
from dbaccessor.membership import Leading, Membership, removal_problem
from dbaccessor.preamble import MembershipRequest

# A cluster with a silent member is never at its target, and is waited for so long.
TIMING = dataclasses.replace(timing.for_latency(10), settle_seconds=0.5)
CONF = ControllerConf(
    controller_id="0",
    generation=5,
    cluster_uuid="u",
    db_bind_addresses={str(n): f"10.0.0.{10 + n}" for n in range(6)},
)


def named(n: int, role: Role = Role.VOTER) -> Member:
    return Member(100 + n, f"controller-{n}-{100 + n}", role)


def request(operation: str, n: int, dqlite_id: int | None = None) -> MembershipRequest:
    dqlite_id = 100 + n if dqlite_id is None else dqlite_id
    return MembershipRequest(
        operation=cast(Any, operation),
        controller_id=str(n),
        dqlite_id=dqlite_id,
        name=f"controller-{n}-{dqlite_id}",
        generation=4,
    )


class Leader:
    """Controller 0 leads these members. What it is told stands in `told`, and so does when the roles are settled."""

    def __init__(self, members: list[Member], alive: set[int] | None = None) -> None:
        self.members = members
        self.alive = {m.dqlite_id for m in members} if alive is None else {100 + n for n in alive}
        self.died: set[int] = set()  # Since they were asked last.
        self.told: list[str] = []
        self.conf = CONF
        self.leads = True
        self.refusal: errors.DbAccessorError | None = None
        self.generations: dict[int, int] = {}
        self.connected = 0

    def leading(self) -> Leading | None:
        if not self.leads:
            return None
        alive, generations = frozenset(self.alive), dict(self.generations)
        return Leading(100, cast(Any, self), self.conf, tuple(self.members), alive, self.ask_anew, generations)

    async def ask_anew(self) -> None:
        self.alive -= self.died

    async def connect(self, _: float) -> Leader:
        self.connected += 1
        return self

    async def cluster(self) -> tuple[Member, ...]:
        await asyncio.sleep(0)  # The others go on meanwhile, as they do on a network.
        return tuple(self.members)

    async def add(self, dqlite_id: int, name: str) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.told.append(f"add {name}")
        self.members.append(Member(dqlite_id, name, Role.SPARE))
        self.alive.add(dqlite_id)
        asyncio.get_running_loop().call_later(0.15, self._settle, dqlite_id)

    def _settle(self, dqlite_id: int) -> None:
        want = cluster.targets(len(self.members))
        roles = [Role.VOTER] * want.voters + [Role.STANDBY] * want.standbys + [Role.SPARE] * want.spares
        self.members = [Member(m.dqlite_id, m.name, role) for m, role in zip(self.members, roles, strict=True)]
        self.told.append(f"settled {dqlite_id}")

    async def remove(self, dqlite_id: int) -> None:
        self.told.append(f"remove {dqlite_id}")
        self.members = [m for m in self.members if m.dqlite_id != dqlite_id]

    async def transfer(self, dqlite_id: int) -> None:
        self.told.append(f"transfer {dqlite_id}")

    async def assign(self, dqlite_id: int, role: Role) -> None:
        self.told.append(f"assign {dqlite_id} {role}")

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def rows(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The rows of those that join: written before the node is added."""
    there: set[str] = set()

    async def record(_: object, request: MembershipRequest, generation: int) -> None:
        assert generation == 5
        there.add(request.name)

    async def delete(_: object, name: str) -> None:
        there.discard(name)

    async def read(_: object) -> tuple[tuple[registry.NodeRow, ...], tuple[()]]:
        return tuple(registry.NodeRow(controller_of(name), name, "", 5) for name in sorted(there)), ()

    monkeypatch.setattr(registry, "record_joining", record)
    monkeypatch.setattr(registry, "rows", read)
    monkeypatch.setattr(registry, "delete", delete)
    return there


def play(leader: Leader, work: Callable[[Membership], Awaitable[Any]]) -> Any:
    async def inside() -> Any:
        made = Membership(cast(Any, None), TIMING, leader.leading)
        async with asyncio.timeout(20):
            return await work(made)

    return asyncio.run(inside())


def test_of_several_that_join_at_once_each_is_added_when_the_roles_of_the_one_before_have_settled():
    leader = Leader([named(0)])

    async def work(made: Membership) -> list[Any]:
        return await asyncio.gather(*(made.handle(request("join", n)) for n in (1, 2, 3)))

    outcomes = play(leader, work)

    assert [o.done for o in outcomes] == [True] * 3
    # The last one's are settled after it was answered.
    adds = [n for n, what in enumerate(leader.told) if what.startswith("add")]
    assert len(adds) == 3
    for first, second in itertools.pairwise(adds):
        assert [w.split()[0] for w in leader.told[first:second]] == ["add", "settled"]


def test_whoever_is_a_member_already_is_told_so_and_added_once():
    leader = Leader([named(0)])

    async def work(made: Membership) -> list[Any]:
        return [await made.handle(request("join", 1)) for _ in range(2)]

    assert [o.done for o in play(leader, work)] == [True, True]
    assert [what for what in leader.told if what.startswith("add")] == ["add controller-1-101"]


def test_a_controller_has_one_node_and_its_earlier_one_goes_first(rows: set[str]):
    leader = Leader([named(0), named(1), named(2)], alive={0, 1})

    assert play(leader, lambda made: made.handle(request("join", 2, 999))).done

    assert leader.told == ["remove 102", "add controller-2-999"]
    assert rows == {"controller-2-999"}


@pytest.mark.parametrize(
    ("refusal", "left"),
    [
        (errors.Refused("no"), set()),
        (errors.NotLeader("gone"), set()),
        (errors.NotReady("busy"), set()),
        (errors.Indefinite("no answer"), {"controller-1-101"}),
    ],
)
def test_a_join_that_surely_failed_leaves_no_row_and_one_in_doubt_keeps_it(
    rows: set[str], refusal: errors.DbAccessorError, left: set[str]
):
    leader = Leader([named(0)])
    leader.refusal = refusal

    outcome = play(leader, lambda made: made.handle(request("join", 1)))

    assert not outcome.done
    assert str(refusal) in outcome.reason
    assert rows == left


def test_who_departed_or_is_not_named_is_not_let_in_and_who_does_not_lead_lets_nobody_in():
    leader = Leader([named(0)])
    leader.conf = msgspec.structs.replace(CONF, departed=("1",), db_bind_addresses={"0": "10.0.0.10"})
    for n, reason in ((1, "controller 1 departed"), (2, "has no address of controller 2 yet")):
        outcome = play(leader, lambda made, n=n: made.handle(request("join", n)))
        assert not outcome.done
        assert reason in outcome.reason
    leader.leads = False
    assert "does not lead" in play(leader, lambda made: made.handle(request("leave", 1))).reason
    assert leader.told == []


def test_over_all_small_clusters_no_removal_is_let_through_that_loses_the_quorum():
    roles = (Role.VOTER, Role.STANDBY, Role.SPARE)
    for size in (1, 2, 3, 4):
        for given in itertools.product(roles, repeat=size):
            members = [named(n, role) for n, role in enumerate(given)]
            for alive in itertools.product((True, False), repeat=size):
                answering = {m.dqlite_id for m, a in zip(members, alive, strict=True) if a}
                for leaving in members:
                    left = [m for m in members if m is not leaving]
                    lost = removal_problem(members, leaving, frozenset(answering)) is not None
                    assert lost is not cluster.has_quorum(left, answering), (members, answering, leaving)


def test_a_goodbye_that_would_cost_the_quorum_is_refused_and_one_that_does_not_is_not():
    leader = Leader([named(0), named(1), named(2)], alive={0, 1})

    refused = play(leader, lambda made: made.handle(request("leave", 1)))
    assert not refused.done
    assert refused.reason == "of the 2 voters that would be left 1 answer, and 2 are needed"
    assert play(leader, lambda made: made.handle(request("leave", 2))).done
    assert play(leader, lambda made: made.handle(request("leave", 1))).done
    assert play(leader, lambda made: made.handle(request("leave", 1))).reason == "is no member"
    assert not play(leader, lambda made: made.handle(request("leave", 0))).done, "not the leader itself"
    assert leader.told == ["remove 102", "remove 101"]


@pytest.mark.parametrize("departed", [False, True])
def test_one_of_the_others_that_has_just_died_keeps_a_voter_from_being_removed(departed: bool):
    """Two voters would be left, one of them dead: nobody could write any more, nor undo it."""
    leader = Leader([named(0), named(1), named(2)])
    leader.died = {102}
    if departed:
        leader.conf = msgspec.structs.replace(CONF, departed=("1",))
        play(leader, lambda made: made.look())
    else:
        outcome = play(leader, lambda made: made.handle(request("leave", 1)))
        assert outcome.reason == "of the 2 voters that would be left 1 answer, and 2 are needed"

    assert leader.told == []


class Meanwhile(Leader):
    """Something happens while it is waited for the roles."""

    happens: Callable[[], None]

    async def cluster(self) -> tuple[Member, ...]:
        members = await super().cluster()
        self.happens()
        return members


@pytest.mark.parametrize("seen", [True, False])
def test_a_goodbye_is_judged_by_who_is_alive_when_the_roles_have_settled(seen: bool):
    """The one that leaves has just been restarted. Seen again by then or not, the other voter dies at that moment."""
    leader = Meanwhile([named(0), named(1), named(2)], alive={0, 2})

    def happens() -> None:
        leader.died = {102}
        if seen:
            leader.alive.add(101)

    leader.happens = happens

    outcome = play(leader, lambda made: made.handle(request("leave", 1)))

    assert outcome.reason == "of the 2 voters that would be left 1 answer, and 2 are needed"
    assert leader.told == []


@pytest.mark.parametrize("operation", ["join", "leave"])
def test_a_leader_that_is_deposed_while_the_roles_settle_changes_nothing(operation: str):
    leader = Meanwhile([named(0), named(1), named(2)])
    leader.happens = lambda: setattr(leader, "leads", False)

    outcome = play(leader, lambda made: made.handle(request(operation, 4 if operation == "join" else 1)))

    assert outcome.reason == "this node does not lead now"
    assert leader.told == []


def test_whoever_departs_while_the_roles_settle_is_not_let_in_any_more():
    leader = Meanwhile([named(0), named(1), named(2)])
    leader.happens = lambda: setattr(leader, "conf", msgspec.structs.replace(CONF, departed=("4",), generation=6))

    outcome = play(leader, lambda made: made.handle(request("join", 4)))

    assert outcome.reason == "controller 4 departed (generation 6)"
    assert leader.told == []


def test_the_departed_go_one_a_round_the_silent_first_and_nobody_else():
    leader = Leader([named(n, Role.VOTER if n < 3 else Role.STANDBY) for n in range(5)], alive={0, 1, 3, 4})
    leader.conf = msgspec.structs.replace(CONF, departed=("0", "1", "2", "4"))

    async def work(made: Membership) -> None:
        await made.look()
        assert leader.told == ["remove 102"], "with it there, one of the living would cost the quorum"
        for _ in range(5):
            await made.look()
        assert leader.told == ["remove 102"], "the roles of those that are left have not settled"
        # They never do, and it is not waited for them for ever.
        while len(leader.told) < 3:
            before = len(leader.told)
            await made.look()
            assert len(leader.told) <= before + 1
            await asyncio.sleep(0.05)

    play(leader, work)

    assert sorted(leader.told) == ["remove 101", "remove 102", "remove 104"]


class Mending(Leader):
    """Its Dqlite gives whoever was removed a successor, after a while. Notes how many living voters were left."""

    def __init__(self, members: list[Member]) -> None:
        super().__init__(members)
        self.left: list[int] = []

    async def remove(self, dqlite_id: int) -> None:
        await super().remove(dqlite_id)
        self.left.append(sum(m.role is Role.VOTER for m in self.members))
        asyncio.get_running_loop().call_later(0.15, self._settle, dqlite_id)


def test_of_several_departed_that_live_each_goes_when_the_one_before_has_its_successor():
    """One voter alone would be left in between, and whatever is written then, on its disk alone."""
    leader = Mending([named(n, Role.VOTER if n < 3 else Role.STANDBY) for n in range(5)])
    leader.conf = msgspec.structs.replace(CONF, departed=("1", "2"))

    async def work(made: Membership) -> None:
        while len(leader.left) < 2:
            await made.look()
            await asyncio.sleep(0.01)

    play(leader, work)

    assert [what for what in leader.told if what.startswith("remove")] == ["remove 101", "remove 102"]
    assert leader.left == [2, 2]


def test_roles_that_stay_off_target_cost_a_change_of_leader_at_most_once_a_minute(monkeypatch: pytest.MonkeyPatch):
    clock = 1000.0
    # Two voters where there should be three.
    leader = Leader([named(0), named(1), named(2, Role.SPARE)])

    async def work(made: Membership) -> None:
        nonlocal clock
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: clock)
        for _ in range(2 * 90):
            await made.look()
            clock += 0.5

    asyncio.run(work(Membership(cast(Any, None), TIMING, leader.leading)))

    assert leader.told == ["transfer 101", "transfer 101"]
    assert membership._STUCK_SECONDS < 10


class Wedged(Leader):
    """Its queue of role changes is stuck, and changes of membership are refused until `assign` helps, if it does."""

    def __init__(self, members: list[Member], *, mends: bool) -> None:
        super().__init__(members)
        self.stuck, self._mends = True, mends

    async def add(self, dqlite_id: int, name: str) -> None:
        self.told.append(f"tried {dqlite_id}")
        if self.stuck:
            raise errors.NotReady("a configuration change is already in progress")
        await super().add(dqlite_id, name)

    async def assign(self, dqlite_id: int, role: Role) -> None:
        await super().assign(dqlite_id, role)
        if self._mends:
            self.stuck = False
            self._settle(dqlite_id)


@pytest.mark.parametrize("mends", [True, False])
def test_a_stuck_queue_is_seen_and_mended_although_one_joiner_after_another_waits_for_the_roles(
    mends: bool, monkeypatch: pytest.MonkeyPatch
):
    """Two that ask in turns. Nobody else watches: with the lock always taken or waited for, `look` has no turn."""
    monkeypatch.setattr(membership, "_STUCK_SECONDS", 0.8)
    monkeypatch.setattr(membership, "_CHANGE_SECONDS", 0.3)
    leader = Wedged([named(0), named(2, Role.SPARE), named(3, Role.SPARE)], mends=mends)
    in_haste = dataclasses.replace(TIMING, join_seconds=0.75, settle_seconds=0.5)
    made = Membership(cast(Any, None), in_haste, leader.leading)

    async def ask(n: int) -> None:
        # The first one is ahead by half of what a join may take, so the lock goes back and forth.
        await asyncio.sleep(0.4 * n)
        while not (await made.handle(request("join", n))).done:
            pass

    async def work() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(10 if mends else 3):
                await asyncio.gather(ask(1), ask(4))

    asyncio.run(work())

    assert {"tried 101", "tried 104"} <= set(leader.told), "whoever waited for a turn has used it"
    assert [told for told in leader.told if told.startswith("assign")] == ["assign 102 voter"]
    assert ("add controller-1-101" in leader.told, "add controller-4-104" in leader.told) == (mends, mends)


def turned_away(leader: Leader, monkeypatch: pytest.MonkeyPatch, seconds: float, generation: int = 9) -> list[float]:
    """Controller 7 asks to join once a second, by a file of this generation. Return when leadership was given away."""
    began = clock = 1000.0
    moments: list[float] = []
    asks = msgspec.structs.replace(request("join", 7), generation=generation)

    async def work(made: Membership) -> None:
        nonlocal clock
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: clock)
        while clock < began + seconds:
            assert "has no address of controller 7 yet" in made._unwelcome(leader.conf, asks)
            for _ in range(2):
                told = len(leader.told)
                await made.look()
                moments.extend([clock - began] * (len(leader.told) - told))
                clock += 0.5

    asyncio.run(work(Membership(cast(Any, None), TIMING, leader.leading)))
    return moments


def test_a_leader_that_knows_too_little_for_long_lets_the_best_informed_lead(monkeypatch: pytest.MonkeyPatch):
    leader = Leader([named(n, Role.VOTER if n < 4 else Role.STANDBY) for n in range(5)], alive={0, 1, 2, 4})
    # The dead voter and the stand-by have the newest file of all, which helps nobody.
    leader.generations = {101: 8, 102: 9, 103: 10, 104: 10}

    (moment,) = turned_away(leader, monkeypatch, 7)

    assert moment == pytest.approx(5, abs=1)
    assert leader.told == ["transfer 102"]


def test_whoever_does_not_say_what_it_has_is_made_the_leader_once_in_a_while(monkeypatch: pytest.MonkeyPatch):
    leader = Leader([named(0), named(1), named(2)])

    moments = turned_away(leader, monkeypatch, 140)

    assert len(moments) == 3
    assert all(b - a >= 60 for a, b in itertools.pairwise(moments))
    assert set(leader.told) <= {"transfer 101", "transfer 102"}


@pytest.mark.parametrize(
    ("others", "joiner"),
    [
        ({101: 5, 102: 5}, 9),  # Nobody knows more: the file comes to all of them, or to none.
        ({101: 9, 102: 9}, 5),  # It is the joiner that knows too little.
    ],
)
def test_leadership_stays_where_it_is_if_that_would_help_nobody(
    monkeypatch: pytest.MonkeyPatch, others: dict[int, int], joiner: int
):
    leader = Leader([named(0), named(1), named(2)])
    leader.generations = others

    assert turned_away(leader, monkeypatch, 80, joiner) == []


def test_a_file_that_comes_in_time_or_a_joiner_that_gives_up_ends_the_matter(monkeypatch: pytest.MonkeyPatch):
    leader = Leader([named(0), named(1), named(2)])
    leader.generations = {101: 9, 102: 9}
    made = Membership(cast(Any, None), TIMING, leader.leading)
    asks = msgspec.structs.replace(request("join", 7), generation=9)
    clock = 1000.0

    async def work() -> None:
        nonlocal clock
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: clock)
        made._unwelcome(leader.conf, asks)
        leader.conf = msgspec.structs.replace(leader.conf, generation=9)
        clock += 10
        await made.look()
        made._unwelcome(msgspec.structs.replace(leader.conf, generation=8), asks)
        leader.conf = msgspec.structs.replace(leader.conf, generation=8)
        clock += 30
        await made.look()

    asyncio.run(work())

    assert leader.told == []


def test_a_leader_looks_closer_only_where_something_is_to_be_done():
    leader = Leader([named(0), named(1), named(2)])

    async def work(made: Membership) -> None:
        await made.look()
        assert leader.connected == 0, "all in order by the node's last word"

        leader.conf = msgspec.structs.replace(CONF, departed=("2",))
        await made.look()
        assert (leader.connected, leader.told) == (1, ["remove 102"])

        await made.look()
        assert leader.connected == 2, "whoever removes one looks at the rows afterwards"
        await made.look()
        assert leader.connected == 2, "two voters are what two members should have"

        leader.conf = CONF
        leader.alive -= {101}
        leader.members.append(named(3, Role.SPARE))
        leader.alive.add(103)
        await made.look()
        assert leader.connected == 2, "no quorum, so nothing can be mended"
        leader.alive.add(101)
        await made.look()
        assert leader.connected == 3, "a third one should be a voter"

        leader.members[-1] = named(3)
        await made.look()
        assert leader.connected == 3
        made._unwelcome(leader.conf, msgspec.structs.replace(request("join", 7), generation=9))
        await made.look()
        assert leader.connected == 4, "one was kept out that a newer configuration names"

    play(leader, work)


def failing(monkeypatch: pytest.MonkeyPatch, name: str, times: int) -> list[errors.NotReady]:
    """Let a function of the registry fail so often before it works."""
    works = getattr(registry, name)
    refusals = [errors.NotReady("no leader") for _ in range(times)]

    async def fails(*arguments: Any) -> Any:
        if refusals:
            raise refusals.pop()
        return await works(*arguments)

    monkeypatch.setattr(registry, name, fails)
    return refusals


def test_a_row_that_was_not_deleted_with_its_member_goes_when_that_asks_again(
    rows: set[str], monkeypatch: pytest.MonkeyPatch
):
    leader = Leader([named(0), named(1), named(2)])
    rows |= {m.name for m in leader.members}
    failing(monkeypatch, "delete", 1)

    async def work(made: Membership) -> None:
        assert (await made.handle(request("leave", 2))).done
        assert "controller-2-102" in rows
        assert (await made.handle(request("leave", 2))).reason == "is no member"

    play(leader, work)

    assert rows == {"controller-0-100", "controller-1-101"}


def test_one_that_is_no_member_cannot_have_the_row_of_a_member_deleted(rows: set[str]):
    leader = Leader([named(0), named(1)])
    rows |= {m.name for m in leader.members}
    asks = msgspec.structs.replace(request("leave", 2), name="controller-1-101")

    assert play(leader, lambda made: made.handle(asks)).done

    assert rows == {"controller-0-100", "controller-1-101"}


@pytest.mark.parametrize("removed_by", ["this leader", "another one"])
def test_rows_that_departed_members_left_behind_are_deleted_and_no_other(
    rows: set[str], monkeypatch: pytest.MonkeyPatch, removed_by: str
):
    leader = Leader([named(0), named(1), named(2), named(3)], alive={0, 1, 3})
    # Controller 4 is no member either, and has not departed: it may be joining.
    rows |= {m.name for m in leader.members} | {"controller-4-104"}
    leader.conf = msgspec.structs.replace(CONF, departed=("2",))
    if removed_by == "this leader":
        failing(monkeypatch, "delete", 1)
    else:
        leader.members.pop(2)

    async def work(made: Membership) -> None:
        for _ in range(2):
            await made.look()

    play(leader, work)

    assert rows == {"controller-0-100", "controller-1-101", "controller-3-103", "controller-4-104"}


def test_the_row_of_a_departed_member_stays_as_long_as_it_is_one(rows: set[str]):
    """Two voters would be left of which one answers, so it cannot be removed."""
    leader = Leader([named(0), named(1), named(2)], alive={0, 2})
    rows |= {m.name for m in leader.members}
    leader.conf = msgspec.structs.replace(CONF, departed=("2",))

    async def work(made: Membership) -> None:
        for _ in range(3):
            await made.look()

    play(leader, work)

    assert leader.told == []
    assert rows == {m.name for m in leader.members}


def test_rows_are_read_once_for_each_leadership_generation_and_change_and_again_while_that_fails(
    monkeypatch: pytest.MonkeyPatch,
):
    leader = Leader([named(0), named(1)])
    leader.conf = msgspec.structs.replace(CONF, departed=("2",))
    read = 0
    works = registry.rows

    async def counted(database: Any) -> Any:
        nonlocal read
        read += 1
        return await works(database)

    async def work(made: Membership) -> list[int]:
        async def looks() -> int:
            before = read
            for _ in range(5):
                await made.look()
            return read - before

        counts = [await looks()]
        leader.conf = msgspec.structs.replace(leader.conf, generation=6)
        counts.append(await looks())
        leader.leads = False
        counts.append(await looks())
        leader.leads = True
        refusals[:] = [errors.NotReady("no leader")] * 2
        counts.append(await looks())
        monkeypatch.setattr(membership, "_ROWS_PAUSE_SECONDS", 0.0)
        counts.append(await looks())
        return counts

    refusals = failing(monkeypatch, "rows", 0)
    works = registry.rows
    monkeypatch.setattr(registry, "rows", counted)

    # Of the failing ones: at first there is a pause, and without it one more fails before one succeeds.
    assert play(leader, work) == [1, 1, 0, 1, 2]

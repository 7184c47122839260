"""A leader that was paused and deposed answers from old data. Nobody who reads here ever gets it (C14)."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from dbaccessor import errors
from dbaccessor.confirm import Confirmer
from dbaccessor.database import Consistency, Database, Transaction
from dbaccessor.dqlite import wire
from dbaccessor.dqlite.connection import Connection, Question
from dbaccessor.identity import controller_of
from dbaccessor.leader import OutsideConnector
from dbaccessor.terms import Word
from dbaccessor.witness import Round
from loopback import Cluster

TRIALS = 4


@pytest.fixture
def cluster(tmp_path: Path):
    with Cluster(tmp_path, 81) as made:
        yield made


def database(cluster: Cluster, *numbers: int) -> Database:
    return Database(cluster.connector(*numbers), "t")


class Followed:
    """A connector that remembers whom it took for the leader, and its connections there.

    A thawed leader hears first what was the first to arrive. `call_ahead` sends a question that nobody waits for, so
    that it reads what is put behind that, however late, before it hears from the others that it leads no longer.
    """

    def __init__(self, inner: OutsideConnector) -> None:
        self._inner = inner
        self.leaders: list[int] = []
        self._connections: list[Connection] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def to_leader(self, *, deadline: float) -> Connection:
        connection = await self._inner.to_leader(deadline=deadline)
        self.leaders.append(int(controller_of(connection.name)))
        self._connections.append(connection)
        decoder = connection._channel._inbox.decoder
        following = decoder.next
        decoder.next = lambda: following() if isinstance(said := following(), wire.Server) else said  # type: ignore[method-assign]
        return connection

    def call_ahead(self) -> None:
        for connection in self._connections:
            if connection.usable:
                connection._channel._writer.write(wire.encode(wire.Request(wire.RequestType.LEADER, (0,))))

    def waits(self) -> bool:
        """Whether an answer is awaited from a leader."""
        return any(connection.waiting for connection in self._connections)


async def set_value(where: Database, value: int) -> None:
    async def write(tx: Transaction) -> None:
        await tx.execute("CREATE TABLE IF NOT EXISTS t (k INTEGER NOT NULL PRIMARY KEY, v INTEGER NOT NULL)")
        await tx.execute("INSERT INTO t (k, v) VALUES (1, ?) ON CONFLICT (k) DO UPDATE SET v = excluded.v", (value,))

    await where.run(write, deadline_seconds=20)


async def eventually(fact: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not await asyncio.to_thread(fact):
            await asyncio.sleep(0.02)


async def read_past_a_thawing_leader(
    cluster: Cluster,
    count: int,
    ask: Callable[[Database], Awaitable[int]],
    *,
    late: bool,
    enough: Callable[[list[tuple[int, int]]], bool],
) -> list[tuple[int, int]]:
    """Freeze the leader with a question waiting before it, let another be elected and write, thaw the first.

    Return (what was answered, what the other had written) for each trial in which the question waited before the
    frozen one. `late`: it is put only after the write was acknowledged.
    """
    numbers = range(count)
    found: list[tuple[int, int]] = []
    trial = 0
    while not enough(found):
        trial += 1
        assert trial < 12 * TRIALS, found
        # The asker has met the leader before: its connections to it and to the voters are open.
        connector = Followed(cluster.connector(*numbers))
        asker = Database(connector, "t")
        await set_value(asker, 10 * trial)
        for _ in range(3):
            await ask(asker)  # By the third, a read knows whom to ask beside it, and a term.
        await eventually(lambda: cluster.leader(0) is not None)
        old = await asyncio.to_thread(cluster.leader, 0)
        assert old is not None
        cluster.freeze(old)
        try:
            if late:
                connector.call_ahead()
            else:
                answer = asyncio.create_task(ask(asker))
            writer = database(cluster, *(n for n in numbers if n != old))
            await set_value(writer, 10 * trial + 1)
            writer.close()
            if late:
                answer = asyncio.create_task(ask(asker))
                while not (answer.done() or connector.waits()):
                    await asyncio.sleep(0.001)
            # Whoever has found the new leader may have asked it before the write: then the old value is the truth.
            waited = not answer.done() and set(connector.leaders) == {old}
        finally:
            cluster.signal(old, signal.SIGCONT)
        got = await answer
        if waited:
            found.append((got, 10 * trial + 1))
        asker.close()
        await asyncio.to_thread(cluster.settled, count)
    return found


def reading(consistency: Consistency) -> Callable[[Database], Awaitable[int]]:
    async def ask(where: Database) -> int:
        found = await where.read("SELECT v FROM t", consistency=consistency, deadline_seconds=20)
        return int(str(found.rows[0][0]))

    return ask


async def reading_in_a_transaction(where: Database) -> int:
    async def look(tx: Transaction) -> int:
        await tx.query("SELECT count(*) FROM t")
        return int(str((await tx.query("SELECT v FROM t")).rows[0][0]))

    return await where.run(look, read_only=True, deadline_seconds=20)


async def writing_nothing(where: Database) -> int:
    """A write that finds nothing to do and tells why: how a lease is denied."""

    async def claim(tx: Transaction) -> int:
        await tx.execute("UPDATE t SET v = -1 WHERE v < -1")
        await tx.execute("INSERT INTO t (k, v) VALUES (1, -1) ON CONFLICT (k) DO NOTHING")
        return int(str((await tx.query("SELECT v FROM t")).rows[0][0]))

    return await where.run(claim, deadline_seconds=20)


async def updating_to_the_same(where: Database) -> int:
    """SQLite counts a row that gets the values it has, and writes no page: raft is never asked."""
    seen = 0

    async def update(tx: Transaction) -> int:
        nonlocal seen
        seen = int(str((await tx.query("SELECT v FROM t")).rows[0][0]))
        result = await tx.execute("UPDATE t SET v = ?", (seen,))
        assert result.rows_affected == 1
        return seen

    return await where.run(update, deadline_seconds=20)


@pytest.mark.parametrize(
    ("count", "late", "ask"),
    [
        (3, True, reading("linearizable")),
        # What these read is confirmed afterwards, so it is not even as old as the moment at which they began.
        (3, False, writing_nothing),
        (3, False, updating_to_the_same),
        (5, False, reading_in_a_transaction),
    ],
)
def test_no_answer_is_older_than_what_was_committed_before_it(
    cluster: Cluster, count: int, late: bool, ask: Callable[[Database], Awaitable[int]]
):
    cluster.form(count)

    # Put late, a question is answered by the old leader in every third trial only.
    trials = 2 * TRIALS if late else TRIALS
    found = asyncio.run(
        read_past_a_thawing_leader(cluster, count, ask, late=late, enough=lambda found: len(found) == trials)
    )

    assert [answer for answer, _ in found] == [truth for _, truth in found]


@pytest.mark.parametrize("late", [False, True])
def test_without_the_confirmation_the_same_trials_end_in_old_values(cluster: Cluster, late: bool):
    """The mode that says so in its name; and the proof that the test above would notice."""
    cluster.form(3)

    def one_is_old(found: list[tuple[int, int]]) -> bool:
        return any(answer < truth for answer, truth in found)

    asyncio.run(read_past_a_thawing_leader(cluster, 3, reading("leader"), late=late, enough=one_is_old))


class Held(Followed):
    """Has a read's voters asked at once, and lets it be sent to the leader only when told."""

    def __init__(self, inner: OutsideConnector) -> None:
        super().__init__(inner)
        self.go = asyncio.Event()

    async def to_leader(self, *, deadline: float) -> Connection:
        connection = await super().to_leader(deadline=deadline)
        answer = connection.answer_as_leader

        async def held(question: Question, sent: Callable[[], None], **named: Any) -> Any:
            sent()
            await self.go.wait()
            return await answer(question, sent, **named)

        connection.answer_as_leader = held  # type: ignore[method-assign]
        return connection


class Asking(Confirmer):
    """A confirmer that remembers whom it asked beside each read."""

    def __init__(self, members: Any) -> None:
        super().__init__(members)
        self.rounds: list[Round[Word] | None] = []

    async def ask_beside(self, connection: Connection, *, deadline: float) -> Round[Word] | None:
        self.rounds.append(await super().ask_beside(connection, deadline=deadline))
        return self.rounds[-1]


async def vouched(round_: Round[Word] | None) -> bool:
    if round_ is None:
        return False
    try:
        await round_.outcome(asyncio.get_running_loop().time() + 1)
    except errors.NotReady:
        return False
    return True


def test_a_leader_deposed_between_the_question_and_the_read_serves_only_readers_that_began_before(cluster: Cluster):
    """The first reader's voters vouched before it was frozen, so either value is right. Nobody may profit who comes
    after the write was acknowledged, though questions and connections are shared."""
    cluster.form(3)

    async def one_trial(trial: int) -> tuple[int, int, int] | None:
        connector = Held(cluster.connector(0, 1, 2))
        confirmer = Asking(connector)
        connector.go.set()
        early, late = Database(connector, "t", confirmer), Database(connector, "t", confirmer)
        await set_value(early, 10 * trial)
        for _ in range(3):
            assert [await reading("linearizable")(where) for where in (early, late)] == [10 * trial] * 2
        await eventually(lambda: cluster.leader(0) is not None)
        old = await asyncio.to_thread(cluster.leader, 0)
        assert old is not None
        connector.go.clear()
        first = asyncio.create_task(reading("linearizable")(early))
        asked = len(confirmer.rounds)
        while len(confirmer.rounds) == asked:
            await asyncio.sleep(0.001)
        named = await vouched(confirmer.rounds[-1])  # Nobody has, where this machine took its time.
        cluster.freeze(old)
        connector.call_ahead()
        try:
            writer = database(cluster, *(n for n in range(3) if n != old))
            await set_value(writer, 10 * trial + 1)
            writer.close()
            connector.go.set()
            second = asyncio.create_task(reading("linearizable")(late))
            await asyncio.sleep(0.1)  # So that both wait in the frozen leader's sockets.
        finally:
            cluster.signal(old, signal.SIGCONT)
        found = await first, await second, await reading("linearizable")(early)
        for where in (early, late, confirmer):
            where.close()
        await asyncio.to_thread(cluster.settled, 3)
        return found if named else None

    counted = 0
    for trial in range(1, 6 * TRIALS):
        found = asyncio.run(one_trial(trial))
        if found is not None:
            first, second, third = found
            assert first in (10 * trial, 10 * trial + 1)
            assert (second, third) == (10 * trial + 1,) * 2
            counted += 1
        if counted == TRIALS:
            return
    raise AssertionError("the voters hardly ever vouched for the leader beside the read")


@pytest.mark.parametrize("count", [1, 2, 5])
def test_clusters_of_other_sizes_read_and_write(cluster: Cluster, count: int):
    cluster.form(count)

    async def play() -> None:
        where = database(cluster, *range(count))
        for value in range(5):
            await set_value(where, value)
            assert await reading("linearizable")(where) == value
            assert await reading_in_a_transaction(where) == value
            assert await writing_nothing(where) == value
        where.close()

    asyncio.run(play())


def test_the_survivor_of_two_voters_answers_nobody_until_the_other_is_back(cluster: Cluster):
    cluster.form(2)

    async def play() -> None:
        where = database(cluster, 0, 1)
        await set_value(where, 1)
        leader = await asyncio.to_thread(cluster.leader, 0)
        cluster.freeze(1 - (leader or 0))
        try:
            with pytest.raises(errors.NotReady):
                await where.read("SELECT v FROM t", deadline_seconds=1)
        finally:
            cluster.signal(1 - (leader or 0), signal.SIGCONT)
        assert await reading("linearizable")(where) == 1
        where.close()

    asyncio.run(play())


def test_a_frozen_leader_costs_a_caller_its_patience_and_not_its_deadline(cluster: Cluster):
    """Its connections stay open and answer nothing; the others have elected another long before."""
    cluster.form(3)

    async def play() -> None:
        where = database(cluster, 0, 1, 2)
        await set_value(where, 1)
        leader = await asyncio.to_thread(cluster.leader, 0)
        assert leader is not None
        cluster.freeze(leader)
        try:
            async with asyncio.timeout(25):
                await where.run(lambda tx: tx.execute("INSERT INTO t (k, v) VALUES (2, 2)"), deadline_seconds=60)
                found = await where.read("SELECT count(*) FROM t", deadline_seconds=60)
            assert found.rows == ((2,),)
        finally:
            cluster.signal(leader, signal.SIGCONT)
        where.close()

    asyncio.run(play())

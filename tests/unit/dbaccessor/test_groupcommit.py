"""One committer, many callers: against a model, on SQLite itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbaccessor import errors, groupcommit
from dbaccessor.database import Database
from dbaccessor.dbmetrics import Namespace
from dbaccessor.groupcommit import Batch, GroupCommit
from sqlitenode import SqliteConnection, SqliteNode, Trouble

SCHEMA = (
    "CREATE TABLE lease (name TEXT NOT NULL PRIMARY KEY, holder TEXT NOT NULL CHECK (holder <> 'bad'),"
    " counter INTEGER NOT NULL)"
)
# Taken by who has seen the counter; refused to anybody else, who learns the holder.
LEASE = Batch(
    write="INSERT INTO lease (name, holder, counter) SELECT value->>0, value->>1, value->>2 + 1 FROM json_each(?)"
    " WHERE true ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, counter = excluded.counter"
    " WHERE lease.counter = excluded.counter - 1",
    ask="SELECT j.key, l.holder, l.counter FROM json_each(?) AS j JOIN lease AS l ON l.name = j.value->>0",
    rising=True,
)
KEYED = Batch(
    write="INSERT INTO lease (name, holder, counter) SELECT value->>0, value->>1, 0 FROM json_each(?)"
    " WHERE true ON CONFLICT (name) DO UPDATE SET holder = excluded.holder",
    ask="SELECT j.key, l.holder FROM json_each(?) AS j JOIN lease AS l ON l.name = j.value->>0",
)
BUSY = errors.NotReady("busy", code=5)
LOST = errors.Indefinite("leadership lost", code=10506)


def hold(
    play: Callable[[SqliteNode, GroupCommit], Awaitable[None]], batch: Batch = LEASE, counted: Namespace | None = None
) -> None:
    async def run() -> None:
        node = SqliteNode(SCHEMA)
        database = Database(node, "data").measure(counted or Namespace())  # type: ignore[arg-type]
        await play(node, database.group_commit(batch))
        database.close()

    asyncio.run(run())


def table(node: SqliteNode) -> dict[str, tuple[str, int]]:
    return {n: (h, c) for n, h, c in node.sqlite.execute("SELECT name, holder, counter FROM lease")}


class Model:
    """What a lease's requests come to, one after another."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[str, int]] = {}

    def take(self, name: str, holder: str, seen: int) -> tuple[str, int] | None:
        if name not in self.rows or self.rows[name][1] == seen:
            self.rows[name] = (holder, seen + 1)
        return self.rows[name]


names = st.sampled_from(["a", "b", "é\u2028", '"\\', "\x01"])
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5)
requests = st.lists(st.tuples(names, texts, st.integers(0, 3)), max_size=25)
harmless = st.lists(st.one_of(st.none(), st.just(("before", BUSY))), max_size=10)


@given(requests, harmless, st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_every_caller_gets_what_its_request_came_to_in_the_order_of_its_key(
    asked: list[tuple[str, str, int]], troubles: list[Trouble], most: int
):
    async def play(node: SqliteNode, committer: GroupCommit) -> None:
        node.troubles = iter(troubles)
        model = Model()
        got = await asyncio.gather(*(committer.submit(*values) for values in asked))
        assert got == [model.take(*values) for values in asked]
        assert table(node) == model.rows
        for batch in node.batches:
            keys = [values[0] for values in json.loads(batch)]
            assert len(keys) == len(set(keys)) <= most

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(groupcommit, "MAX_REQUESTS", most)
        patch.setattr(groupcommit.retry, "FIRST_PAUSE_SECONDS", 0.0)
        hold(play)


trouble = st.one_of(st.none(), st.just(("before", BUSY)), st.just(("before", LOST)), st.just(("after", LOST)))


@given(st.integers(1, 30), st.lists(trouble, max_size=12), st.integers(1, 7), st.sets(st.integers(0, 29)))
@settings(max_examples=150, deadline=None)
def test_the_acknowledged_are_there_the_refused_are_not_and_the_indefinite_are_either(
    count: int, troubles: list[Trouble], most: int, bad: set[int]
):
    async def play(node: SqliteNode, committer: GroupCommit) -> None:
        node.troubles = iter(troubles)
        said = await asyncio.gather(
            *(committer.submit(str(n), "bad" if n in bad else "good", 0) for n in range(count)), return_exceptions=True
        )
        there = table(node)
        for n, outcome in enumerate(said):
            match outcome:
                case tuple():
                    assert n not in bad and there[str(n)] == ("good", 1) == outcome
                case errors.Refused():
                    assert n in bad and str(n) not in there
                case errors.Indefinite():
                    assert LOST in [t[1] for t in troubles if t]
                case _:
                    raise AssertionError(outcome)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(groupcommit, "MAX_REQUESTS", most)
        patch.setattr(groupcommit.retry, "FIRST_PAUSE_SECONDS", 0.0)
        hold(play)


def test_all_that_wait_go_into_one_batch():
    async def play(node: SqliteNode, committer: GroupCommit) -> None:
        await asyncio.gather(*(committer.submit(str(n), "h", 0) for n in range(200)))
        assert len(node.batches) == 1

    hold(play)


def test_a_batch_is_bounded_in_bytes():
    async def play(node: SqliteNode, committer: GroupCommit) -> None:
        await asyncio.gather(*(committer.submit(str(n), "x" * 1000, 0) for n in range(100)))
        assert len(node.batches) == 4
        assert max(map(len, node.batches)) < 30 * 1024
        with pytest.raises(errors.Refused, match="larger"):
            await committer.submit("long", "x" * 30000, 0)

    hold(play)


@pytest.mark.parametrize("value", ["a\0b", "\ud800", 2**63, 1.5, b"blob", [1]])
def test_what_json_cannot_carry_is_refused_before_it_can_spoil_a_batch(value: object):
    async def play(node: SqliteNode, committer: GroupCommit) -> None:
        with pytest.raises(errors.Refused):
            await committer.submit("k", value, 0)  # type: ignore[arg-type]
        assert node.batches == []

    hold(play)


def test_a_full_queue_refuses_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(groupcommit, "MAX_WAITING", 3)

    async def play(node: SqliteNode, committer: GroupCommit) -> None:
        said = await asyncio.gather(*(committer.submit(str(n), "h", 0) for n in range(5)), return_exceptions=True)
        assert [type(outcome) for outcome in said] == [tuple] * 3 + [errors.Refused] * 2

    hold(play)


def test_one_who_is_cancelled_disturbs_nobody_before_or_after_the_send():
    async def play(node: SqliteNode, committer: GroupCommit) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(committer.submit(str(n), "h", 0)) for n in range(4)]
            node.before_batch = lambda: tasks[1].cancel()
            await asyncio.sleep(0)
            tasks[2].cancel()
        assert tasks[1].cancelled() and tasks[2].cancelled()
        assert tasks[0].result() == tasks[3].result() == ("h", 1)
        # The second was sent already and is there; the third was not.
        assert set(table(node)) == {"0", "1", "3"}

    hold(play)


def test_the_deadline_is_not_ready_while_nothing_was_sent_and_indefinite_once_it_was():
    async def play(node: SqliteNode, committer: GroupCommit) -> None:
        def forever() -> Iterator[Trouble]:
            while True:
                yield "before", BUSY

        node.troubles = forever()
        with pytest.raises(errors.NotReady, match="busy"):
            await committer.submit("k", "h", 0, deadline_seconds=0.2)

        node.troubles, node.hangs = iter(()), True
        with pytest.raises(errors.Indefinite):
            await committer.submit("k", "h", 0, deadline_seconds=0.1)

    hold(play)


@pytest.mark.parametrize("others", [(), ("b", "c")])
def test_who_was_told_that_nothing_was_done_is_not_written_once_a_leader_is_found(others: tuple[str, ...]):
    async def play(node: SqliteNode, committer: GroupCommit) -> None:
        elected, to_leader = asyncio.Event(), node.to_leader

        async def later(*, deadline: float) -> SqliteConnection:
            await elected.wait()
            return await to_leader(deadline=deadline)

        node.to_leader = later  # type: ignore[method-assign]
        hasty = asyncio.create_task(committer.submit("a", "of a", deadline_seconds=0.05))
        patient = [asyncio.create_task(committer.submit(name, f"of {name}", deadline_seconds=60)) for name in others]
        with pytest.raises(errors.NotReady):
            await hasty
        elected.set()
        # The others of its batch get their own outcomes, although it is missing there.
        assert await asyncio.gather(*patient) == [(f"of {name}",) for name in others]
        assert await committer.submit("d", "of d") == ("of d",)
        assert set(table(node)) == {*others, "d"}

    hold(play, KEYED)


def test_the_rest_of_a_refused_batch_is_not_done_until_its_turn_comes():
    async def play(node: SqliteNode, committer: GroupCommit) -> None:
        again = asyncio.Event()

        def stop_at_the_second() -> None:
            if len(node.batches) == 2:
                node.hangs = True
                again.set()

        node.before_batch = stop_at_the_second
        both = [asyncio.create_task(committer.submit(name, "bad")) for name in ("a", "b")]
        await again.wait()
        # The batch of both was refused; its first half is under way again, and the second waits for it.
        committer.close()
        said = await asyncio.gather(*both, return_exceptions=True)
        assert [type(outcome) for outcome in said] == [errors.Indefinite, errors.NotReady]

    hold(play, KEYED)


def test_closing_tells_everybody_what_is_known():
    async def play(node: SqliteNode, committer: GroupCommit) -> None:
        sent = asyncio.create_task(committer.submit("k", "h", 0))
        waits = asyncio.create_task(committer.submit("k", "i", 1))
        started = asyncio.Event()
        node.before_batch = started.set
        await started.wait()
        committer.close()
        for task, kind in ((sent, errors.Indefinite), (waits, errors.NotReady)):
            with pytest.raises(kind):
                await task
        with pytest.raises(errors.NotReady, match="closed"):
            await committer.submit("k", "h", 0)

    hold(play)


def test_closing_in_the_moment_of_the_first_request_leaves_nobody_waiting():
    async def play(node: SqliteNode, committer: GroupCommit) -> None:
        waits = asyncio.create_task(committer.submit("k", "h", 0))
        await asyncio.sleep(0)  # The request is there, and whoever is to carry it out has not begun.
        committer.close()
        async with asyncio.timeout(5):
            with pytest.raises(errors.NotReady, match="closed"):
                await waits

    hold(play)


def test_an_upsert_to_the_same_value_is_answered_too():
    async def play(node: SqliteNode, committer: GroupCommit) -> None:
        assert await committer.submit("k", "v") == ("v",)
        assert await committer.submit("k", "v") == ("v",)

    hold(play, KEYED)


def ended_in(counted: Namespace) -> dict[str, int]:
    """How requests ended, without what did not occur. Each has its duration, and none is under way."""
    assert counted.active == 0
    assert sum(counted.succeeded.counts) == counted.success
    assert sum(counted.failed.counts) == sum(counted.errors.values())
    return {word: count for word, count in (("success", counted.success), *counted.errors.items()) if count}


def test_a_batch_is_counted_once_with_all_its_tries():
    counted = Namespace()

    async def play(node: SqliteNode, committer: GroupCommit) -> None:
        node.troubles = iter([("before", BUSY)] * 3)
        assert await committer.submit("k", "h", 0) == ("h", 1)

    hold(play, counted=counted)
    assert ended_in(counted) == {"success": 1}
    assert (counted.attempts, counted.retries, counted.last_ping_attempts) == (4, 3, 4)


def test_a_batch_is_under_way_while_it_waits_for_its_next_try_and_takes_in_who_comes():
    counted = Namespace()

    async def play(node: SqliteNode, committer: GroupCommit) -> None:
        node.troubles = iter([("before", BUSY)] * 3)
        first = asyncio.create_task(committer.submit("a", "h", 0))
        while counted.attempts < 2:
            await asyncio.sleep(0)
        assert counted.active == 1
        assert await asyncio.gather(first, committer.submit("b", "h", 0)) == [("h", 1), ("h", 1)]

    hold(play, counted=counted)
    assert ended_in(counted) == {"success": 1}


@pytest.mark.parametrize("bad", [1, 2])
def test_a_batch_with_wrong_requests_is_refused_once_and_its_parts_are_tries_of_it(bad: int):
    counted = Namespace()

    async def play(node: SqliteNode, committer: GroupCommit) -> None:
        said = await asyncio.gather(
            *(committer.submit(str(n), "bad" if n < bad else "good", 0) for n in range(4)), return_exceptions=True
        )
        assert sum(isinstance(outcome, errors.Refused) for outcome in said) == bad
        assert await committer.submit("another", "good", 0) == ("good", 1)

    hold(play, counted=counted)
    assert ended_in(counted) == {"success": 1, "refused": 1}
    assert counted.attempts == len({"all", "01", "0", "1", "23", "another"})
    assert counted.retries == counted.attempts - 2


def test_a_batch_of_which_a_part_is_refused_and_another_in_doubt_counts_as_in_doubt():
    counted = Namespace()

    async def play(node: SqliteNode, committer: GroupCommit) -> None:
        node.troubles = iter([None, None, ("after", LOST)])
        said = await asyncio.gather(committer.submit("a", "bad"), committer.submit("b", "h"), return_exceptions=True)
        assert [type(outcome) for outcome in said] == [errors.Refused, errors.Indefinite]

    hold(play, KEYED, counted)
    assert ended_in(counted) == {"indefinite": 1}


def test_whose_deadline_passes_during_an_outage_is_counted_then_and_not_at_its_end():
    counted = Namespace()

    async def play(node: SqliteNode, committer: GroupCommit) -> None:
        outage = True

        def troubles() -> Iterator[Trouble]:
            while outage:
                yield "before", BUSY

        node.troubles = troubles()
        patient = asyncio.create_task(committer.submit("a", "h", 0, deadline_seconds=60))
        with pytest.raises(errors.NotReady):
            await committer.submit("b", "h", 0, deadline_seconds=0.1)
        async with asyncio.timeout(5):
            while not counted.errors["retryable"]:
                await asyncio.sleep(0.01)
        assert not patient.done()
        outage = False
        assert await patient == ("h", 1)

    hold(play, counted=counted)
    assert ended_in(counted) == {"success": 1, "retryable": 1}


def test_a_batch_that_nobody_waits_for_any_more_is_counted_as_what_its_callers_were_told():
    """One told that it is late: what it was told. All cancelled: nothing is known of it, and it did not succeed."""
    late, cancelled, closed = Namespace(), Namespace(), Namespace()

    async def lets_pass(node: SqliteNode, committer: GroupCommit) -> None:
        node.troubles = iter([("before", BUSY)] * 1000)
        with pytest.raises(errors.NotReady):
            await committer.submit("k", "h", 0, deadline_seconds=0.1)
        async with asyncio.timeout(5):
            while late.active:
                await asyncio.sleep(0.01)

    async def cancels(node: SqliteNode, committer: GroupCommit) -> None:
        node.troubles = iter([("before", BUSY)] * 1000)
        task = asyncio.create_task(committer.submit("k", "h", 0))
        while cancelled.attempts < 2:
            await asyncio.sleep(0)
        task.cancel()
        async with asyncio.timeout(5):
            while cancelled.active:
                await asyncio.sleep(0.01)

    async def closes(node: SqliteNode, committer: GroupCommit) -> None:
        task = asyncio.create_task(committer.submit("k", "h", 0))
        sent = asyncio.Event()
        node.hangs, node.before_batch = True, sent.set
        await sent.wait()
        committer.close()
        with pytest.raises(errors.Indefinite):
            await task

    hold(lets_pass, counted=late)
    assert ended_in(late) == {"retryable": 1}
    hold(cancels, counted=cancelled)
    assert ended_in(cancelled) == {"unknown": 1}
    hold(closes, counted=closed)
    assert ended_in(closed) == {"indefinite": 1}


@pytest.mark.parametrize(
    ("write", "ask"),
    [
        ("SELECT ?", "SELECT ?"),
        ("DELETE FROM t WHERE a = ?", "DELETE FROM t WHERE a = ?"),
        ("DELETE FROM t", "SELECT ?"),
        ("INSERT INTO t SELECT value FROM json_each(?) RETURNING a", "SELECT ?"),
        ("INSERT INTO t SELECT ?; COMMIT", "SELECT ?"),
        ("ROLLBACK", "SELECT ?"),
        ("INSERT OR FAIL INTO t SELECT value FROM json_each(?)", "SELECT ?"),
        ("update or /* */ fail t SET a = (SELECT max(value) FROM json_each(?))", "SELECT ?"),
    ],
)
def test_a_batch_is_one_writing_and_one_reading_statement(write: str, ask: str):
    with pytest.raises(errors.Refused):
        Batch(write, ask)

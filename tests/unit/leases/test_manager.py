"""Claims, renewals, take-overs and stops of managers that share one table, on a loop whose time jumps."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

import jumpingloop
from controller.leases import Denied, InvalidLease, Key, Lost, Manager, Token
from controller.leases import timing as timings
from controller.leases.clock import Clock
from controller.leases.observer import ALL_SECONDS
from controller.leases.store import Row
from dbaccessor import errors
from dbaccessor.identity import Epoch
from leasetable import MemoryStore, Table

KEY = Key("singular-controller", "m", "m")
TIMING = timings.for_latency(10)
DURATION = TIMING.duration_seconds
LOST = errors.Indefinite("leadership lost", code=10506)
BUSY = errors.NotReady("busy", code=5)


class One:
    """A manager, its store, and its clocks, which can be set off against each other."""

    def __init__(self, table: Table, holder: str, *, epoch: Epoch | None = None) -> None:
        self.store = MemoryStore(table, 0.001)
        self.epoch = epoch or Epoch(0, "")
        self.suspended = 0.0
        loop = asyncio.get_running_loop()
        clock = Clock(lambda: 1000 + loop.time() + self.suspended, lambda: 50 + loop.time(), lambda: 1.7e9)
        self.manager = Manager(self.store, holder, lambda: self.epoch, timing=TIMING, clock=clock)

    def __enter__(self) -> One:
        self.task = asyncio.get_running_loop().create_task(self.manager.run())
        return self

    def __exit__(self, *_: object) -> None:
        self.task.cancel()

    def kill(self) -> None:
        """What kill -9 leaves behind: nothing is given up."""
        self.store.cut = True
        self.task.cancel()

    async def stop(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


@contextlib.asynccontextmanager
async def several(count: int) -> AsyncIterator[list[One]]:
    table = Table()
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(One(table, str(n))) for n in range(count)]


def play(count: int, story: Callable[..., Awaitable[None]]) -> None:
    async def run() -> None:
        async with several(count) as ones:
            await story(*ones)

    jumpingloop.run(run())


def now() -> float:
    return asyncio.get_running_loop().time()


def test_one_of_two_is_granted_and_the_other_is_told_who_holds_it():
    async def story(a: One, b: One) -> None:
        mine = await a.manager.claim(KEY, DURATION)
        with pytest.raises(Denied) as denied:
            await b.manager.claim(KEY, DURATION)
        assert denied.value.holder == "0" and "controller 0" in str(denied.value)
        assert (mine.holder, mine.token) == ("0", Token(0, 1))
        assert a.manager.held(KEY) is mine and b.manager.held(KEY) is None
        assert a.manager.check(KEY, mine.token) and not a.manager.check(KEY, Token(0, 2))

    play(2, story)


def test_what_is_held_stays_held_without_a_word_from_its_holder():
    async def story(a: One, b: One) -> None:
        mine = await a.manager.claim(KEY, DURATION)
        await asyncio.sleep(20 * DURATION)
        mine.check()
        with pytest.raises(Denied):
            await b.manager.claim(KEY, DURATION)
        counters = a.manager.report()["counters"]
        # Five for each duration.
        assert counters.pop("renewals") in range(98, 103)
        assert counters == {"claims": 1, "late-renewals": 0}

    play(2, story)


def test_a_claim_of_what_is_held_extends_it_under_the_same_token():
    async def story(a: One, b: One) -> None:
        mine = await a.manager.claim(KEY, DURATION)
        await asyncio.sleep(0.5)
        began = now()
        assert await a.manager.claim(KEY, 4 * DURATION) is mine
        assert mine.seconds_left + now() - began == pytest.approx(4 * DURATION - TIMING.margin_seconds(4 * DURATION))
        a.kill()
        began = now()
        await b.manager.wait_until_free(KEY)
        assert 3 * DURATION < now() - began < 4 * DURATION + 1

    play(2, story)


def test_a_shorter_duration_in_doubt_counts_at_once():
    async def story(a: One) -> None:
        mine = await a.manager.claim(KEY, 4 * DURATION)
        a.store.troubles = iter([("after", LOST)] * 100)
        task = asyncio.create_task(a.manager.claim(KEY, DURATION))
        await asyncio.sleep(0.01)
        assert mine.seconds_left <= DURATION
        task.cancel()

    play(1, story)


def test_after_a_kill_somebody_else_holds_within_the_duration_and_a_second():
    async def story(a: One, b: One, c: One) -> None:
        async def wait(one: One) -> str:
            while True:
                await one.manager.wait_until_free(KEY)
                try:
                    return (await one.manager.claim(KEY, DURATION)).holder
                except Denied:
                    pass

        await a.manager.claim(KEY, DURATION)
        await asyncio.sleep(7.77)
        waiting = [asyncio.create_task(wait(one)) for one in (b, c)]
        await asyncio.sleep(5)
        a.kill()
        killed = now()
        done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert DURATION - 1.3 < now() - killed < DURATION + 0.5
        assert len(done) == len(pending) == 1
        assert {row.token for row, _ in a.store.table.rows.values()} == {Token(0, 2)}
        pending.pop().cancel()

    play(3, story)


def test_a_clean_stop_gives_the_lease_up_at_once():
    async def story(a: One, b: One) -> None:
        mine = await a.manager.claim(KEY, DURATION)
        waiting = asyncio.create_task(b.manager.wait_until_free(KEY))
        await asyncio.sleep(3)
        began = now()
        await a.stop()
        with pytest.raises(Lost, match="manager ends"):
            mine.check()
        await waiting
        assert now() - began < 0.25
        assert (await b.manager.claim(KEY, DURATION)).token == Token(0, 2)

    play(2, story)


def test_a_revoked_lease_can_be_had_at_once_and_its_token_goes_on():
    async def story(a: One, b: One) -> None:
        for count in range(1, 6):
            one = (a, b)[count % 2]
            mine = await one.manager.claim(KEY, DURATION)
            assert mine.token == Token(0, count)
            await one.manager.revoke(KEY)
            assert one.manager.held(KEY) is None
            with pytest.raises(Lost, match="given up"):
                mine.check()
        # Nobody has it: nothing to do.
        await a.manager.revoke(KEY)

    play(2, story)


def test_a_lease_is_not_free_while_somebody_works_under_it():
    async def story(a: One, b: One) -> None:
        mine = await a.manager.claim(KEY, DURATION)
        with mine.occupied():
            task = asyncio.create_task(a.manager.revoke(KEY))
            await mine.lost()
            await asyncio.sleep(1)
            with pytest.raises(Denied):
                await b.manager.claim(KEY, DURATION)
            assert not task.done()
        await task
        await b.manager.claim(KEY, DURATION)

    play(2, story)


def test_who_does_not_end_does_not_keep_the_lease_from_running_out():
    async def story(a: One, b: One) -> None:
        mine = await a.manager.claim(KEY, DURATION)
        with mine.occupied():
            task = asyncio.create_task(a.manager.revoke(KEY))
            began = now()
            await b.manager.wait_until_free(KEY)
            assert DURATION - 0.1 < now() - began < DURATION + 0.5
            await b.manager.claim(KEY, DURATION)
            await task
        assert next(iter(a.store.table.rows.values()))[0].holder == "1"

    play(2, story)


def test_the_next_holding_here_waits_for_the_work_of_the_one_before():
    async def story(a: One) -> None:
        mine = await a.manager.claim(KEY, DURATION)
        with mine.occupied():
            a.store.cut = True
            await mine.lost()
            a.store.cut = False
            again = asyncio.create_task(a.manager.claim(KEY, DURATION))
            await asyncio.sleep(5)
            assert not again.done()
        assert (await again).token == Token(0, 2)

    play(1, story)


def test_a_holder_whose_renewals_hang_stops_before_anybody_can_take_over():
    async def story(a: One, b: One) -> None:
        mine = await a.manager.claim(KEY, DURATION)
        await asyncio.sleep(9.5)
        a.store.cut = True
        stopped = asyncio.create_task(mine.lost())
        await b.manager.wait_until_free(KEY)
        assert stopped.done() and a.manager.held(KEY) is None
        with pytest.raises(Lost, match="not renewed in time"):
            mine.check()
        assert (await b.manager.claim(KEY, DURATION)).token == Token(0, 2)

    play(2, story)


def test_time_during_a_suspend_counts_for_the_holder():
    async def story(a: One) -> None:
        mine = await a.manager.claim(KEY, DURATION)
        a.suspended += DURATION
        # No timer has run yet: it is the clock that is asked.
        with pytest.raises(Lost):
            mine.check()
        await mine.lost()

    play(1, story)


def test_a_renewal_in_doubt_is_settled_by_the_row_itself():
    async def story(a: One, b: One) -> None:
        mine = await a.manager.claim(KEY, DURATION)
        sent = mine.deadline
        a.store.troubles = iter([("after", LOST), ("before", LOST), ("before", BUSY), None])
        await asyncio.sleep(1.5)
        assert mine.deadline > sent
        await asyncio.sleep(20)
        mine.check()
        counters = a.manager.report()["counters"]
        assert counters["failed-renewals"] == 3 and "lost" not in counters

    play(2, story)


def test_only_the_attempt_that_committed_moves_the_deadline():
    async def story(a: One) -> None:
        mine = await a.manager.claim(KEY, DURATION)
        begun = mine.deadline
        # Each of these is carried out, and nobody hears of it; the ones after it find another state than they saw.
        a.store.troubles = iter([("after", LOST)] + [("before", LOST)] * 1000)
        await mine.lost()
        assert mine.deadline == begun

    play(1, story)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_claim_in_doubt_is_looked_into_and_then_granted(when: str):
    async def story(a: One, b: One) -> None:
        a.store.troubles = iter([(when, LOST)])
        mine = await a.manager.claim(KEY, DURATION)
        mine.check()
        with pytest.raises(Denied):
            await b.manager.claim(KEY, DURATION)
        await asyncio.sleep(3 * DURATION)
        mine.check()

    play(2, story)


def test_a_claim_whose_answers_never_come_is_granted_by_what_is_seen_of_it():
    async def story(a: One, b: One) -> None:
        a.store.troubles = iter([("after", LOST)] * 1000)
        mine = await a.manager.claim(KEY, DURATION)
        assert (mine.token, len(a.store.table.history)) == (Token(0, 1), 1)
        # Nor does it renew what it cannot hear of: others see it unchanged and have it in time.
        await mine.lost()
        await b.manager.wait_until_free(KEY)
        assert now() < 2 * DURATION

    play(2, story)


def test_a_claim_in_doubt_that_the_answer_to_the_next_one_shows_is_granted():
    async def story(a: One) -> None:
        move, late = a.store.move, list[tuple[Row | None, Row]]()

        async def slow(seen: Row | None, new: Row, *, deadline_seconds: float) -> Row | None:
            """Every other request is done only after its caller has given it up and sent another."""
            if not late:
                late.append((seen, new))
                await asyncio.sleep(deadline_seconds)
                raise errors.Indefinite("no answer came", code=0)
            a.store.table.move(*late.pop())
            return await move(seen, new, deadline_seconds=deadline_seconds)

        a.store.move = slow  # type: ignore[method-assign]
        mine = await a.manager.claim(KEY, DURATION)
        mine.check()
        assert (mine.token, len(a.store.table.history)) == (Token(0, 1), 1)

    play(1, story)


def test_a_claim_that_is_seen_too_late_to_hold_is_made_again():
    async def story(a: One) -> None:
        a.store.troubles = iter([("after", LOST), None])
        task = asyncio.create_task(a.manager.claim(KEY, DURATION))
        await asyncio.sleep(0.002)
        a.suspended += DURATION  # Between the claim and the look.
        mine = await task
        mine.check()
        assert mine.token == Token(0, 2)

    play(1, story)


def test_a_claim_that_stays_in_doubt_says_so_and_is_given_up_at_a_stop():
    async def story(a: One, b: One) -> None:
        await asyncio.sleep(1)
        a.store.deaf = True
        with pytest.raises(errors.Indefinite):
            await a.manager.claim(KEY, DURATION)
        assert a.manager.held(KEY) is None
        a.store.deaf = False
        await a.stop()
        began = now()
        await b.manager.claim(KEY, DURATION)
        assert now() - began < 0.1

    play(2, story)


def test_without_a_database_a_claim_says_why_at_its_deadline():
    async def story(a: One) -> None:
        a.store.cut = True
        with pytest.raises(errors.NotReady, match="no leader could be reached"):
            await a.manager.claim(KEY, DURATION)
        assert now() < TIMING.claim_seconds + 2

    play(1, story)


def test_who_returns_as_another_process_waits_for_its_own_lease_to_run_out():
    async def story(a: One) -> None:
        await a.manager.claim(KEY, DURATION)
        a.kill()
        with One(a.store.table, "0") as again:
            with pytest.raises(Denied):
                await again.manager.claim(KEY, DURATION)
            await again.manager.wait_until_free(KEY)
            assert (await again.manager.claim(KEY, DURATION)).token == Token(0, 2)
            again.kill()

    play(1, story)


def test_what_was_seen_in_one_epoch_says_nothing_in_the_next():
    async def story(a: One, b: One) -> None:
        await a.manager.claim(KEY, DURATION)
        before = a.store.table.rows[KEY]
        waiting = asyncio.create_task(b.manager.wait_until_free(KEY))
        await asyncio.sleep(0.9)
        a.kill()
        await asyncio.sleep(DURATION - 1.5)
        # The survivor never had the latest renewal. A row comes back that was renewed in truth.
        a.store.table.rows[KEY] = before
        b.epoch = Epoch(1, "tag")
        began = now()
        await waiting
        assert now() - began > DURATION - 0.25
        assert (await b.manager.claim(KEY, DURATION)).token == Token(1, 2)

    play(2, story)


def test_a_token_of_a_later_epoch_is_higher_than_all_before_it():
    assert Token(0, 10**9) < Token(1, 1) < Token(1, 2)


def test_an_emptied_table_ends_what_was_held():
    async def story(a: One) -> None:
        mine = await a.manager.claim(KEY, DURATION)
        a.store.table.rows.clear()
        await mine.lost()
        assert now() < 2
        await a.manager.claim(KEY, DURATION)

    play(1, story)


@pytest.mark.parametrize(
    ("key", "seconds", "words"),
    [
        (Key("singular-controler", "m", "m"), DURATION, "no namespace 'singular-controler'.*: singular-controller"),
        (Key("singular-controller", "m", "n"), DURATION, "has the name of its model"),
        (Key("singular-controller", "", ""), DURATION, "is no model of a lease"),
        (Key("singular-controller", "a/b", "a/b"), DURATION, "is no model of a lease"),
        (KEY, 0.5, "lasts 1.45 to 3600 s"),
        (KEY, float("nan"), "lasts 1.45 to 3600 s"),
    ],
)
def test_a_wrong_claim_is_refused_with_the_reason(key: Key, seconds: float, words: str):
    async def story(a: One) -> None:
        with pytest.raises(InvalidLease, match=words):
            await a.manager.claim(key, seconds)
        assert a.store.moves == 0

    play(1, story)


def test_others_can_register_a_namespace():
    class Anything:
        def check(self, key: Key, holder: str, duration_seconds: float) -> None:
            if key.name == "no":
                raise InvalidLease("not this one")

    async def story(a: One) -> None:
        a.manager.register("application-leadership", Anything())
        with pytest.raises(ValueError, match="already"):
            a.manager.register("singular-controller", Anything())
        await a.manager.claim(Key("application-leadership", "m", "app"), DURATION)
        with pytest.raises(InvalidLease, match="not this one"):
            await a.manager.claim(Key("application-leadership", "m", "no"), DURATION)

    play(1, story)


def test_waiting_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("controller.leases.observer.MAX_WAITING", 3)

    async def story(a: One, b: One) -> None:
        await a.manager.claim(KEY, DURATION)
        waiting = [asyncio.create_task(b.manager.wait_until_free(KEY)) for _ in range(3)]
        await asyncio.sleep(1)
        with pytest.raises(errors.Refused, match="3 wait"):
            await b.manager.wait_until_free(KEY)
        for task in waiting:
            task.cancel()
        await asyncio.sleep(0)
        assert b.manager.report()["waiting"] == 0

    play(2, story)


def test_thousands_of_leases_need_no_task_each():
    async def story(a: One, b: One) -> None:
        keys = [Key("singular-controller", str(n), str(n)) for n in range(1000)]
        await asyncio.gather(*(a.manager.claim(key, DURATION) for key in keys))
        assert len(asyncio.all_tasks()) < 15
        await asyncio.sleep(1.5 * DURATION)
        assert all(a.manager.held(key) for key in keys)
        began = now()
        await a.stop()
        await asyncio.gather(*(b.manager.wait_until_free(key) for key in keys))
        assert now() - began < 0.5

    play(2, story)


def test_the_report_tells_who_holds_what_since_when():
    async def story(a: One, b: One) -> None:
        await a.manager.claim(KEY, DURATION)
        with pytest.raises(Denied):
            await b.manager.claim(KEY, DURATION)
        told = b.manager.report()["leases"]
        assert told == [
            {
                "namespace": "singular-controller",
                "model": "m",
                "name": "m",
                "holder": "0",
                "token": "0.1",
                "since": 1700000000,
                "duration-seconds": 5.0,
                "late-renewals": 0,
            }
        ]
        assert a.manager.report()["leases"][0]["held-here-seconds"] > 3

    play(2, story)


def test_a_row_that_was_deleted_leaves_every_report_in_time_and_can_come_anew():
    async def story(a: One, b: One) -> None:
        kept = Key("singular-controller", "kept", "kept")
        await a.manager.claim(KEY, DURATION)
        await a.manager.revoke(KEY)
        await b.manager.claim(kept, DURATION)
        await asyncio.sleep(3)
        assert [len(one.manager.report()["leases"]) for one in (a, b)] == [2, 2]
        del a.store.table.rows[KEY]  # As the pruner does: freed, and not the row that changed last.
        await asyncio.sleep(ALL_SECONDS + 3)
        for one in (a, b):
            assert [told["model"] for told in one.manager.report()["leases"]] == ["kept"]
        assert b.manager.held(kept) is not None
        (await a.manager.claim(KEY, DURATION)).check()
        with pytest.raises(Denied):
            await b.manager.claim(KEY, DURATION)

    play(2, story)


def test_a_look_at_all_leases_delays_no_take_over(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("controller.leases.observer.ALL_SECONDS", 0.5)

    async def story(a: One, b: One) -> None:
        await a.manager.claim(KEY, DURATION)
        a.kill()
        began = now()
        await b.manager.wait_until_free(KEY)
        assert now() - began < DURATION + 0.25
        assert (await b.manager.claim(KEY, DURATION)).token == Token(0, 2)

    play(2, story)


def test_who_waits_on_a_manager_that_ends_is_told_so():
    async def story(a: One, b: One) -> None:
        await a.manager.claim(KEY, DURATION)
        waiting = asyncio.create_task(b.manager.wait_until_free(KEY))
        await asyncio.sleep(1)
        await b.stop()
        for call in (waiting, b.manager.wait_until_free(KEY), b.manager.claim(KEY, DURATION)):
            with pytest.raises(errors.NotReady, match="has ended"):
                await call

    play(2, story)


def test_a_claim_that_is_granted_while_the_manager_ends_is_given_up():
    async def story(a: One, b: One) -> None:
        await asyncio.sleep(1)
        a.store.seconds = 0.5
        claiming = asyncio.create_task(a.manager.claim(KEY, DURATION))
        await asyncio.sleep(0.1)
        await a.stop()
        with pytest.raises(errors.NotReady, match="has ended"):
            await claiming
        assert [row.holder for row in a.store.table.history] == ["0", ""]
        await b.manager.claim(KEY, DURATION)

    play(2, story)


def test_what_is_given_up_while_the_manager_ends_is_freed_by_its_end():
    async def story(a: One, b: One) -> None:
        mine = await a.manager.claim(KEY, DURATION)
        a.task.cancel()
        # Before its parts have ended, and after it: neither may fail, whoever is told first.
        await asyncio.sleep(0)
        a.manager.give_up(mine)
        a.manager.give_up(mine)
        await a.stop()
        a.manager.give_up(mine)
        assert [row.holder for row in a.store.table.history] == ["0", ""]
        await b.manager.claim(KEY, DURATION)

    play(2, story)

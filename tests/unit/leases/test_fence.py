"""A fence in a database, on SQLite itself: who was there later, and what a former holder can still do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from controller.leases import Fenced, Key, Lost, Responsibility, Token
from dbaccessor import errors
from dbaccessor.database import Database, Transaction
from sqlitenode import SqliteNode

KEY = Key("singular-controller", "m", "m")


class Stage:
    """One database, and responsibilities whose clock the test sets."""

    def __init__(self) -> None:
        self.node = SqliteNode("CREATE TABLE work (what TEXT)")
        self.database = Database(self.node, "model-m")  # type: ignore[arg-type]
        self.now = 0.0

    def holder(self, count: int, holder: str = "0", epoch: int = 0, key: Key = KEY) -> Responsibility:
        made = Responsibility(key, Token(epoch, count), holder, f"incarnation-{holder}", lambda: self.now)
        made.hold_until(10)
        return made

    def fence(self) -> list[tuple]:
        return self.node.sqlite.execute("SELECT name, holder, epoch, count FROM fence").fetchall()

    def work(self) -> list[str]:
        return [row[0] for row in self.node.sqlite.execute("SELECT what FROM work")]


def write(what: str) -> Callable[[Transaction], Awaitable[str]]:
    async def fn(tx: Transaction) -> str:
        await tx.execute("INSERT INTO work (what) VALUES (?)", (what,))
        return what

    return fn


def play(story: Callable[[Stage], Awaitable[None]]) -> None:
    async def run() -> None:
        stage = Stage()
        await story(stage)
        stage.database.close()

    asyncio.run(run())


def test_the_first_use_raises_the_fence_and_makes_its_table():
    async def story(stage: Stage) -> None:
        fenced = stage.holder(3).fenced(stage.database)
        assert await fenced.run(write("a")) == "a"
        assert stage.fence() == [(str(KEY), "0", 0, 3)]
        assert (await fenced.read("SELECT what FROM work")).rows == (("a",),)

    play(story)


@pytest.mark.parametrize("later", [(4, 0), (1, 1)])
def test_a_former_holder_neither_writes_nor_reads_once_a_later_one_was_here(later: tuple[int, int]):
    async def story(stage: Stage) -> None:
        former = stage.holder(3)
        fenced = former.fenced(stage.database)
        await fenced.run(write("a"))
        await stage.holder(later[0], "1", later[1]).fenced(stage.database).read("SELECT 1")
        with pytest.raises(Fenced, match="controller 1"):
            await fenced.run(write("b"))
        assert stage.work() == ["a"]
        # It is over for all that it does, not for this database alone.
        await former.lost()
        for call in (fenced.run(write("b")), fenced.read("SELECT 1")):
            with pytest.raises(Lost, match="controller 1"):
                await call

    play(story)


def test_a_holder_that_comes_late_to_a_database_cannot_lower_its_fence():
    async def story(stage: Stage) -> None:
        await stage.holder(4, "1").fenced(stage.database).run(write("a"))
        with pytest.raises(Fenced):
            await stage.holder(3).fenced(stage.database).run(write("b"))
        assert stage.fence() == [(str(KEY), "1", 0, 4)]
        assert stage.work() == ["a"]

    play(story)


def test_the_same_token_of_another_incarnation_is_fenced():
    async def story(stage: Stage) -> None:
        await stage.holder(4, "1").fenced(stage.database).run(write("a"))
        with pytest.raises(Fenced):
            await stage.holder(4, "0").fenced(stage.database).run(write("b"))

    play(story)


def test_leases_do_not_fence_one_another():
    async def story(stage: Stage) -> None:
        other = stage.holder(9, "1", key=Key("singular-controller", "n", "n")).fenced(stage.database)
        mine = stage.holder(1).fenced(stage.database)
        for what in ("a", "b"):
            await other.run(write(what))
            await mine.run(write(what))
        assert stage.work() == ["a", "a", "b", "b"]

    play(story)


def test_nothing_is_written_after_the_deadline_even_inside_a_transaction():
    async def story(stage: Stage) -> None:
        fenced = stage.holder(1).fenced(stage.database)
        await fenced.run(write("a"))

        async def slow(tx: Transaction) -> None:
            await tx.execute("INSERT INTO work (what) VALUES ('late')")
            stage.now = 10

        with pytest.raises(Lost, match="not renewed in time"):
            await fenced.run(slow)
        with pytest.raises(Lost):
            await fenced.read("SELECT 1")
        assert stage.work() == ["a"]

    play(story)


def test_an_emptied_database_ends_the_work_on_it():
    async def story(stage: Stage) -> None:
        fenced = stage.holder(1).fenced(stage.database)
        await fenced.run(write("a"))
        stage.node.sqlite.execute("DROP TABLE fence")
        with pytest.raises(Fenced, match="model-m was emptied"):
            await fenced.run(write("b"))
        assert stage.work() == ["a"]

    play(story)


def test_what_is_wrong_with_the_callers_own_statement_is_the_callers():
    async def story(stage: Stage) -> None:
        mine = stage.holder(1)
        fenced = mine.fenced(stage.database)
        with pytest.raises(errors.Refused, match="no such table: missing"):
            await fenced.read("SELECT * FROM missing")
        mine.check()
        assert mine.fenced(stage.database) is fenced

    play(story)


def test_peeking_raises_no_fence_and_goes_on_after_a_later_holder_came():
    async def story(stage: Stage) -> None:
        fenced = stage.holder(1).fenced(stage.database)
        assert (await fenced.peek("SELECT what FROM work")).rows == ()
        assert stage.node.sqlite.execute("SELECT count(*) FROM sqlite_master WHERE name = 'fence'").fetchone() == (0,)
        await stage.holder(2, "1").fenced(stage.database).run(write("a"))
        assert (await fenced.peek("SELECT what FROM work")).rows == (("a",),)

    play(story)

"""What waits for older controllers is applied later, while everybody works already; a withdrawal ends them."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

import jumpingloop
from controller import domainschema
from controller.engine import Bounce
from controller.node import Databases
from dbaccessor import errors
from dbaccessor.schema import Patch

LATER = Patch(2, "0002-later.sql", (), needs=2)


class FakeWorker:
    """As much of the dbaccessor worker as Databases look at before they are used."""

    state = "serving"
    identity = object()

    def database(self, name: str) -> None:
        raise AssertionError


def test_patches_that_wait_are_tried_again_until_none_is_left_and_doubts_do_not_end_it():
    async def play() -> None:
        answers = [(LATER,), errors.Indefinite("?"), errors.NotReady("?"), ()]
        asked: list[float] = []

        async def again() -> tuple[Patch, ...]:
            asked.append(round(asyncio.get_running_loop().time()))
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        worker = domainschema.Patched("value", (LATER,), again)
        task = asyncio.create_task(worker.run())
        await asyncio.sleep(29)
        assert worker.value == "value"
        assert worker.report()["waiting"] == ["0002-later.sql"]
        await asyncio.sleep(100)
        assert asked == [30, 60, 61, 62]
        assert worker.report()["waiting"] == []
        assert not task.done()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    jumpingloop.run(play())


def test_a_database_that_needs_newer_code_ends_it_with_the_reason():
    async def play() -> None:
        async def again() -> tuple[Patch, ...]:
            raise errors.Refused("refresh this controller")

        with pytest.raises(errors.Refused, match="refresh"):
            await domainschema.Patched("value", (LATER,), again).run()

    jumpingloop.run(play())


def test_withdrawn_databases_end_whoever_needs_them_and_are_not_offered_before_they_are_again():
    async def play() -> None:
        databases = Databases(FakeWorker())  # type: ignore[arg-type]

        async def again() -> tuple[Patch, ...]:
            return ()

        task = asyncio.create_task(domainschema.Schema(databases, (), again).run())
        await asyncio.sleep(60)
        assert not task.done()
        databases.withdraw()
        with pytest.raises(Bounce, match="leaving"):
            await task
        waiting = asyncio.create_task(databases.until_serving())
        await asyncio.sleep(60)
        assert not waiting.done()
        databases.offer_again()
        assert await waiting is FakeWorker.identity

    jumpingloop.run(play())

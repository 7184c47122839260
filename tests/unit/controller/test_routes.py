"""controller.routes: how long a question may take, all in all, where nobody leads."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import pytest

from controller.routes import DatabaseRoutes
from dbaccessor import confsocket, errors


class Leaderless:
    """A worker that finds no leader before any deadline, once it has found as many lists as it `knows`."""

    def __init__(self, knows: int = 0, takes_seconds: float = 0.0) -> None:
        self.knows = knows
        self.takes_seconds = takes_seconds
        self.given: list[float] = []

    async def databases(self, *, deadline_seconds: float = 10) -> tuple[str, ...]:
        self.given.append(deadline_seconds)
        if self.knows > 0:
            self.knows -= 1
            await asyncio.sleep(self.takes_seconds)
            return ("controller",)
        await self._look(deadline_seconds)
        raise AssertionError

    def database(self, _: str) -> Leaderless:
        return self

    async def read(self, sql: str, params: object, *, deadline_seconds: float = 10) -> object:
        self.given.append(deadline_seconds)
        return await self._look(deadline_seconds)

    @contextlib.asynccontextmanager
    async def transaction(self, *, deadline_seconds: float = 10) -> AsyncIterator[object]:
        self.given.append(deadline_seconds)
        yield await self._look(deadline_seconds)

    async def _look(self, seconds: float) -> object:
        await asyncio.sleep(seconds)
        raise errors.NotReady("no leader was found")


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    thread = threading.Thread(target=made.run_forever)
    thread.start()
    yield made
    made.call_soon_threadsafe(made.stop)
    thread.join()
    made.close()


def ask(worker: Leaderless, loop: asyncio.AbstractEventLoop, request: tuple[str, str], **body: Any) -> tuple[int, Any]:
    handler: confsocket.Handler = DatabaseRoutes(cast(Any, worker), loop, "1", "1.18").routes()[request]
    status, _, answer = handler(json.dumps(body).encode())
    assert isinstance(answer, bytes)
    return status, json.loads(answer)


REQUESTS = [("GET", "/databases"), ("POST", "/sql"), ("POST", "/sql/write")]


@pytest.mark.parametrize("request_", REQUESTS)
def test_without_a_leader_a_question_ends_at_its_own_deadline_and_says_why(
    loop: asyncio.AbstractEventLoop, request_: tuple[str, str]
):
    began = time.monotonic()
    status, answer = ask(Leaderless(), loop, request_, **{"sql": "SELECT 1", "deadline-seconds": 0.3})

    assert (status, answer) == (503, {"error": "NotReady", "reason": "no leader was found"})
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("request_", REQUESTS[1:])
def test_a_statement_has_what_the_look_for_its_database_left(
    loop: asyncio.AbstractEventLoop, request_: tuple[str, str]
):
    worker = Leaderless(knows=1, takes_seconds=0.2)

    status, _ = ask(worker, loop, request_, **{"sql": "SELECT 1", "deadline-seconds": 0.5})

    assert status == 503
    assert worker.given[0] == 0.5
    assert 0 < worker.given[1] <= 0.3


def test_the_list_may_be_asked_for_without_a_body(loop: asyncio.AbstractEventLoop):
    handler = DatabaseRoutes(cast(Any, Leaderless(knows=1)), loop, "1", "1.18").routes()[("GET", "/databases")]

    assert handler(b"")[0] == 200

"""What control.socket answers for the node, where the daemon's loop does not answer in time."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from controller import noderoutes
from controller.noderoutes import NodeRoutes


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop on a thread of its own, as the daemon's is for the sockets' threads."""
    made = asyncio.new_event_loop()
    thread = threading.Thread(target=made.run_forever)
    thread.start()
    yield made
    made.call_soon_threadsafe(made.stop)
    thread.join()
    made.close()


def test_a_rebuild_that_takes_too_long_is_answered_and_goes_on(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(noderoutes, "_REBUILD_LIMIT_SECONDS", 0.1)
    let_go, ended = asyncio.Event(), threading.Event()

    async def rebuild(force: bool) -> None:
        assert force
        await let_go.wait()
        ended.set()

    worker = SimpleNamespace(rebuild=rebuild)
    none: Any = None
    routes = NodeRoutes(cast(Any, worker), loop, {}, none, none, none, none)

    status, _, body = routes.control()["POST", "/rebuild"](b'{"force": true}')

    assert status == 200
    answer = json.loads(body)
    assert answer["done"] is False
    assert "not done within 0.1 s, and it may go on" in answer["reason"]
    loop.call_soon_threadsafe(let_go.set)
    assert ended.wait(5), "a change of epoch that is half done is not called off"

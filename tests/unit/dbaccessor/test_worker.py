"""A step that fails: shown, tried again, and never the node's end."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from pathlib import Path

from dbaccessor.identity import Epoch, Identity, Journal, Store
from dbaccessor.worker import Worker


def play(state_dir: Path, look: Callable[[Worker], None], steps: Callable[[Worker], Awaitable[None]]) -> None:
    """Run a worker whose loop is `steps`, and each look of which is `look`."""

    async def inside() -> None:
        worker, done = Worker(state_dir), asyncio.Event()

        async def looks() -> None:
            look(worker)

        async def listen() -> None:
            return

        async def loop() -> None:
            await steps(worker)
            done.set()

        worker._sight.look = looks  # type: ignore[method-assign,assignment]
        worker._presence.listen = listen  # type: ignore[method-assign]
        worker._keep_deciding = loop  # type: ignore[method-assign]
        task = asyncio.create_task(worker.run())
        async with asyncio.timeout(10):
            while not done.is_set() and not task.done():
                await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), task.exception()

    asyncio.run(inside())


def refuse(*_: object) -> None:
    raise OSError(errno.EIO, "Input/output error")


def test_what_the_disk_refuses_is_shown_and_tried_again_also_while_it_waits(tmp_path: Path):
    """In the second before a step is tried again there is only a look, which reads the disk as well."""
    refusals = [OSError(errno.EIO, "Input/output error"), OSError(errno.EMFILE, "Too many open files")]
    left, seen = iter(refusals), []

    def look(_: Worker) -> None:
        raise next(left)

    async def two_steps(worker: Worker) -> None:
        for _ in refusals:
            await worker._step_guarded()
            (wait,) = worker._accounts.section()["waits"]
            seen.append((wait["for"], wait["reason"], worker._retry_at))

    play(tmp_path, look, two_steps)

    (first, second) = seen
    assert (first[0], "Input/output error" in first[1]) == ("retry", True)
    assert (second[0], "Too many open files" in second[1]) == ("retry", True)
    assert first[2] == second[2], "a look that fails puts the next step no further off"


def test_what_this_process_left_half_done_is_finished_before_a_node_starts(tmp_path: Path, monkeypatch):
    """Undoing it had failed as well, as the disk refused everything for a moment."""
    store, me = Store(tmp_path), Identity(cluster_uuid="u", controller_id="0", dqlite_id=100, epoch=Epoch(1, "aa"))
    seen, said = [], []

    def look(worker: Worker) -> None:
        seen.append((worker.identity, store.journal()))
        refuse()

    async def steps(worker: Worker) -> None:
        store.save_identity(me)
        store.save_journal(Journal(operation="reconfigure", dqlite_id=100, epoch=Epoch(2, "bb")))
        with monkeypatch.context() as refusing:
            refusing.setattr(worker._store, "clear_journal", refuse)
            await worker._step_guarded()
        (wait,) = worker._accounts.section()["waits"]
        said.append(wait["reason"])
        worker._retry_at = 0.0
        await worker._step_guarded()

    play(tmp_path, look, steps)

    assert "an interrupted change on disk could not be completed" in said[0]
    assert seen == [(me, None)], "nobody looked, and nothing was decided, before"

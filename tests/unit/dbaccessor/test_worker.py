"""A step that fails: shown, tried again, and never the node's end."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

from dbaccessor.worker import Worker


def test_what_the_disk_refuses_is_shown_and_tried_again_also_while_it_waits(tmp_path: Path):
    """In the second before a step is tried again there is only a look, which reads the disk as well."""
    refusals = [OSError(errno.EIO, "Input/output error"), OSError(errno.EMFILE, "Too many open files")]
    seen = []

    async def play() -> None:
        worker = Worker(tmp_path)
        left = iter(refusals)

        async def look() -> None:
            raise next(left)

        async def listen() -> None:
            return

        async def two_steps() -> None:
            for _ in refusals:
                await worker._step_guarded()
                (wait,) = worker._accounts.section()["waits"]
                seen.append((wait["for"], wait["reason"], worker._retry_at))

        worker._sight.look = look  # type: ignore[method-assign,assignment]
        worker._presence.listen = listen  # type: ignore[method-assign]
        worker._keep_deciding = two_steps  # type: ignore[method-assign]
        task = asyncio.create_task(worker.run())
        async with asyncio.timeout(10):
            while len(seen) < len(refusals) and not task.done():
                await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), task.exception()

    asyncio.run(play())

    (first, second) = seen
    assert (first[0], "Input/output error" in first[1]) == ("retry", True)
    assert (second[0], "Too many open files" in second[1]) == ("retry", True)
    assert first[2] == second[2], "a look that fails puts the next step no further off"

"""controllerd with clients of its own inside: `loadedcontrollerd.py FOLDER SEED ARGUMENTS…`.

They ask as the workers of a controller do, through the worker's own database handles: stopped with their node, woken
with it, and ended with it. What a killed one did not write down counts as indefinite. Each start is a file of its own.
They have had enough when FOLDER/enough exists; whoever has asked its last question by then says `ended`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from controller import daemon
from dbaccessor.worker import Worker
from faultrun.client import KINDS, tell

_INSIDE = ("append", "register", "late", "bank")

folder, seed = Path(sys.argv[1]), int(sys.argv[2])
name = f"inside-{Path(sys.argv[sys.argv.index('--state-dir') + 1]).name}-{os.getpid()}"
real_run = Worker.run


async def run(self: Worker) -> None:
    """The worker as it is, and clients beside it for as long as it runs."""
    async with asyncio.TaskGroup() as group:
        clients = group.create_task(ask(self))
        try:
            await real_run(self)
        finally:
            clients.cancel()


async def ask(worker: Worker) -> None:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for kind in _INSIDE:
            group.create_task(KINDS[kind](f"{name}-{kind}", seed, worker.database, stop).run())
        while not (folder / "enough").exists():
            await asyncio.sleep(0.1)
        stop.set()
    tell("ended", pid=os.getpid())


Worker.run = run  # type: ignore[method-assign]
out = os.open(folder / f"{name}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
os.dup2(out, 1)  # Where clients write what they saw; controllerd itself says everything on stderr.
raise SystemExit(daemon.main(sys.argv[3:]))

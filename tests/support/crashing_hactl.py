"""hactl that kills itself: `crashing_hactl.py K ARGUMENTS…`: SIGKILL in place of its K-th durable step (fsync)."""

from __future__ import annotations

import os
import signal
import sys

from controller import cli

limit = int(sys.argv[1])
steps = 0
real_fsync = os.fsync


def fsync(descriptor: int) -> None:
    global steps
    steps += 1
    if steps == limit:
        os.kill(os.getpid(), signal.SIGKILL)
    real_fsync(descriptor)


os.fsync = fsync
sys.argv[1:2] = []
cli.main()

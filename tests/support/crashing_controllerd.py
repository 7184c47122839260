"""controllerd that kills itself: `crashing_controllerd.py FILE K ARGUMENTS…`.

It counts the durable steps (calls of fsync) from the moment FILE is first about to be written, and sends itself SIGKILL
in place of the K-th. So each moment between two steps on disk can be reached, and nothing is cleaned up after it.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from controller import daemon
from dbaccessor import identity

trigger, limit = sys.argv[1], int(sys.argv[2])
steps = -1  # Below zero: the file was not touched yet.
real_fsync, real_replace = os.fsync, identity.replace_file


def fsync(descriptor: int) -> None:
    global steps
    if steps >= 0:
        steps += 1
        if steps == limit:
            os.kill(os.getpid(), signal.SIGKILL)
    real_fsync(descriptor)


def replace_file(path: Path, content: bytes) -> bool:
    global steps
    if path.name == trigger and steps < 0:
        steps = 0
    return real_replace(path, content)


os.fsync = fsync
identity.replace_file = replace_file
raise SystemExit(daemon.main(sys.argv[3:]))

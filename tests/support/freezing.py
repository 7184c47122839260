"""SIGSTOP for processes of many threads: when it has taken effect, and not only been sent."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from pathlib import Path
from typing import Any


def freeze(process: subprocess.Popen[Any], seconds: float = 10) -> None:
    """Send SIGSTOP and return once every thread has stopped. Raises AssertionError at the deadline.

    One thread takes the signal, when it gets a processor, and only then has the others stop. On a busy machine a node
    has written and acknowledged an entry meanwhile.
    """
    process.send_signal(signal.SIGSTOP)
    deadline = time.monotonic() + seconds
    while (states := _states(process.pid)) != {"T"}:
        assert time.monotonic() < deadline, f"process {process.pid} did not stop within {seconds:g} s: {states}"
        time.sleep(0.001)


def _states(pid: int) -> set[str]:
    """Return the states of its threads, as proc(5) has them."""
    states = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # A thread may end meanwhile.
            states.add((task / "stat").read_text().rsplit(")", 1)[1].split()[0])
    return states

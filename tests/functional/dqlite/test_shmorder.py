"""The guard of long logs is called for every connection of the process: what it must not disturb."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# A signal whose handler raises, again and again while the main thread opens connections of its own. Tells how often the
# handler was called, how often of these inside the guard, and whether each of its exceptions arrived.
_INTERRUPTED = """
import signal, sqlite3, time
from dbaccessor.dqlite import native, shmorder

assert native.load().guarded

class Told(BaseException):
    pass

raised, arrived, inside = [], [], 0

def handler(_number, frame):
    global inside
    while frame is not None:
        inside += frame.f_code.co_filename == shmorder.__file__
        frame = frame.f_back
    raised.append(Told(len(raised)))
    raise raised[-1]

signal.signal(signal.SIGALRM, handler)
deadline = time.monotonic() + 20
while inside < 20 and time.monotonic() < deadline:
    before = len(raised)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0003)
        while len(raised) == before:
            sqlite3.connect(":memory:").close()
        for _ in range(1000):
            pass
    except Told as told:
        arrived.append(told)
print(len(raised), inside, arrived == raised)
"""

_FORKED = """
import multiprocessing, sqlite3
from dbaccessor.dqlite import native

assert native.load().guarded

def child():
    with sqlite3.connect(":memory:") as own:
        assert own.execute("SELECT 1").fetchone() == (1,)

forking = multiprocessing.get_context("fork")
processes = [forking.Process(target=child) for _ in range(5)]
for process in processes:
    process.start()
for process in processes:
    process.join(20)
print([process.exitcode for process in processes])
"""


def _run(program: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=environment)


def test_an_exception_of_a_signals_handler_is_not_lost_in_the_guard():
    done = _run(_INTERRUPTED)

    assert done.returncode == 0, done.stderr
    raised, inside, all_arrived = done.stdout.split()
    if int(inside) < 1:
        pytest.skip(f"none of {raised} signals came while a connection was looked at")
    assert all_arrived == "True", done.stderr


def test_a_forked_process_opens_connections_of_its_own():
    done = _run(_FORKED)

    assert done.stdout.strip() == "[0, 0, 0, 0, 0]", done.stderr

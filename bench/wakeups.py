"""What a message to a sleeping processor costs on this machine, and how to keep the processors from sleeping.

A read that nobody else disturbs is a chain of six short wake-ups of threads. An idle processor sleeps between two of
them, and a virtual one has to be scheduled by its host again: tens of microseconds mostly, hundreds for some time now
and then. That is what the 99th percentile of such a chain shows first.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.numbers import summary

# While this is open, no processor sleeps deeper than may be left within the microseconds that were written to it
# (Linux, "PM Quality of Service Interface"). The kernel takes the wish back when its file is closed, however that is.
_DEVICE = Path("/dev/cpu_dma_latency")


@contextlib.contextmanager
def none_asleep() -> Iterator[None]:
    """Keep every processor of this machine awake. Raises OSError where that is not to be had."""
    with _DEVICE.open("wb", buffering=0) as device:
        device.write(struct.pack("i", 0))
        yield


def echo(seconds: float) -> dict[str, Any]:
    """Send a byte to another process and wait until it is back, time and again: two wake-ups each."""
    ours, theirs = socket.socketpair()
    with (
        ours,
        subprocess.Popen(
            [sys.executable, "-c", _OTHER_SIDE, str(theirs.fileno())], pass_fds=[theirs.fileno()]
        ) as other,
    ):
        theirs.close()
        ours.settimeout(10)
        try:
            _there_and_back(ours)
            taken = []
            began = time.perf_counter()
            while (start := time.perf_counter()) < began + seconds:
                _there_and_back(ours)
                taken.append(time.perf_counter() - start)
            return summary(taken, time.perf_counter() - began)
        finally:
            ours.close()
            other.wait(10)


# Ends with the connection.
_OTHER_SIDE = """
import socket, sys
with socket.socket(fileno=int(sys.argv[1])) as connection:
    while byte := connection.recv(1):
        connection.send(byte)
"""


def _there_and_back(connection: socket.socket) -> None:
    connection.send(b"x")
    if connection.recv(1) != b"x":
        raise EOFError("the other process ended")

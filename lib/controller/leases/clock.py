"""Flow 2: the clocks that leases go by. None of them can be set, so that nobody's wall clock matters.

A holder counts with one that goes on while the machine is suspended, an observer with one that does not: each errs to
the safe side.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


def _boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True)
class Clock:
    """Seconds. `wall` is for people to read and nothing is ever decided by it."""

    boottime: Callable[[], float] = _boottime
    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time

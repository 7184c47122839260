"""One owner for each state directory: controllerd while it runs, or an offline tool on a stopped one.

Two daemons on one directory would be two nodes with one identity; a repair under a running one would be worse.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = "controllerd.lock"


class Owned(RuntimeError):
    """Another process owns the state directory. The message says which directory."""


@contextmanager
def sole_owner(state_dir: Path) -> Iterator[None]:
    """Hold the state directory's lock, or raise Owned at once. The kernel lets go of it when the process ends."""
    with (state_dir / LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Owned(f"another controllerd already owns {state_dir}") from error
        yield


def is_owned(state_dir: Path) -> bool:
    """True while a process holds the lock. Changes nothing, not even where there was no lock yet."""
    try:
        with (state_dir / LOCK).open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False

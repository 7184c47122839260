"""How long the write-ahead logs of this process's own node are, read beside the library.

Since 1.18.2 the library keeps SQLite's wal-index of each database in a memory file of this process, `dqlite-shm`. Its
first bytes are SQLite's documented header (walformat.html), in this machine's byte order, twice; the log's length in
frames is one of its words. Reading it takes no lock and asks nobody. On a node that only follows the header is not
kept, and an older library keeps it on its heap: then nothing can be told.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time

_DESCRIPTORS = "/proc/self/fd"
_FILE = "/memfd:dqlite-shm"
_VERSION = 3007000
# iVersion, (3 words), mxFrame, and the rest of one of the two copies.
_HEADER = struct.Struct("=I12xI28x")
# Which files there are changes with each database that is opened first or deleted. To look takes a call for each
# descriptor, and a controller with many agents has thousands.
_LIST_SECONDS = 5.0


class WalIndexes:
    """The wal-indexes of all databases."""

    def __init__(self) -> None:
        self._files: dict[int, tuple[int, int]] = {}
        self._listed_at = float("-inf")

    def frames(self) -> int | None:
        """Return how many frames the longest log has, None where none can be seen."""
        now = time.monotonic()
        known = self._known()
        if not known or now - self._listed_at >= _LIST_SECONDS:
            self._listed_at = now
            # Where no descriptor is left to look with, the files are those of before; what is no file of theirs any
            # more is told by its identity.
            with contextlib.suppress(OSError):
                self._files = _list()
            known = self._known()
        return max(known, default=None)

    def _known(self) -> list[int]:
        return [found for fd, identity in self._files.items() if (found := _frames(fd, identity)) is not None]


def _list() -> dict[int, tuple[int, int]]:
    """Return the descriptors of the files, each with what tells whether it is still the same file."""
    found = {}
    # Not through Path, which takes several times as long.
    for name in os.listdir(_DESCRIPTORS):  # noqa: PTH208
        with contextlib.suppress(OSError):
            if os.readlink(f"{_DESCRIPTORS}/{name}").startswith(_FILE):  # noqa: PTH115
                state = os.fstat(int(name))
                found[int(name)] = state.st_dev, state.st_ino
    return found


def _frames(fd: int, identity: tuple[int, int]) -> int | None:
    """Return the length of one log, None if the file is another by now or its header is not valid at this moment."""
    try:
        state = os.fstat(fd)
        if (state.st_dev, state.st_ino) != identity:
            return None
        both = os.pread(fd, 2 * _HEADER.size, 0)
    except OSError:
        return None
    if len(both) < 2 * _HEADER.size or both[: _HEADER.size] != both[_HEADER.size :]:
        return None
    version, frames = _HEADER.unpack(both[: _HEADER.size])
    return int(frames) if version == _VERSION else None

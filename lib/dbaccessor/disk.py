"""Whether the disk can take what the node is going to write.

A node whose disk is full answers every question and appends nothing: the others go on without it (a leader is even
deposed), but as a voter it counts for nothing. So it says so before it happens, to the operator and to the others.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

log = logging.getLogger(__name__)

# Raft prepares its log in segments of 8 MiB, two ahead of the one it writes.
_NEEDED_BYTES = 24 << 20


class Disk:
    """The file system of one directory. `problem` is one sentence, "" while there is room."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.problem = ""

    def look(self) -> None:
        """Bring `problem` up to date."""
        try:
            free = shutil.disk_usage(self._directory).free
        except OSError as error:
            problem = f"{self._directory} cannot be asked for its free space: {error.strerror or error}"
        else:
            problem = ""
            if free < _NEEDED_BYTES:
                problem = (
                    f"{free >> 20} MiB are free on the file system of {self._directory},"
                    f" and Dqlite's log needs {_NEEDED_BYTES >> 20}"
                )
        if bool(problem) != bool(self.problem):
            log.log(logging.ERROR if problem else logging.INFO, "%s", problem or "the disk has room again")
        self.problem = problem

"""What a cloud did, line by line in a file that only grows. It is what a test judges by, whatever anybody else claims.

| event | means |
|---|---|
| asked-start, asked-stop | somebody asked; `by` says who |
| start | from this moment on an instance exists |
| running | it is up, at `address` |
| stop | it is being ended, because somebody asked |
| stopped | nothing of it is left, because somebody asked |
| failed, lost | nothing of it is left: it never came up; it went down by itself |
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class CloudLog:
    """One file, opened for appending; each line is there when `add` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def add(self, event: str, uuid: str, **facts: Any) -> None:
        """Write one line. `at` is on the monotonic clock that all processes of a machine share."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = {"at": time.monotonic(), "time": now, "event": event, "uuid": uuid, **facts}
        os.write(self._file, json.dumps(line).encode() + b"\n")


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield what was logged so far; nothing when there is no log."""
    if path.exists():
        for line in path.read_bytes().splitlines():
            yield json.loads(line)

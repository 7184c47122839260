"""The model's log: what juju-log, hooks' own output and the agents said, in Juju's line format. Bounded."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_MOST = 50_000
LEVELS = ("TRACE", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


@dataclass(frozen=True)
class Record:
    number: int
    when: float
    unit: str  # "" for the model itself.
    level: str
    source: str
    message: str

    def line(self) -> str:
        entity = "controller-0" if not self.unit else "unit-" + self.unit.replace("/", "-")
        module = f"unit.{self.unit}.{self.source}" if self.unit else f"localjuju.{self.source}"
        clock = time.strftime("%H:%M:%S", time.localtime(self.when))
        return f"{entity}: {clock} {self.level} {module} {self.message}"


class DebugLog:
    """The newest records in memory, all of them in the file."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._records: collections.deque[Record] = collections.deque(maxlen=_MOST)
        self._file = path.open("a", buffering=1)
        self._clock = clock
        self._next = 1

    def close(self) -> None:
        self._file.close()

    def add(self, unit: str, level: str, source: str, message: str) -> None:
        level = level.upper() if level.upper() in LEVELS else "INFO"
        for line in message.splitlines() or [""]:
            record = Record(self._next, self._clock(), unit, level, source, line)
            self._next += 1
            self._records.append(record)
            self._file.write(record.line() + "\n")

    def since(self, number: int, unit: str = "", level: str = "TRACE") -> Iterator[Record]:
        """Records after *number*, at least that severe, of one unit if one is named."""
        least = LEVELS.index(level)
        for record in self._records:
            if record.number > number and LEVELS.index(record.level) >= least and unit in ("", record.unit):
                yield record

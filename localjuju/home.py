"""The folder of a run: its sockets, logs and the disks of its units; and how to remove exactly that again.

Nothing here needs the daemon, so that a crashed run can be cleaned up by whoever comes next.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MARK = ".localjuju"
# A path under one of these would lie inside a layer that every unit's host covers.
_COVERED = ("/etc", "/usr/local", "/opt", "/srv", "/var/log", "/run", "/proc", "/sys", "/dev")


class BadHome(Exception):
    """The folder cannot be used as a home; the text says why."""


@dataclass(frozen=True)
class Run:
    """Who keeps a run alive. The start time guards against a pid that was given to another process."""

    watcher: int
    init: int
    init_started: str


@dataclass(frozen=True)
class Home:
    path: Path

    @property
    def log(self) -> Path:
        return self.path / "daemon.log"

    @property
    def debug_log(self) -> Path:
        return self.path / "debug.log"

    @property
    def cloud_log(self) -> Path:
        return self.path / "cloud.log"

    @property
    def machines(self) -> Path:
        return self.path / "machines"

    @property
    def volatile(self) -> Path:
        return self.path / "volatile"

    @property
    def charms(self) -> Path:
        return self.path / "charms"

    def prepare(self) -> None:
        """Make the folder ours, or raise BadHome: never adopt a folder that holds other things."""
        real = self.path.resolve()
        for covered in _COVERED:
            if real.is_relative_to(covered):
                raise BadHome(f"{real} lies under {covered}, which each unit's host replaces; choose another --home")
        mark = self.path / _MARK
        if self.path.is_dir() and not mark.exists() and any(self.path.iterdir()):
            raise BadHome(f"{self.path} is not empty and was not made by localjuju")
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path.chmod(0o700)
        mark.write_text("A run of localjuju lives here. `localjuju destroy` removes it.\n")

    @contextlib.contextmanager
    def lock(self) -> Iterator[bool]:
        """Hold the home's lock, or yield False when a watcher holds it."""
        fd = os.open(self.path / _MARK, os.O_RDWR | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(fd)

    def is_locked(self) -> bool:
        """Whether a watcher holds this home now."""
        try:
            with self.lock() as free:
                return not free
        except FileNotFoundError:
            return False  # There is no home, or a watcher that ends is removing it at this moment.

    def write_run(self, run: Run) -> None:
        temporary = self.path / "run.json.new"
        temporary.write_text(json.dumps(run.__dict__))
        temporary.rename(self.path / "run.json")

    def read_run(self) -> Run | None:
        """The living run of this home; None when there is none (a stale file counts as none)."""
        try:
            run = Run(**json.loads((self.path / "run.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return run if started(run.init) == run.init_started else None

    def remove(self) -> None:
        """Remove the run's files and, if nothing else is in it, the folder. Other people's files stay."""
        if not (self.path / _MARK).exists():
            return
        for folder in (self.machines, self.volatile, self.charms):
            shutil.rmtree(folder, ignore_errors=True)
        for name in ("api.socket", "run.json", "run.json.new", "daemon.log", "debug.log", "cloud.log", _MARK):
            (self.path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()


def default_path() -> Path:
    base = os.environ.get("LOCALJUJU_HOME")
    if base:
        return Path(base).absolute()
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "localjuju"


def started(pid: int) -> str:
    """When a process started, in the kernel's words; "" for one that is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


def listen(path: Path) -> socket.socket:
    """A listening unix socket. Goes through the folder's descriptor: a socket's own path may have 107 bytes only."""
    path.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder = os.open(path.parent, os.O_PATH)
    try:
        server.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)
    server.listen(128)
    server.setblocking(False)
    return server


def connect(path: Path, timeout_seconds: float) -> socket.socket:
    """A connection to such a socket. Raises OSError when nobody listens."""
    folder = os.open(path.parent, os.O_PATH)
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(timeout_seconds)
    try:
        client.connect(f"/proc/self/fd/{folder}/{path.name}")
    except OSError:
        client.close()
        raise
    finally:
        os.close(folder)
    return client

"""Flow 3, hop 4: the file agent.conf. Read as it is, replaced as a whole, and never by two at a time.

The agent is not alone with its file: a second process of it, a provisioner or a repair may write too. So a change is
made under a lock beside the file, on what the file holds then, and nothing is written when nothing changes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from controller.api.agent import agentconf
from controller.api.agent.agentconf import AgentConf, AgentConfError, BadAgentConf

# What an agent needs is a few kilobytes, certificates included.
_MOST_BYTES = 1 << 20
_LOOK_SECONDS = 0.02


class Locked(AgentConfError):
    """Another process holds the lock for too long. Nothing was changed; the message names the lock."""


class Unreadable(AgentConfError):
    """The file is not there, or the system does not let it be read or written. Nothing was changed."""


class AgentConfFile:
    """One agent.conf. Its calls block for as long as the disk does: not for an event loop."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # What was read last. A change of the list reads the file several times, and YAML is slow to read.
        self._last: AgentConf | None = None

    def read(self) -> AgentConf:
        """Return what the file holds now. Raises Unreadable, BadAgentConf or NewerFormat."""
        try:
            with self.path.open("rb") as file:
                raw = file.read(_MOST_BYTES + 1)
        except FileNotFoundError:
            raise Unreadable(f"{self.path} is not there: enrol this machine first") from None
        except OSError as error:
            raise Unreadable(f"{self.path} cannot be read: {error.strerror}") from error
        if len(raw) > _MOST_BYTES:
            raise BadAgentConf(f"{self.path} is larger than {_MOST_BYTES} bytes: that is no agent.conf")
        last = self._last
        try:
            text = raw.decode()
            if last is None or last.text != text:
                last = self._last = agentconf.parse(text)
            return last
        except UnicodeDecodeError:
            raise BadAgentConf(f"{self.path} is not text") from None
        except AgentConfError as error:
            raise type(error)(f"{self.path}: {error}") from error

    def update(self, change: Callable[[AgentConf], AgentConf], *, limit_seconds: float = 5.0) -> tuple[AgentConf, bool]:
        """Make the file what `change` makes of it. Return what it holds now, and whether it was written.

        Raises what `read` and `change` raise, Locked, or Unreadable; then the file is as it was.
        """
        with self._lock(limit_seconds):
            before = self.read()
            after = change(before)
            try:
                if after.text == before.text:
                    self._narrow()
                    return before, False
                self._replace(after.text.encode())
            except OSError as error:
                raise Unreadable(f"{self.path} cannot be written: {error.strerror}") from error
            self._last = after
            return after, True

    @contextlib.contextmanager
    def _lock(self, limit_seconds: float) -> Iterator[None]:
        """The kernel lets go of the lock when its holder ends, so a lock file that was left behind is none."""
        path = self.path.with_name(f"{self.path.name}.lock")
        deadline = time.monotonic() + limit_seconds
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise Unreadable(f"{path} cannot be opened: {error.strerror}") from error
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise Locked(f"another process has held {path} for {limit_seconds:g} s") from None
                    time.sleep(_LOOK_SECONDS)
            yield
        finally:
            os.close(descriptor)

    def _narrow(self) -> None:
        """It holds a password: nobody but its owner is to read it."""
        if stat.S_IMODE(self.path.stat().st_mode) & 0o077:
            self.path.chmod(0o600)

    def _replace(self, content: bytes) -> None:
        path = self.path.resolve()  # A link stays a link.
        owner = path.stat()
        # Of one name, so that what a killed process left behind is overwritten: whoever writes has the lock.
        temporary = path.with_name(f".{path.name}.new")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                if os.geteuid() == 0:
                    os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _fsync_directory(path.parent)


def _fsync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

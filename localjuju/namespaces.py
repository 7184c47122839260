"""The kernel's side of isolation: new namespaces, mounts, and children that cannot outlive their parent.

Namespaces are held by processes only and never named, so nothing is left of them once those processes are gone.
Python 3.11 has neither os.unshare nor os.setns, hence ctypes.
"""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path
from typing import NoReturn

NEW_MOUNTS = 0x00020000
NEW_HOSTNAME = 0x04000000
NEW_IPC = 0x08000000
NEW_PIDS = 0x20000000
NEW_NETWORK = 0x40000000

READ_ONLY = 0x1
NO_SUID = 0x2
NO_DEV = 0x4
REMOUNT = 0x20
BIND = 0x1000
RECURSIVE = 0x4000
PRIVATE = 0x40000

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def unshare(flags: int) -> None:
    """Give this process new namespaces (of pids: give them to its future children)."""
    _check(_libc.unshare(flags), "unshare")


def mount(source: str | None, target: Path | str, kind: str | None = None, flags: int = 0, data: str = "") -> None:
    """mount(2). Raises OSError naming the target."""
    encoded = [os.fsencode(source) if source else None, os.fsencode(target), kind.encode() if kind else None]
    _check(
        _libc.mount(*encoded, ctypes.c_ulong(flags), data.encode() if data else None),
        f"mount {kind or source} on {target}",
    )


def bind(source: Path | str, target: Path | str, *, read_only: bool = False) -> None:
    """Show *source* at *target* too."""
    mount(str(source), target, flags=BIND)
    if read_only:
        mount(None, target, flags=REMOUNT | BIND | READ_ONLY)


def set_hostname(name: str) -> None:
    raw = name.encode()
    _check(_libc.sethostname(raw, len(raw)), "sethostname")


def die_with_parent() -> None:
    """SIGKILL for this process as soon as the thread that forked it is gone."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")


def fork_pid1() -> tuple[int, bool]:
    """Fork a child that is pid 1 of a new pid namespace, with new net, mount, uts and ipc namespaces.

    Returns (pid, is_child). The child dies with the caller, and everything in its pid namespace dies with it; no mount
    it makes is seen outside. The caller must have one thread only, and may fork nothing else afterwards.
    """
    unshare(NEW_PIDS)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(reader)
        os.write(writer, b"!")
        os.close(writer)
        return pid, False
    os.close(writer)
    die_with_parent()
    # Had the parent died before the line above, no signal would ever come: its end of the pipe tells.
    if os.read(reader, 1) != b"!":
        os._exit(1)
    os.close(reader)
    unshare(NEW_MOUNTS | NEW_NETWORK | NEW_HOSTNAME | NEW_IPC)
    mount(None, "/", flags=PRIVATE | RECURSIVE)
    return os.getpid(), True


def exit_as(status: int) -> NoReturn:
    """End this process the way a child with this wait status ended (a signal becomes 128 + its number)."""
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)

"""Which machine this is, as whoever made it wrote it down, and what the agent that runs here says of itself.

Both files lie in agentd's state directory. The provisioner makes the first one for a new machine.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path

import msgspec

STATE_DIR = Path("/var/lib/ha-agent")
MACHINE = "machine.json"
AGENT = "agentd.json"
SCHEMA = 1


class Machine(msgspec.Struct, frozen=True, rename="kebab", kw_only=True):
    """machine.json: which machine of which model this is."""

    schema: int = SCHEMA
    uuid: str
    number: int
    model: str


class Running(msgspec.Struct, frozen=True, rename="kebab", kw_only=True):
    """agentd.json: the agent that runs, or ran last."""

    schema: int = SCHEMA
    uuid: str
    hostname: str
    pid: int
    started: str


class Unknown(Exception):
    """There is no machine.json here that says which machine this is; the text says what is wrong with it."""


def read_machine(state_dir: Path) -> Machine:
    """Return which machine this is. Raises Unknown."""
    path = state_dir / MACHINE
    try:
        machine = msgspec.json.decode(path.read_bytes(), type=Machine)
    except (OSError, msgspec.DecodeError) as error:
        raise Unknown(f"{path} does not say which machine this is: {error}") from None
    if machine.schema > SCHEMA:
        raise Unknown(f"{path} has layout {machine.schema}, and this agentd knows {SCHEMA}: it needs a newer one")
    return machine


def write_running(state_dir: Path, running: Running) -> None:
    """Replace agentd.json as a whole."""
    temporary = state_dir / f".{AGENT}.new"
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(running) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(state_dir / AGENT)


def introduce(state_dir: Path, machine: Machine) -> None:
    """Write down that this process is that machine's agent."""
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    write_running(
        state_dir, Running(uuid=machine.uuid, hostname=socket.gethostname(), pid=os.getpid(), started=started)
    )

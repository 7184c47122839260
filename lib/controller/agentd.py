"""agentd: one machine's daemon. It says which machine this is, and lives until it is told to stop.

It is no controller and knows no Dqlite. `machine.json` in its state directory is written by whoever made the machine;
`agentd.json` beside it is what agentd says of itself, rewritten at every start. It ends with

| status | meaning |
|---|---|
| 0 | told to stop (SIGTERM, SIGINT) |
| 1 | it does not know which machine this is; the log says why |
| 2 | wrong usage |
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path

import msgspec

log = logging.getLogger("agentd")

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


async def run(state_dir: Path) -> None:
    """Be this machine's agent until told to stop. Raises Unknown."""
    machine = read_machine(state_dir)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    hostname = socket.gethostname()
    write_running(state_dir, Running(uuid=machine.uuid, hostname=hostname, pid=os.getpid(), started=started))
    log.info("machine %d of model %s (%s) on %s", machine.number, machine.model, machine.uuid, hostname)
    await stop.wait()
    log.info("told to stop")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="agentd", description="Be the agent of one machine of a model.")
    parser.add_argument("--state-dir", type=Path, default=STATE_DIR, help=f"default: {STATE_DIR}")
    options = parser.parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
        stream=sys.stderr,
    )
    logging.Formatter.converter = time.gmtime
    try:
        asyncio.run(run(options.state_dir))
    except (Unknown, OSError) as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

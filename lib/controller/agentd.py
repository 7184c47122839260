"""agentd: one machine's daemon. It stays connected to a controller, and keeps the list of them in agent.conf.

It is no controller and knows no Dqlite; what it does is in controller/api/agent/. Its state directory holds

| file | what |
|---|---|
| machine.json | which machine of which model this is, by whoever made it; one that an operator enrolled has none |
| agent.conf | who the agent is and where the controllers are; it waits for one that is not there yet |
| agentd.json | what runs here, written at each start |
| agentd-state.json | what it is connected to, or why it is not; there while it runs |

It runs in the foreground under a service manager, logs to stderr, and ends with

| status | meaning |
|---|---|
| 0 | told to stop (SIGTERM, SIGINT); with --status: connected |
| 1 | it does not know which machine this is, or something that a restart may cure; the log says what |
| 2 | wrong usage |
| 5 | with --status: no controller is reached, or no agentd runs; it says which |
| 75 | another agentd has this state directory |
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import logging
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from controller import __version__, ownmachine
from controller.api.agent.agent import STATE_FILE, Agent
from controller.api.agent.agentconf import FILE_NAME

log = logging.getLogger("agentd")

_LOCK = "agentd.lock"
_UNREACHABLE = 5
_ALREADY_RUNS = 75


class AlreadyRuns(Exception):
    """Another agentd has this state directory."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="agentd", description="Be the agent of one machine.")
    parser.add_argument("--state-dir", type=Path, metavar="DIR", help=f"default: {ownmachine.STATE_DIR}")
    parser.add_argument("--agent-conf", type=Path, metavar="PATH", help=f"default: {FILE_NAME} in the state directory")
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    parser.add_argument("--status", action="store_true", help="print what the running agentd is connected to, as JSON")
    options = parser.parse_args(arguments)
    beside = None if options.agent_conf is None else options.agent_conf.parent
    state_dir: Path = options.state_dir or beside or ownmachine.STATE_DIR
    if options.status:
        return _status(state_dir)
    logging.basicConfig(
        level=options.log_level.upper(),
        format="%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
        stream=sys.stderr,
    )
    logging.Formatter.converter = time.gmtime
    try:
        with _only_one(state_dir):
            _be(state_dir, options.agent_conf or state_dir / FILE_NAME)
    except AlreadyRuns as error:
        log.error("%s", error)
        return _ALREADY_RUNS
    except (ownmachine.Unknown, OSError) as error:
        log.error("%s", error)
        return 1
    except BaseExceptionGroup as group:
        for member in group.exceptions:
            log.error("agentd ends: %s", member, exc_info=member)
        return 1
    return 0


def _be(state_dir: Path, agent_conf: Path) -> None:
    """Be this machine's agent until told to stop. Raises Unknown."""
    log.info("agentd %s, %s", __version__, agent_conf)
    needed = (state_dir / ownmachine.MACHINE).exists() or not agent_conf.exists()
    machine = ownmachine.read_machine(state_dir) if needed else None
    asyncio.run(_run(Agent(agent_conf, state_dir / STATE_FILE), state_dir, machine))


async def _run(agent: Agent, state_dir: Path, machine: ownmachine.Machine | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    if machine is not None:  # Said only now: whoever reads it may tell it to stop.
        ownmachine.introduce(state_dir, machine)
        log.info("machine %d of model %s (%s)", machine.number, machine.model, machine.uuid)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(agent.run())
        await stop.wait()
        log.info("told to stop")
        running.cancel()


@contextlib.contextmanager
def _only_one(state_dir: Path) -> Iterator[None]:
    """Hold the state directory's lock, or raise AlreadyRuns at once. The kernel lets go of it when the process ends."""
    with (state_dir / _LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyRuns(f"another agentd already has {state_dir}") from error
        yield


def _status(state_dir: Path) -> int:
    try:
        with (state_dir / _LOCK).open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        print(f"no agentd runs in {state_dir}", file=sys.stderr)
        return _UNREACHABLE
    except OSError as error:
        if not isinstance(error, BlockingIOError):
            print(f"no agentd ever ran in {state_dir}: {error.strerror}", file=sys.stderr)
            return _UNREACHABLE
    try:
        text = (state_dir / STATE_FILE).read_bytes()
        connected = msgspec.json.decode(text)["caller"]["connected"]
    except (OSError, msgspec.DecodeError, KeyError, TypeError):
        print(f"agentd has written no {STATE_FILE} in {state_dir} yet; ask again", file=sys.stderr)
        return _UNREACHABLE
    sys.stdout.write(text.decode())
    return 0 if connected else _UNREACHABLE


if __name__ == "__main__":
    raise SystemExit(main())

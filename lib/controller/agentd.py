"""agentd: the agent of one machine. It imports no Dqlite; what it does is in controller/api/agent/.

It runs in the foreground under a service manager, logs to stderr, and ends with

| status | meaning |
|---|---|
| 0 | told to stop (SIGTERM, SIGINT); with --status: connected |
| 1 | something a restart may cure; the log says what |
| 2 | wrong usage |
| 5 | with --status: no controller is reached, or no agentd runs; it says which |
| 75 | another agentd has this agent.conf |
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

from controller import __version__
from controller.api.agent.agent import STATE_FILE, Agent

log = logging.getLogger("agentd")

AGENT_CONF = Path("/var/lib/ha-controller-agent/agent.conf")
_LOCK = "agentd.lock"
_UNREACHABLE = 5
_ALREADY_RUNS = 75


class AlreadyRuns(Exception):
    """Another agentd has this agent.conf."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="agentd", description="Run the agent of one machine.")
    parser.add_argument("--agent-conf", type=Path, default=AGENT_CONF, metavar="PATH", help=f"default: {AGENT_CONF}")
    parser.add_argument("--state-file", type=Path, metavar="PATH", help=f"default: {STATE_FILE} beside agent.conf")
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    parser.add_argument("--status", action="store_true", help="print what the running agentd is connected to, as JSON")
    options = parser.parse_args(arguments)
    state_file = options.state_file or options.agent_conf.with_name(STATE_FILE)
    if options.status:
        return _status(options.agent_conf, state_file)
    logging.basicConfig(
        level=options.log_level.upper(),
        format="%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
        stream=sys.stderr,
    )
    logging.Formatter.converter = time.gmtime
    try:
        with _only_one(options.agent_conf):
            log.info("agentd %s, %s", __version__, options.agent_conf)
            asyncio.run(_run(Agent(options.agent_conf, state_file)))
    except AlreadyRuns as error:
        log.error("%s", error)
        return _ALREADY_RUNS
    except OSError as error:
        log.error("%s", error)
        return 1
    except BaseExceptionGroup as group:
        for member in group.exceptions:
            log.error("agentd ends: %s", member, exc_info=member)
        return 1
    return 0


async def _run(agent: Agent) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(agent.run())
        await stop.wait()
        log.info("told to stop")
        running.cancel()


@contextlib.contextmanager
def _only_one(agent_conf: Path) -> Iterator[None]:
    """Hold this agent.conf's lock, or raise AlreadyRuns at once. The kernel lets go of it when the process ends."""
    with agent_conf.with_name(_LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyRuns(f"another agentd already has {agent_conf}") from error
        yield


def _status(agent_conf: Path, state_file: Path) -> int:
    try:
        with agent_conf.with_name(_LOCK).open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        print(f"no agentd runs for {agent_conf}", file=sys.stderr)
        return _UNREACHABLE
    except FileNotFoundError:
        print(f"no agentd ever ran for {agent_conf}", file=sys.stderr)
        return _UNREACHABLE
    except BlockingIOError:
        pass  # It runs.
    try:
        text = state_file.read_bytes()
        connected = msgspec.json.decode(text)["caller"]["connected"]
    except (OSError, msgspec.DecodeError, KeyError, TypeError):
        print(f"agentd for {agent_conf} has written no {state_file.name} yet; ask again", file=sys.stderr)
        return _UNREACHABLE
    sys.stdout.write(text.decode())
    return 0 if connected else _UNREACHABLE


if __name__ == "__main__":
    raise SystemExit(main())

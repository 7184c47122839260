"""controllerd: one controller's daemon: start-up, signals and exit codes. What it runs stands in manifolds.py.

It runs in the foreground under a service manager, logs to stderr, and ends with

| status | meaning |
|---|---|
| 0 | told to stop (SIGTERM, SIGINT); leadership was handed over if there was somebody to take it |
| 1 | something a restart may cure; the log says what |
| 2 | wrong usage |
| 75 | another controllerd owns the state directory |
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from prometheus_client.metrics_core import Metric

from controller import answering, leasemetrics, manifolds, node, plugins
from controller.api import apiserver
from controller.api.apiserver import ApiServer
from controller.api.pages import Sources
from controller.engine import Engine, Missing
from controller.enginemetrics import EngineMetrics
from controller.node import Fatal, Node
from controller.noderoutes import NodeRoutes
from controller.notifier import Notifier
from controller.plugins import Plugins
from controller.routes import DatabaseRoutes
from controller.sockets import Sockets
from controller.workers import machinemetrics
from dbaccessor import errors, process, soleowner
from dbaccessor.dqlite import native
from dbaccessor.identity import BrokenFile, NewerFile
from dbaccessor.preamble import Outcome

log = logging.getLogger("controllerd")

STATE_DIR = Path("/var/lib/ha-controller")

# What a worker may take to end before those that it needs are stopped all the same. The service manager kills after 40.
_ABANDON_SECONDS = 12.0
_LEFT_SECONDS = 1.0
# What the workers may take to give up what is held here, before this controller leaves all the same.
_WITHDRAW_SECONDS = 4.0
_LOOK_SECONDS = 0.05
_ALREADY_RUNS = 75


class Daemon:
    """The engine, its sockets and its signals, for one state directory. Create it inside the loop that runs it."""

    def __init__(self, state_dir: Path, version: str, library: native.Library) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._stop = asyncio.Event()
        self._node = own = Node(state_dir)
        notifier = Notifier(shlex.split(os.environ.get("HA_CONTROLLER_NOTIFY", "")))
        own.worker.charm_news.notify = notifier.ask
        facts = {"version": version, "dqlite-version": library.version, "dqlite-proven": library.proven}
        asked = NodeRoutes(own.worker, loop, facts, self.report, self._counted, self._address_notes, self._leave)
        control = {
            **asked.control(),
            **DatabaseRoutes(own.worker, loop, version, library.version).routes(),
            **answering.handlers(manifolds.ROUTES, lambda name: self._engine.output(name), loop),
        }
        doors = Sockets(state_dir, asked.configchange(), control)
        self._metrics = EngineMetrics()
        pages = Sources(asked.unwell, asked.metrics, asked.report, asked.status)
        self._plugins = Plugins(plugins.CONTROLLER_GROUP)
        table = manifolds.controller_manifolds(
            own, doors, notifier, pages, Plugins(plugins.MODEL_GROUP), self._metrics.counting("model")
        )
        self._engine = Engine(
            self._plugins.merge(table),
            is_fatal=lambda error: isinstance(error, Fatal),
            on_start=self._metrics.counting("controller"),
            abandon_seconds=lambda name: math.inf if name == node.NAME else _ABANDON_SECONDS,
        )

    async def run(self) -> None:
        """Run the engine until told to stop. Raises Fatal. What was left behind may still run then."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop.set)
        engine = asyncio.create_task(self._engine.run(), name="engine")
        stop = asyncio.create_task(self._stop.wait(), name="stop")
        await asyncio.wait((engine, stop), return_when=asyncio.FIRST_COMPLETED)
        if not engine.done():
            log.info("told to stop")
            engine.cancel()
        stop.cancel()
        await asyncio.gather(engine, stop, return_exceptions=True)
        if self._engine.failure is not None:
            raise self._engine.failure
        if not engine.cancelled():
            engine.result()

    def report(self) -> dict[str, Any]:
        """Return the engine's report and what became of the plugins (docs/reference/metrics.md)."""
        return {**self._engine.report(), "plugins": self._plugins.report()}

    async def _leave(self) -> Outcome:
        """Leave the cluster for good, once nothing here is responsible for anything any more."""
        self._node.databases.withdraw()
        deadline = self._loop.time() + _WITHDRAW_SECONDS
        while self._runs(manifolds.LEASES):
            if self._loop.time() >= deadline:
                log.warning("leaving, though the leases are not given up after %g s", _WITHDRAW_SECONDS)
                break
            await asyncio.sleep(_LOOK_SECONDS)
        outcome = await self._node.worker.leave()
        if not outcome.done:
            self._node.databases.offer_again()
        return outcome

    def _address_notes(self) -> tuple[str, ...]:
        try:
            served = self._engine.output(apiserver.NAME)
        except Missing:
            return ()
        return served.address_notes if isinstance(served, ApiServer) else ()

    def _runs(self, name: str) -> bool:
        return bool(self._engine.report()["manifolds"][name]["state"] in ("started", "stopping"))

    def _counted(self) -> Iterator[Metric]:
        report = self._engine.report()
        yield from self._metrics.collect(report)
        yield from leasemetrics.collect(report)
        yield from machinemetrics.collect(report)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="controllerd", description="Run one controller of an HA Controller cluster.")
    parser.add_argument("--state-dir", type=Path, default=STATE_DIR, help=f"default: {STATE_DIR}")
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    options = parser.parse_args(arguments)
    logging.basicConfig(
        level=options.log_level.upper(),
        format="%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
        stream=sys.stderr,
    )
    logging.Formatter.converter = time.gmtime
    options.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    process.prepare()
    try:
        library = native.load()
        with soleowner.sole_owner(options.state_dir):
            log.info("controllerd %s, libdqlite %s, %s", _version(), library.version, options.state_dir)
            _run(lambda: Daemon(options.state_dir, _version(), library))
    except soleowner.Owned as error:
        log.error("%s", error)
        return _ALREADY_RUNS
    except (errors.DbAccessorError, NewerFile, BrokenFile, OSError) as error:
        log.error("%s", error)
        return 1
    except Fatal as error:
        log.error("controllerd ends: %s", error, exc_info=error.__cause__)
        return 1
    return 0


def _run(make: Callable[[], Daemon]) -> None:
    async def inside() -> None:
        try:
            await make().run()
        finally:
            await _end_what_is_left()

    asyncio.run(inside())


async def _end_what_is_left() -> None:
    """End the process here if a task does not end: the loop would wait for it for ever, and the node has stopped."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if not left:
        return
    _, pending = await asyncio.wait(left, timeout=_LEFT_SECONDS)
    if pending:
        log.error("ending without these, which do not: %s", ", ".join(sorted(task.get_name() for task in pending)))
        logging.shutdown()
        os._exit(1)


def _version() -> str:
    try:
        return metadata.version("ha-controller")
    except metadata.PackageNotFoundError:  # Run from a charm's lib/ folder.
        return "0.1.0"


if __name__ == "__main__":
    raise SystemExit(main())

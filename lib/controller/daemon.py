"""controllerd: one controller's daemon. Where the flows meet: sockets in, the dbaccessor worker, signals out.

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
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import TimeoutError as FutureTimeout
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from controller.routes import DatabaseRoutes
from dbaccessor import confsocket, errors, metrics, soleowner
from dbaccessor.dqlite import native
from dbaccessor.identity import BrokenFile, NewerFile
from dbaccessor.worker import Worker

log = logging.getLogger("controllerd")

STATE_DIR = Path("/var/lib/ha-controller")
STATUS_SCHEMA = 1

_NOTIFY_PAUSE_SECONDS = 2.0
_NOTIFY_LIMIT_SECONDS = 120.0
_LEAVE_LIMIT_SECONDS = 35.0
_STATUS_LIMIT_SECONDS = 5.0
_REBUILD_LIMIT_SECONDS = 60.0
_ALREADY_RUNS = 75


class Notifier:
    """Asks the charm for a hook when the db-state changed: optional, one at a time, and not more often than needed."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._due = asyncio.Event()

    def ask(self) -> None:
        self._due.set()

    async def run(self) -> None:
        if not self._command:
            return
        while True:
            await self._due.wait()
            self._due.clear()
            await self._once()
            # What changes in quick succession (roles settling) becomes one hook.
            await asyncio.sleep(_NOTIFY_PAUSE_SECONDS)

    async def _once(self) -> None:
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL
            )
        except OSError as error:
            log.warning("cannot run %s: %s; update-status will do", self._command[0], error)
            return
        try:
            async with asyncio.timeout(_NOTIFY_LIMIT_SECONDS):
                status = await process.wait()
            if status:
                log.warning("%s ended with %d; update-status will do", self._command[0], status)
        except TimeoutError:
            log.warning("%s took more than %g s", self._command[0], _NOTIFY_LIMIT_SECONDS)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


class _Rebuild(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    force: bool = False


class Daemon:
    """The worker, its sockets and its signals, for one state directory."""

    def __init__(self, state_dir: Path, version: str, library: native.Library) -> None:
        self._state_dir = state_dir
        self._version = version
        self._library = library
        self._loop = asyncio.get_running_loop()
        self._worker = Worker(state_dir)
        self._notifier = Notifier(shlex.split(os.environ.get("HA_CONTROLLER_NOTIFY", "")))
        self._worker.charm_news.notify = self._notifier.ask
        self._stop = asyncio.Event()

    async def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop.set)
        with (
            confsocket.Server(self._state_dir / confsocket.CONFIG_CHANGE, self._configchange_routes()),
            confsocket.Server(self._state_dir / confsocket.CONTROL, self._control_routes()),
        ):
            async with asyncio.TaskGroup() as group:
                worker = group.create_task(self._worker.run())
                notifier = group.create_task(self._notifier.run())
                await self._stop.wait()
                log.info("told to stop")
                await self._worker.stop()
                if self._worker.stuck:
                    # A thread waits inside the library for ever; leaving it behind is the only way to end.
                    log.error("the node did not come to an orderly end; ending without it")
                    logging.shutdown()
                    os._exit(1)
                worker.cancel()
                notifier.cancel()

    async def status(self) -> dict[str, Any]:
        """Return the status document of docs/reference/status.md."""
        return {
            "schema": STATUS_SCHEMA,
            "version": self._version,
            "dqlite-version": self._library.version,
            "dqlite-proven": self._library.proven,
            **self._worker.status(),
        }

    async def report(self) -> dict[str, Any]:
        """Return the engine's report of the one worker there is so far (docs/reference/metrics.md)."""
        return {"manifolds": {"db-accessor": {"report": self._worker.report()}}}

    # The handlers run on the sockets' threads.

    def _configchange_routes(self) -> dict[tuple[str, str], confsocket.Handler]:
        return {("POST", "/reload"): self._reload, ("GET", "/agent-id"): self._agent_id}

    def _control_routes(self) -> dict[tuple[str, str], confsocket.Handler]:
        return {
            ("GET", "/healthz"): lambda _: (200, "text/plain", b"ok\n"),
            ("GET", "/status"): lambda _: _json(self._call(self.status(), _STATUS_LIMIT_SECONDS)),
            ("GET", "/report"): lambda _: _json(self._call(self.report(), _STATUS_LIMIT_SECONDS)),
            ("GET", "/metrics"): self._metrics,
            ("GET", "/db-state"): self._db_state,
            ("POST", "/leave"): self._leave,
            ("POST", "/rebuild"): self._rebuild,
            **DatabaseRoutes(self._worker, self._loop, self._version, self._library.version).routes(),
        }

    def _reload(self, _: bytes) -> confsocket.Response:
        self._worker.nudge()
        return 204, "text/plain", b""

    def _agent_id(self, _: bytes) -> confsocket.Response:
        controller_id = str(self._call(self.status(), _STATUS_LIMIT_SECONDS)["controller-id"])
        if not controller_id:
            return 404, "text/plain", b"there is no controller configuration yet\n"
        return 200, "application/text", controller_id.encode()

    def _db_state(self, _: bytes) -> confsocket.Response:
        state = self._worker.charm_news.db_state
        if state is None:
            return 404, "text/plain", b"this node is no member of a cluster\n"
        return _json(msgspec.to_builtins(state))

    def _metrics(self, _: bytes) -> confsocket.Response:
        status = self._call(self.status(), _STATUS_LIMIT_SECONDS)
        return 200, metrics.CONTENT_TYPE, self._worker.metrics.text(status)

    def _leave(self, _: bytes) -> confsocket.Response:
        try:
            outcome = self._call(self._worker.leave(), _LEAVE_LIMIT_SECONDS)
        except FutureTimeout:
            return _json({"left": False, "reason": f"not done within {_LEAVE_LIMIT_SECONDS:g} s"})
        return _json({"left": outcome.done, "reason": outcome.reason})

    def _rebuild(self, body: bytes) -> confsocket.Response:
        try:
            wanted = msgspec.json.decode(body or b"{}", type=_Rebuild)
        except msgspec.DecodeError as error:
            return 400, "text/plain", f"{error}\n".encode()
        outcome = self._call(self._worker.rebuild(wanted.force), _REBUILD_LIMIT_SECONDS)
        return _json({"done": outcome.done, "reason": outcome.reason})

    def _call(self, work: Coroutine[Any, Any, Any], limit_seconds: float) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=limit_seconds)


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
    try:
        library = native.load()
        with soleowner.sole_owner(options.state_dir):
            log.info("controllerd %s, libdqlite %s, %s", _version(), library.version, options.state_dir)
            _run(lambda: Daemon(options.state_dir, _version(), library).run())
    except soleowner.Owned as error:
        log.error("%s", error)
        return _ALREADY_RUNS
    except (errors.DbAccessorError, NewerFile, BrokenFile, OSError) as error:
        log.error("%s", error)
        return 1
    except BaseExceptionGroup as group:
        for member in group.exceptions:
            log.error("controllerd ends: %s", member, exc_info=member)
        return 1
    return 0


def _run(make: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def inside() -> None:
        await make()

    asyncio.run(inside())


def _json(document: Any) -> confsocket.Response:
    return 200, "application/json", msgspec.json.encode(document) + b"\n"


def _version() -> str:
    try:
        return metadata.version("ha-controller")
    except metadata.PackageNotFoundError:  # Run from a charm's lib/ folder.
        return "0.1.0"


if __name__ == "__main__":
    raise SystemExit(main())

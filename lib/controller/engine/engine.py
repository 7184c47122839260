"""Runs every manifold that can run, and starts or stops it as its inputs come and go.

One rule does it all: when a worker has started or has ended, everyone who declared it as an input is bounced, which
means stopped if it runs and started if it does not. A worker is started whether or not its inputs are there; it finds
out by asking for them, raises Missing, and waits for the next bounce. So there is no order to compute, and no state
that could disagree with what really runs.

| a worker's run, or its start, ended with | then |
|---|---|
| an error that `is_fatal` | the engine stops everything and raises the worst of such errors |
| anything else, and it was told to stop | it starts again after the bounce delay, if it is wanted still |
| nothing (it returned) | it stays stopped until an input changes |
| Missing | it stays stopped until an input changes |
| Bounce | it starts again after the bounce delay |
| Uninstall | it is removed; whoever needs it finds it missing |
| another error, or cancelled by somebody else | it is logged, and starts again after the error delay, ever longer |
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from controller.engine.manifold import Bounce, EngineError, Manifold, Manifolds, Missing, Uninstall, Worker, check

log = logging.getLogger(__name__)

_T = TypeVar("_T")

_PATIENCE_SECONDS = 10.0


class Cancelled(Exception):
    """A worker was cancelled, and not by the engine: that is a failure like any other."""


@dataclass(frozen=True)
class Delays:
    """How long until a worker is started again, in seconds. The values are those that Juju uses.

    The delay after errors is base * factor ^ (recent errors - 1), at most `longest`, times 0.9 to 1.1. An error is
    recent while the worker that raised it had lived for less than `reset_after`.
    """

    bounce: float = 0.01
    error: float = 3.0
    factor: float = 1.2
    longest: float = 120.0
    reset_after: float = 60.0

    def __post_init__(self) -> None:
        if not 0 <= self.bounce <= self.error <= self.longest or self.factor < 1:
            raise ValueError(f"delays must grow: 0 <= bounce <= error <= longest and factor >= 1, not {self}")

    def after(self, recent_errors: int) -> float:
        """Return the delay after this many errors in a row, without the random part."""
        return float(min(self.error * self.factor ** max(0, recent_errors - 1), self.longest))


@dataclass
class _Node:
    """One manifold's present. `task` is the worker's whole life: its delay, its start, its run."""

    manifold: Manifold
    worker: Worker | None = None
    task: asyncio.Task[None] | None = None
    stopping: bool = False
    uninstalled: bool = False
    state: str = "stopped"
    since: float = field(default_factory=time.time)
    why: str = "not started yet"
    starts: int = 0
    recent_errors: int = 0
    started_at: float = 0.0
    hurry: asyncio.Event = field(default_factory=asyncio.Event)


class Engine:
    """The running graph. Install manifolds before or during `run`; `run` ends by cancellation or a fatal error."""

    def __init__(
        self,
        manifolds: Manifolds,
        *,
        delays: Delays | None = None,
        is_fatal: Callable[[BaseException], bool] = lambda _: False,
        worst: Callable[[Exception, Exception], Exception] = lambda first, _: first,
        on_start: Callable[[str], None] = lambda _: None,
        abandon_seconds: Callable[[str], float] = lambda _: math.inf,
        dice: random.Random | None = None,
    ) -> None:
        """`on_start` hears the name of each worker that starts. `abandon_seconds` says by name how long the end of
        the engine waits for a worker that was told to stop, before it goes on to those that this one needs."""
        check(manifolds)
        self._nodes = {name: _Node(manifold) for name, manifold in manifolds.items()}
        self._delays = delays or Delays()
        self._is_fatal = is_fatal
        self._worst = worst
        self._on_start = on_start
        self._abandon_seconds = abandon_seconds
        self.abandoned: tuple[str, ...] = ()
        self._dice = dice or random.Random()
        self._fatal: Exception | None = None
        self._ending = asyncio.Event()
        self._running = False

    def install(self, name: str, manifold: Manifold) -> None:
        """Add one manifold. Raises EngineError, changing nothing: the name is taken, a cycle, an unknown input."""
        if name in self._nodes and not self._nodes[name].uninstalled:
            raise EngineError(f"{name} is installed already")
        check({**{n: node.manifold for n, node in self._nodes.items()}, name: manifold})
        self._nodes[name] = _Node(manifold)
        if self._running:
            self._begin(name, 0.0)

    async def run(self) -> None:
        """Run the graph. Raises the worst fatal error when there was one; every worker has ended by then."""
        self._running = True
        try:
            for name in list(self._nodes):
                self._begin(name, 0.0)
            await self._ending.wait()
        finally:
            self._running = False
            await self._stop_all()
        if self._fatal is not None:
            raise self._fatal

    def report(self) -> dict[str, Any]:
        """Return every manifold's state, since when, and why it does not run. Workers that can report do."""
        return {
            "state": "started" if self._running else "stopped",
            "manifolds": {name: self._report_of(node) for name, node in sorted(self._nodes.items())},
            **({"error": str(self._fatal)} if self._fatal is not None else {}),
        }

    @property
    def failure(self) -> Exception | None:
        """The worst fatal error so far. `run` raises it, unless it was cancelled before."""
        return self._fatal

    # Starting and stopping one

    def _begin(self, name: str, delay_seconds: float) -> None:
        node = self._nodes[name]
        if not self._running or node.uninstalled or node.task is not None:
            return
        # Not in the task: an input may start between this and its first step.
        node.hurry.clear()
        node.task = asyncio.get_running_loop().create_task(self._live(name, node, delay_seconds), name=name)

    async def _live(self, name: str, node: _Node, delay_seconds: float) -> None:
        """A worker's life, from the delay to its end, and what follows from that."""
        error: Exception | None = None
        try:
            await self._delay(node, delay_seconds)
            error = await self._start_and_run(name, node)
        except asyncio.CancelledError:
            if self._running and not node.stopping:
                # It awaited what somebody else has cancelled. Started again at once it would do so without end.
                error = self._filtered(node, Cancelled("nobody told it to stop"))
        told_to_stop = node.stopping or not self._running
        was_running, node.worker = node.worker is not None, None
        node.task, node.stopping = None, False
        self._ended(name, node, error, told_to_stop=told_to_stop)
        if was_running:
            self._bounce_dependants(name)

    @staticmethod
    async def _delay(node: _Node, seconds: float) -> None:
        """Wait, but not longer than until an input changes."""
        if seconds:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await node.hurry.wait()

    async def _start_and_run(self, name: str, node: _Node) -> Exception | None:
        node.started_at = asyncio.get_running_loop().time()
        try:
            worker = node.manifold.start(_InputsOf(self, name, node.manifold).get)
            node.worker, node.starts = worker, node.starts + 1
            self._say(node, "started", "")
            log.debug("%s started", name)
            self._on_start(name)
            self._bounce_dependants(name)
            await worker.run()
        except Exception as error:  # noqa: BLE001 - Whatever a worker raises is what the table above is for.
            return self._filtered(node, error)
        return None

    @staticmethod
    def _filtered(node: _Node, error: Exception) -> Exception | None:
        try:
            return node.manifold.filter(error)
        except Exception as worse:  # noqa: BLE001 - A filter is somebody else's code too.
            return worse

    def _ended(self, name: str, node: _Node, error: Exception | None, *, told_to_stop: bool) -> None:
        """Decide what follows. The table in the module's first words, line by line."""
        lived = asyncio.get_running_loop().time() - node.started_at
        meant = error is None or isinstance(error, Missing | Bounce | Uninstall)
        if error is not None and not meant and self._is_fatal(error):
            self._say(node, "stopped", f"fatal: {error}")
            self._fatal = error if self._fatal is None else self._worst(self._fatal, error)
            self._ending.set()
        elif told_to_stop:
            # Whatever it ended with was said about inputs that are others by now, and nobody will bounce it again.
            if not meant:
                log.error("%s failed while it stopped: %s", name, _sentence(error), exc_info=error)
            self._say(node, "stopped", "told to stop")
            self._begin(name, self._delays.bounce)
        elif error is None:
            self._say(node, "stopped", "finished")
            node.recent_errors = 0
        elif isinstance(error, Missing):
            self._say(node, "stopped", f"missing: {error}")
            node.recent_errors = 1
        elif isinstance(error, Bounce):
            self._say(node, "stopped", f"bounced: {error}" if str(error) else "bounced")
            self._begin(name, self._delays.bounce)
        elif isinstance(error, Uninstall):
            self._say(node, "uninstalled", str(error) or "not needed any more")
            node.uninstalled = True
        else:
            node.recent_errors = 1 if lived >= self._delays.reset_after else node.recent_errors + 1
            delay = self._delays.after(node.recent_errors) * self._dice.uniform(0.9, 1.1)
            reason = _sentence(error)
            log.error("%s failed, starting it again in %.1f s: %s", name, delay, reason, exc_info=error)
            self._say(node, "stopped", f"failed: {reason}")
            self._begin(name, delay)

    def _bounce_dependants(self, name: str) -> None:
        for other, node in self._nodes.items():
            if name in node.manifold.inputs:
                self._bounce(other, node)

    def _bounce(self, name: str, node: _Node) -> None:
        """Stop it if it runs, start it if it does not, at once if it waits to: inputs are looked up at the start."""
        if node.task is None:
            self._begin(name, self._delays.bounce)
        elif node.worker is None:
            node.hurry.set()
        else:
            self._tell_to_stop(node, "an input changed")

    def _tell_to_stop(self, node: _Node, why: str) -> None:
        """Cancel its task, once: another cancellation would cut off what it does in order to end."""
        if node.task is not None and not node.stopping:
            node.stopping = True
            self._say(node, "stopping", why)
            node.task.cancel()

    async def _stop_all(self) -> None:
        """Stop everybody, those first whom nobody running needs."""
        while tasks := self._running_tasks():
            needed = {i for name in tasks for i in self._nodes[name].manifold.inputs}
            leaves = {name: task for name, task in tasks.items() if name not in needed}
            for name in leaves:
                self._tell_to_stop(self._nodes[name], "the engine ends")
            await self._wait_for(leaves)

    def _running_tasks(self) -> dict[str, asyncio.Task[None]]:
        # One that was cancelled before its first step is done, and had no chance to say so.
        tasks = {name: node.task for name, node in self._nodes.items() if name not in self.abandoned}
        return {name: task for name, task in tasks.items() if task is not None and not task.done()}

    async def _wait_for(self, tasks: dict[str, asyncio.Task[None]]) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        limits = {name: began + self._abandon_seconds(name) for name in tasks}
        while waiting := {n: t for n, t in tasks.items() if not t.done() and n not in self.abandoned}:
            patience = max(0.0, min(_PATIENCE_SECONDS, min(limits[name] for name in waiting) - loop.time()))
            _, late = await asyncio.wait(waiting.values(), timeout=patience)
            names = sorted(name for name, task in waiting.items() if task in late)
            for name in names:
                if loop.time() >= limits[name]:
                    log.error("%s was told to stop and is left behind after %g s", name, loop.time() - began)
                    self.abandoned += (name,)
                elif patience == _PATIENCE_SECONDS:
                    log.warning("told to stop and still running after %g s: %s", loop.time() - began, name)

    def output(self, name: str) -> object:
        """Return what this worker offers now. Raises Missing while it does not run, or has nothing to offer yet."""
        node = self._nodes.get(name)
        if node is None or node.worker is None or node.stopping:
            raise Missing(name)
        try:
            return node.manifold.output(node.worker)
        except Missing as error:
            raise Missing(f"{name}: {error}") from error

    @staticmethod
    def _say(node: _Node, state: str, why: str) -> None:
        why = why.encode(errors="replace").decode()  # An error may name a file whose name is no UTF-8.
        if (node.state, node.why) != (state, why):
            node.state, node.why, node.since = state, why, time.time()

    @staticmethod
    def _report_of(node: _Node) -> dict[str, Any]:
        told: dict[str, Any] = {
            "state": node.state,
            "since": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(node.since)),
            "inputs": sorted(node.manifold.inputs),
            "start-count": node.starts,
        }
        if node.why:
            told["why"] = node.why
        report = getattr(node.worker, "report", None)
        if callable(report):
            with contextlib.suppress(Exception):  # A report must not be what ends a worker.
                # As JSON will have it, now: what cannot be encoded must not cost the reports of all the others.
                told["report"] = msgspec.json.decode(msgspec.json.encode(report(), enc_hook=repr))
        return told


def _sentence(error: Exception | None) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


class _InputsOf:
    """What one start may ask for."""

    def __init__(self, engine: Engine, name: str, manifold: Manifold) -> None:
        self._engine = engine
        self._name = name
        self._manifold = manifold

    def get(self, name: str, kind: type[_T]) -> _T:
        if name not in self._manifold.inputs:
            raise EngineError(f"{self._name} asks for {name}, which it did not declare as an input")
        found = self._engine.output(name)
        if not isinstance(found, kind):
            raise Missing(f"{name} offers {type(found).__name__}, not {kind.__name__}")
        return found

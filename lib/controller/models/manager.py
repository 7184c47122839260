"""The model-worker-manager: on every controller one engine for each model, for as long as the model has a row."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from controller import changes
from controller.engine import Engine, Manifolds
from controller.models import store
from controller.models.model import Model
from controller.models.service import Models
from controller.models.watch import ModelWatch
from dbaccessor import errors
from dbaccessor.namespaces import CONTROLLER

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
# The counter is read from whoever believes to lead; this often the rows are asked for anyway.
_LIST_SECONDS = 30.0
_ABANDON_SECONDS = 8.0


@dataclass
class _Running:
    """One model's engine. `task` ends when it is stopped."""

    watch: ModelWatch
    engine: Engine | None = None
    task: asyncio.Task[None] | None = None
    stopping: bool = field(default=False)


class ModelWorkerManager:
    """Looks which models there are, and keeps an engine running for each.

    `make` returns a model's table. `gone` is awaited when the engine of a model that has no row any more has ended.
    """

    def __init__(
        self,
        models: Models,
        make: Callable[[ModelWatch], Manifolds],
        gone: Callable[[Model], Awaitable[None]],
        on_start: Callable[[str], None] = lambda _: None,
        plugins: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        self._models = models
        self._make = make
        self._gone = gone
        self._on_start = on_start
        self._plugins = plugins
        self._running: dict[str, _Running] = {}
        self._listed: tuple[Model, ...] = ()
        self._count = -1
        self._list_due = 0.0
        self._problem = ""
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Run the engines until cancelled; all have ended by then."""
        forget = self._models.watch(self._wake.set)
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self._wake.clear()
                    await self._look()
                    self._heed(group)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_LOOK_SECONDS):
                            await self._wake.wait()
        finally:
            forget()

    async def _look(self) -> None:
        """Read which models there are, if anything changed. What was read last stays while the database is away."""
        now = asyncio.get_running_loop().time()
        try:
            # The counter first: what changes between the two reads is read again at the next look.
            count = await changes.count(self._models.databases.database(CONTROLLER), store.SUBJECT)
            if count == self._count and now < self._list_due:
                return
            self._listed = await self._models.all()
            self._count, self._list_due, self._problem = count, now + _LIST_SECONDS, ""
        except errors.DbAccessorError as error:
            self._problem = str(error)
            log.debug("the models cannot be read: %s", error)

    def _heed(self, group: asyncio.TaskGroup) -> None:
        """Start the engines of models that are new here, and stop those of models that are gone."""
        there = {model.uuid: model for model in self._listed}
        for uuid, model in there.items():
            if uuid in self._running:
                self._running[uuid].watch.update(model)
            else:
                running = self._running[uuid] = _Running(ModelWatch(model))
                running.task = group.create_task(self._run_one(running), name=f"model {model.name}")
        for uuid, running in self._running.items():
            if uuid not in there and not running.stopping and running.task is not None:
                running.stopping = True
                running.task.cancel()

    async def _run_one(self, running: _Running) -> None:
        """Run one model's engine. Nothing that happens in it ends another model's."""
        model = running.watch.model
        log.info("model %s (%s): starting its workers", model.name, model.uuid)
        try:
            running.engine = Engine(
                self._make(running.watch), on_start=self._on_start, abandon_seconds=lambda _: _ABANDON_SECONDS
            )
            await _run_to_the_end(running.engine)
        except asyncio.CancelledError:
            if not running.stopping or _cancellations() > 1:
                raise  # This manager ends, and with it the process.
            log.info("model %s (%s) is gone: its workers have ended", model.name, model.uuid)
            await self._bury(model)
        except Exception:
            log.exception("model %s (%s): its engine ended; starting it again", model.name, model.uuid)
        finally:
            self._running.pop(model.uuid, None)

    async def _bury(self, model: Model) -> None:
        try:
            await self._gone(model)
        except Exception as error:  # noqa: BLE001 - What is left behind is the pruner's; the others' engines go on.
            log.warning("model %s (%s): %s", model.name, model.uuid, error)

    def report(self) -> dict[str, Any]:
        """Return the report of each model's engine by the model's uuid, with its name and life."""
        return {
            "models": {
                uuid: {
                    "name": running.watch.model.name,
                    "life": running.watch.model.life,
                    **(running.engine.report() if running.engine is not None else {"state": "", "manifolds": {}}),
                }
                for uuid, running in sorted(self._running.items())
            },
            "plugins": self._plugins(),
            **({"problem": self._problem} if self._problem else {}),
        }


async def _run_to_the_end(engine: Engine) -> None:
    """Run it until cancelled, and return only when it has ended, however often that is.

    Cancelled a second time, it would stop in the middle of stopping, and leave workers behind that nobody ever tells to
    stop. Its own end is bounded: a worker that does not end is abandoned.
    """
    running = asyncio.create_task(engine.run(), name="engine")
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        running.cancel()
        while not running.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        raise


def _cancellations() -> int:
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()

"""Flow 3, hop 2: brings the spaces in line with what the charm's option says, on the one responsible controller.

The option comes in by controller.conf: a name and subnets, or nothing. Level-triggered: what the configuration says is
compared with the rows, so it does not matter what was missed, nor who was responsible before. A configuration older
than the one that the rows were written from changes nothing: this controller's unit has only not rendered it yet.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from controller import controllerconfig
from controller.api import charmspace, nodes
from controller.api.charmspace import Mark
from dbaccessor import errors
from dbaccessor.conf import ControllerConf, ManagementSpace
from dbaccessor.database import Transaction

log = logging.getLogger(__name__)

_T = TypeVar("_T")

_LOOK_SECONDS = 1.0
# How often it makes sure that the rows are still so, though the configuration is the same.
_CONFIRM_SECONDS = 10.0
_DEADLINE_SECONDS = 5.0


class Fenced(Protocol):
    """The `controller` database through a responsibility: who has lost it cannot write any more (C9)."""

    async def run(
        self, fn: Callable[[Transaction], Awaitable[_T]], *, read_only: bool = False, deadline_seconds: float = 10
    ) -> _T: ...


class SpaceKeeper:
    """The worker. `conf` returns the configuration in force."""

    def __init__(
        self, database: Fenced, conf: Callable[[], ControllerConf | None], *, look_seconds: float = _LOOK_SECONDS
    ) -> None:
        self._database = database
        self._conf = conf
        self._look_seconds = look_seconds
        self._seen: ControllerConf | None = None
        self._confirm_at = 0.0
        self._problem = ""
        self._changes = 0

    async def run(self) -> None:
        """Keep the rows right. Ends by cancellation, or with what says that somebody else is responsible now."""
        while True:
            try:
                await self.look()
                self._say("")
            except errors.DbAccessorError as error:
                # Whatever was done or not: the next look finds out.
                self._say(str(error))
            await asyncio.sleep(self._look_seconds)

    async def look(self) -> bool:
        """Bring the rows in line with the configuration, if that is news. Return whether anything was written."""
        conf, now = self._conf(), asyncio.get_running_loop().time()
        if conf is None or (conf == self._seen and now < self._confirm_at):
            return False
        changed = False
        if not await self._database.run(
            lambda tx: is_in_line(tx, conf), read_only=True, deadline_seconds=_DEADLINE_SECONDS
        ):
            changed = await self._database.run(lambda tx: bring_in_line(tx, conf), deadline_seconds=_DEADLINE_SECONDS)
        self._seen, self._confirm_at = conf, now + _CONFIRM_SECONDS
        if changed:
            self._changes += 1
            log.info("the charm's management space: %s", _words(conf.management_space))
        return changed

    def report(self) -> dict[str, Any]:
        """Return what the engine's report shows of this worker."""
        space = self._seen.management_space if self._seen is not None else None
        return {"space": _words(space), "changes": self._changes, "problem": self._problem}

    def _say(self, problem: str) -> None:
        if problem and problem != self._problem:
            log.warning("the charm's management space is not brought in line: %s", problem)
        self._problem = problem


async def is_in_line(tx: Transaction, conf: ControllerConf) -> bool:
    """Whether the rows say what this configuration says, or come from a newer one of the same cluster."""
    before, wanted = await charmspace.mark(tx), conf.management_space
    if before == Mark() and wanted is None:
        return True
    if before.cluster_uuid == conf.cluster_uuid and before.generation > conf.generation:
        return True
    if before != _mark(conf):
        return False
    if wanted is None:
        return True
    spaces = await nodes.spaces(tx)
    return (
        await nodes.management_space(tx) == wanted.name
        and wanted.name in spaces.names
        and spaces.subnets(wanted.name) == frozenset(nodes.networks(wanted.subnets))
        and not spaces.stolen(wanted.name)
    )


async def bring_in_line(tx: Transaction, conf: ControllerConf) -> bool:
    """Make the rows say what this configuration says. Return whether anything was to be done."""
    if await is_in_line(tx, conf):
        return False
    before, wanted = await charmspace.mark(tx), conf.management_space
    if before.space and (wanted is None or wanted.name != before.space):
        await nodes.remove_space(tx, before.space)
    if wanted is not None:
        await nodes.set_space(tx, wanted.name, wanted.subnets)
        # Addresses belong to the narrowest subnet around them, and these are the charm's.
        for subnet in (await nodes.spaces(tx)).stolen(wanted.name):
            await nodes.remove_subnet(tx, subnet)
    if wanted is not None or before.space:
        await controllerconfig.put(tx, nodes.MANAGEMENT_SPACE, "" if wanted is None else wanted.name)
    await charmspace.put_mark(tx, _mark(conf))
    return True


def _mark(conf: ControllerConf) -> Mark:
    space = "" if conf.management_space is None else conf.management_space.name
    return Mark(space, conf.generation, conf.cluster_uuid, conf.application)


def _words(space: ManagementSpace | None) -> str:
    return "not set" if space is None else f"{space.name} ({', '.join(space.subnets) or 'no subnet'})"

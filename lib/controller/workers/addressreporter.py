"""Flow 3, hop 1: each controller reports the addresses at which other machines may dial it. It runs on all of them.

It looks at its interfaces every second, which costs two questions to the kernel, and writes when something differs. An
address that lives for less than that is not worth a message to every agent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from controller.api import interfaces, nodes
from dbaccessor import errors
from dbaccessor.conf import ControllerConf, is_loopback
from dbaccessor.database import Database, Transaction

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
# How often it makes sure that what it wrote is still there, though nothing has changed here.
_CONFIRM_SECONDS = 30.0
_DEADLINE_SECONDS = 5.0


Where = tuple[tuple[str, ...], int]


def where(conf: ControllerConf | None) -> Where:
    """Return this controller's addresses for others, and the API's port. Raises OSError.

    One whose node binds a loopback address shares its machine with all others: that address is its own, and all it has.
    """
    if conf is None or conf.own_address is None:
        return (), 0
    if is_loopback(conf.own_address):
        return (conf.own_address,), conf.api_port
    return interfaces.dialled_from_afar(interfaces.current()), conf.api_port


class AddressReporter:
    """The worker. `own` says where this controller can be dialled now."""

    def __init__(
        self, database: Database, controller_id: str, own: Callable[[], Where], *, look_seconds: float = _LOOK_SECONDS
    ) -> None:
        self._database = database
        self._controller_id = controller_id
        self._own = own
        self._look_seconds = look_seconds
        self._written: Where = ((), 0)
        self._confirm_at = 0.0
        self._problem = ""

    async def run(self) -> None:
        """Keep the rows right until cancelled."""
        while True:
            try:
                await self.look()
                self._say("")
            except (errors.DbAccessorError, OSError) as error:
                self._say(str(error))
            await asyncio.sleep(self._look_seconds)

    async def look(self) -> bool:
        """Report what there is now, if it is news. Return whether anything was written."""
        now = asyncio.get_running_loop().time()
        addresses, port = own = self._own()
        if not addresses or (own == self._written and now < self._confirm_at):
            return False

        async def write(tx: Transaction) -> bool:
            return await nodes.report(tx, self._controller_id, addresses, port)

        changed = await self._database.run(write, deadline_seconds=_DEADLINE_SECONDS)
        if changed:
            log.info("this controller can be dialled at %s", ", ".join(addresses))
        self._written, self._confirm_at = own, now + _CONFIRM_SECONDS
        return changed

    def report(self) -> dict[str, Any]:
        """Return what the engine's report shows of this worker."""
        addresses, port = self._written
        return {"addresses": list(addresses), "port": port, "problem": self._problem}

    def _say(self, problem: str) -> None:
        if problem and problem != self._problem:
            log.warning("the addresses of this controller are not reported: %s", problem)
        self._problem = problem

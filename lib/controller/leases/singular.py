"""Flow 2, hop 3: a lease -> a flag that says yes on the one controller that holds it.

The flag's worker lives as long as its answer is true, and then ends, which makes the engine stop whatever was housed
under it. One keeps a lease that is held, the other waits for one that is not; both only ever end.
"""

from __future__ import annotations

import asyncio
import logging

from controller.engine.manifold import Bounce, Getter, Manifold, Worker
from controller.leases.lease import Denied, Key
from controller.leases.manager import Manager
from controller.leases.responsible import Responsibility
from dbaccessor import errors

log = logging.getLogger(__name__)

_PAUSE_SECONDS = 0.1
_REFUSED_PAUSE_SECONDS = 1.0


class KeepOccupied:
    """Says yes for as long as the responsibility lasts. Cancelled, it gives the lease up."""

    def __init__(self, manager: Manager, responsibility: Responsibility) -> None:
        self._manager = manager
        self._responsibility = responsibility

    @property
    def responsibility(self) -> Responsibility | None:
        return self._responsibility

    def check(self) -> bool:
        return True

    async def run(self) -> None:
        try:
            await self._responsibility.lost()
        except asyncio.CancelledError:
            self._manager.give_up(self._responsibility)
            raise
        raise Bounce(f"not responsible any more: {self._responsibility.why_over}")

    def report(self) -> dict[str, object]:
        """Return the lease and its token."""
        return {"lease": str(self._responsibility.key), "token": str(self._responsibility.token), "holds": True}


class WaitVacant:
    """Says no until the lease was claimed here."""

    def __init__(self, manager: Manager, key: Key, duration_seconds: float) -> None:
        self._manager = manager
        self._key = key
        self._duration_seconds = duration_seconds
        self._problem = ""

    @property
    def responsibility(self) -> Responsibility | None:
        return None

    def check(self) -> bool:
        return False

    async def run(self) -> None:
        while True:
            try:
                await self._manager.wait_until_free(self._key)
                await self._manager.claim(self._key, self._duration_seconds)
            except Denied as error:
                self._problem = str(error)
            except errors.DbAccessorError as error:
                # Waiting for the database is waiting as well. Ending here would begin a back-off.
                self._problem = str(error)
                log.info("%s cannot be claimed yet: %s", self._key, error)
                await asyncio.sleep(_REFUSED_PAUSE_SECONDS if isinstance(error, errors.Refused) else _PAUSE_SECONDS)
            else:
                raise Bounce("claimed")

    def report(self) -> dict[str, object]:
        """Return the lease, and why it was not claimed the last time."""
        return {"lease": str(self._key), "holds": False, **({"why": self._problem} if self._problem else {})}


def singular(manager_name: str, key: Key, duration_seconds: float) -> Manifold:
    """Return the manifold of a flag: yes while this controller holds the lease. `manager_name`: the Manager's manifold.

    Its output is a Singular (responsible.py). Whoever stops an engine with such a flag for good revokes the key after
    it: a claim may have succeeded in the very moment.
    """

    def start(get: Getter) -> Worker:
        manager = get(manager_name, Manager)
        held = manager.held(key)
        return WaitVacant(manager, key, duration_seconds) if held is None else KeepOccupied(manager, held)

    return Manifold(start, inputs=(manager_name,))

"""NotifyWatcher: something has changed, go and read it. A watcher belongs to the connection that made it."""

from __future__ import annotations

from controller.api.facade import Caller, Facade, Method
from controller.api.messages import Nothing


def facade() -> Facade:
    """Return the NotifyWatcher facade: Next waits for the next change, Stop ends the watcher and its Next."""
    methods = {"Next": Method(Nothing, _next, waits=True), "Stop": Method(Nothing, _stop)}
    return Facade("NotifyWatcher", (1,), methods, True, True)


async def _next(caller: Caller, _: Nothing, id: str) -> Nothing:
    await caller.watcher(id).next()
    return Nothing()


async def _stop(caller: Caller, _: Nothing, id: str) -> Nothing:
    caller.remove_watcher(id)
    return Nothing()

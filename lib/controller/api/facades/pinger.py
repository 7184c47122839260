"""Pinger: the connection is alive. Whoever is silent for long is asked by the websocket's own pings as well."""

from __future__ import annotations

from controller.api.facade import Caller, Facade, Method
from controller.api.messages import Nothing


def facade() -> Facade:
    """Return the Pinger facade."""
    return Facade("Pinger", (1,), {"Ping": Method(Nothing, _ping), "Stop": Method(Nothing, _ping)}, True, True)


async def _ping(_: Caller, __: Nothing, ___: str) -> Nothing:
    return Nothing()

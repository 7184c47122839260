"""HighAvailability: is it highly available, and what may it lose?"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from controller.api.facade import Caller, Facade, Method
from controller.api.messages import Nothing

Status = Callable[[], Awaitable[Mapping[str, Any]]]


def facade(status: Status) -> Facade:
    """Return the HighAvailability facade. Its one method is ours: the status document of whoever is asked."""

    async def told(_: Caller, __: Nothing, ___: str) -> Mapping[str, Any]:
        return await status()

    return Facade("HighAvailability", (2,), {"Status": Method(Nothing, told)}, users=True)

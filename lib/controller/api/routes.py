"""What hactl asks about the API, on control.socket."""

from __future__ import annotations

from typing import Any

import msgspec

from controller.answering import Route
from controller.api import apiserver, registration
from controller.api.apiserver import ApiServer


class Wanted(msgspec.Struct, frozen=True):
    """The body of POST /registration."""

    user: str = "admin"


async def _registration(server: ApiServer, wanted: Wanted) -> dict[str, Any]:
    opened = await server.open_registration(wanted.user)
    return {
        "user": opened.user,
        "registration": registration.render(opened),
        "valid-seconds": apiserver.REGISTRATION_SECONDS,
    }


ROUTES = (Route("POST", "/registration", apiserver.NAME, ApiServer, _registration, Wanted),)

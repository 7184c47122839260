"""What hactl asks about models, on control.socket."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec

from controller.answering import Nothing, Route
from controller.models.service import Models


class Added(msgspec.Struct, frozen=True):
    """The body of POST /models/add. Whoever wants to ask again after a doubt chooses the uuid."""

    name: str
    uuid: str = ""


class Destroyed(msgspec.Struct, frozen=True):
    """The body of POST /models/destroy: a name or a uuid."""

    model: str


async def _list(models: Models, _: Nothing) -> dict[str, Any]:
    return {"models": [dataclasses.asdict(model) for model in await models.all()]}


async def _add(models: Models, wanted: Added) -> dict[str, Any]:
    return dataclasses.asdict(await models.add(wanted.name, wanted.uuid))


async def _destroy(models: Models, wanted: Destroyed) -> dict[str, Any]:
    return dataclasses.asdict(await models.destroy(wanted.model))


ROUTES = (
    Route("GET", "/models", "models", Models, _list),
    Route("POST", "/models/add", "models", Models, _add, Added),
    Route("POST", "/models/destroy", "models", Models, _destroy, Destroyed),
)

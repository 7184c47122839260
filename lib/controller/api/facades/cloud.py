"""Cloud: where models' machines come from. There is one, made of the machines that are at hand."""

from __future__ import annotations

from typing import Any

from controller.api import messages
from controller.api.facade import Caller, Facade, Method
from controller.api.messages import Entities, Nothing

NAME = "ha-controller"
TAG = f"cloud-{NAME}"
TYPE = "manual"
_CLOUD = {"type": TYPE, "auth-types": ["empty"], "regions": [{"name": "default"}]}


def facade() -> Facade:
    """Return the Cloud facade."""

    async def clouds(_: Caller, __: Nothing, ___: str) -> dict[str, Any]:
        return {"clouds": {TAG: _CLOUD}}

    async def named(_: Caller, asked: Entities, __: str) -> dict[str, Any]:
        return {"results": [_named(entity.tag) for entity in asked.entities or ()]}

    async def default(_: Caller, __: Nothing, ___: str) -> dict[str, Any]:
        return {"result": TAG}

    methods = {
        "Clouds": Method(Nothing, clouds),
        "Cloud": Method(Entities, named),
        "DefaultCloud": Method(Nothing, default),
    }
    return Facade("Cloud", (7,), methods, users=True)


def _named(tag: str) -> dict[str, Any]:
    if tag != TAG:
        return {"error": {"message": f"{tag} not found", "code": messages.NOT_FOUND}}
    return {"cloud": _CLOUD}

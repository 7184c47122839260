"""Controller: what a client asks about the controllers as a whole, and their configuration."""

from __future__ import annotations

from typing import Any

import msgspec

from controller.api import messages
from controller.api.domain import Domain
from controller.api.facade import Caller, Facade, Method
from controller.api.facades.modelmanager import user_models
from controller.api.messages import Entities, Nothing, RPCError

# What a client may not set: it follows from how the controllers were made.
_DERIVED = ("ca-cert", "controller-uuid", "controller-name")


class ConfigSet(msgspec.Struct, frozen=True):
    """Of ConfigSet: keys to values; an empty text, or null, unsets."""

    config: dict[str, str | int | bool | None] = {}


def facade(domain: Domain) -> Facade:
    """Return the Controller facade."""

    async def config(_: Caller, __: Nothing, ___: str) -> dict[str, Any]:
        about = domain.about
        derived = dict(zip(_DERIVED, (about.ca_cert(), about.controller_uuid, about.name), strict=True))
        return {"config": {**await domain.config.config(), **derived}}

    async def config_set(caller: Caller, asked: ConfigSet, _: str) -> Nothing:
        if not caller.identity.is_superuser:
            raise RPCError("permission denied", messages.UNAUTHORIZED)
        fixed = sorted(set(asked.config) & set(_DERIVED))
        if fixed:
            raise RPCError(f"{fixed[0]} cannot be changed", messages.BAD_REQUEST)
        await domain.config.set({key: _text(value) for key, value in asked.config.items()})
        return Nothing()

    async def all_models(_: Caller, __: Nothing, ___: str) -> dict[str, Any]:
        return await user_models(domain)

    async def version(_: Caller, __: Nothing, ___: str) -> dict[str, str]:
        return {"version": messages.SERVER_VERSION, "git-commit": ""}

    async def api_info(_: Caller, asked: Entities, __: str) -> dict[str, Any]:
        servers = await domain.addresses.for_clients()
        found = {"addresses": [str(a) for group in servers for a in group], "cacert": domain.about.ca_cert()}
        return {"results": [found for _ in asked.entities or ()]}

    async def access(caller: Caller, asked: Entities, _: str) -> dict[str, Any]:
        return {"results": [await _access(domain, caller, entity.tag) for entity in asked.entities or ()]}

    methods = {
        "ControllerConfig": Method(Nothing, config),
        "ConfigSet": Method(ConfigSet, config_set),
        "AllModels": Method(Nothing, all_models),
        "ControllerVersion": Method(Nothing, version),
        "ControllerAPIInfoForModels": Method(Entities, api_info),
        "GetControllerAccess": Method(Entities, access),
    }
    return Facade("Controller", (11,), methods, users=True)


async def _access(domain: Domain, caller: Caller, tag: str) -> dict[str, Any]:
    if tag != caller.identity.tag and not caller.identity.is_superuser:
        return {"error": {"message": "permission denied", "code": messages.UNAUTHORIZED}}
    user = await domain.users.user(tag.removeprefix("user-"))
    if user is None:
        return {"error": {"message": f"user {tag} not found", "code": messages.NOT_FOUND}}
    return {"result": {"user-tag": tag, "access": user.access}}


def _text(value: str | int | bool | None) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)

"""UserManager: who the users are, and a new password for oneself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from controller.api import messages
from controller.api.domain import Domain, User
from controller.api.facade import Caller, Facade, Method
from controller.api.messages import (
    EntityPassword,
    EntityPasswords,
    ErrorResult,
    ErrorResults,
    Fault,
    RPCError,
    SomeEntities,
)

HashPassword = Callable[[str], Awaitable[str]]


class UserInfoRequest(msgspec.Struct, frozen=True, rename="kebab"):
    """Of UserInfo. Nobody named: everybody."""

    entities: SomeEntities | None = None
    include_disabled: bool = False


def facade(domain: Domain, hash_password: HashPassword) -> Facade:
    """Return the UserManager facade. Users see and change themselves; superusers see everybody."""

    async def info(caller: Caller, asked: UserInfoRequest, _: str) -> dict[str, Any]:
        known = {f"user-{u.name}": u for u in await domain.users.users() if asked.include_disabled or not u.disabled}
        tags = [e.tag for e in asked.entities or ()] or list(known)
        return {"results": [_info(known.get(tag), tag, caller) for tag in tags]}

    async def set_password(caller: Caller, asked: EntityPasswords, _: str) -> ErrorResults:
        if len(asked.changes) > 1:  # Hashing many would let one connection take all turns.
            raise RPCError("one password at a time", messages.BAD_REQUEST)
        return ErrorResults(tuple([await _set(domain, hash_password, caller, change) for change in asked.changes]))

    methods = {"UserInfo": Method(UserInfoRequest, info), "SetPassword": Method(EntityPasswords, set_password)}
    return Facade("UserManager", (3,), methods, users=True)


def _info(user: User | None, tag: str, caller: Caller) -> dict[str, Any]:
    if tag != caller.identity.tag and not caller.identity.is_superuser:
        return {"error": {"message": "permission denied", "code": messages.UNAUTHORIZED}}
    if user is None:
        return {"error": {"message": f"{tag} not found", "code": messages.NOT_FOUND}}
    return {
        "result": {
            "username": user.name,
            "display-name": user.display_name,
            "access": user.access,
            "created-by": "admin",
            "date-created": user.created,
            "disabled": user.disabled,
        }
    }


async def _set(domain: Domain, hash_password: HashPassword, caller: Caller, change: EntityPassword) -> ErrorResult:
    if change.tag != caller.identity.tag:
        return ErrorResult(Fault("permission denied", messages.UNAUTHORIZED))
    try:
        kept = await hash_password(change.password)
    except RPCError as error:
        return ErrorResult(Fault(str(error), error.code))
    if not await domain.users.set_password_hash(change.tag.removeprefix("user-"), kept):
        return ErrorResult(Fault(f"{change.tag} not found", messages.NOT_FOUND))
    return ErrorResult()

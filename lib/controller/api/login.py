"""Who is let in: users by their password, agents by their secret, and what the login tells them.

Whoever fails learns nothing but that, and may not fail often. An unknown user costs as much time as a wrong password.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import re
from collections import Counter
from collections.abc import AsyncIterator

from controller.api import messages, passwords
from controller.api.attempts import Attempts
from controller.api.domain import Domain
from controller.api.facade import Facades, Identity
from controller.api.limits import place_of
from controller.api.messages import LoginParams, LoginResult, RegisterParams, RPCError, UserInfo
from dbaccessor import errors

log = logging.getLogger(__name__)

# Each takes 16 MiB and a core for a fifth of a second. Whoever makes names up is not slowed down by name, so from one
# place only so many may wait for a turn: others wait for two seconds at most because of one.
_HASHES_AT_ONCE = 2
_WAITING_FROM_ONE_PLACE = 16

_AGENT = re.compile(r"(machine|unit|controller)-[A-Za-z0-9][A-Za-z0-9-]{0,250}")
_USER = re.compile(r"user-([A-Za-z0-9][A-Za-z0-9.+-]{0,250})")


class Denied(RPCError):
    """The name or the secret is wrong, or one has failed too often."""


class Logins:
    """Decides who is let in, for all connections of one server."""

    def __init__(self, domain: Domain, facades: Facades, attempts: Attempts | None = None) -> None:
        self._domain = domain
        self._facades = facades
        self.attempts = attempts or Attempts()
        self._hashing = asyncio.Semaphore(_HASHES_AT_ONCE)
        self._waiting: Counter[str] = Counter()
        self._comparing: dict[tuple[str, str | None], asyncio.Future[bool]] = {}

    async def login(self, asked: LoginParams, address: str, model_uuid: str) -> tuple[Identity, LoginResult]:
        """Return who this is and what to answer. Raises RPCError: Denied, or what else keeps it from being let in."""
        identity = await self.authenticate(asked.auth_tag or "", asked.credentials or "", address, model_uuid)
        about = self._domain.about
        own = about.epoch()
        if asked.epoch is not None and asked.epoch.number > own.number:
            about.heard(asked.epoch)
            raise RPCError(
                f"this controller is of epoch {own.number}, and you know of epoch {asked.epoch.number}: "
                "go to another controller",
                messages.SUPERSEDED,
            )
        if model_uuid and model_uuid not in {m.uuid for m in await self._domain.models.models()}:
            raise RPCError(f'unknown model: "{model_uuid}"', messages.MODEL_NOT_FOUND)
        addresses = self._domain.addresses
        servers = await (addresses.for_agents() if identity.is_agent else addresses.for_clients())
        user_info = None
        if not identity.is_agent:
            user_info = UserInfo(
                display_name=identity.display_name,
                identity=identity.tag,
                controller_access=identity.access,
                model_access="admin" if model_uuid and identity.is_superuser else "",
            )
        result = LoginResult(
            controller_tag=f"controller-{about.controller_uuid}",
            controller_name=about.name,
            server_version=messages.SERVER_VERSION,
            servers=servers,
            facades=self._facades.versions(identity),
            model_tag=f"model-{model_uuid}" if model_uuid else "",
            user_info=user_info,
            epoch=own,
            ca_cert=about.ca_cert(),
        )
        return identity, result

    async def authenticate(self, tag: str, secret: str, address: str, model_uuid: str = "") -> Identity:
        """Return whom `tag` and `secret` name; agents are known in their model alone. `address` is the caller's.

        Raises Denied, and whatever the database says no with.
        """
        loop = asyncio.get_running_loop()
        place = place_of(address)
        self._require_turn(tag, place, loop.time())
        if (user := _USER.fullmatch(tag)) is not None:
            identity = await self._user(user[1], tag, secret, place)
        elif _AGENT.fullmatch(tag) is not None:
            kept = await self._domain.agents.secret_hash(model_uuid, tag)
            # Others may have failed while the database was asked. From here to the count nobody comes between.
            self._require_turn(tag, place, loop.time())
            matches = kept is not None and passwords.secret_matches(secret, kept)
            identity = Identity(tag, secret_hash=kept or "") if matches else None
        else:
            identity = None
        if identity is None:
            self.attempts.failed(tag, place, loop.time())
            log.info("a login as %s from %s was denied", _shown(tag) or "nobody", address)
            raise Denied("invalid entity name or password", messages.UNAUTHORIZED)
        self.attempts.succeeded(tag, place)
        return identity

    async def register(self, asked: RegisterParams, address: str) -> None:
        """Set the password of whoever has the one-time secret. Raises Denied, and RPCError for a bad password."""
        loop = asyncio.get_running_loop()
        tag, place = f"user-{asked.user}", place_of(address)
        self._require_turn(tag, place, loop.time())
        try:
            passwords.check(asked.password)
        except passwords.Unsuitable as error:
            raise RPCError(str(error), messages.NOT_VALID) from error
        async with self._turn_to_hash(tag, place):
            kept = await asyncio.to_thread(passwords.hashed, asked.password)
        if not await self._domain.users.register(asked.user, passwords.hashed_secret(asked.secret), kept):
            self.attempts.failed(tag, place, loop.time())
            log.info("a registration as %s from %s was denied", _shown(tag), address)
            raise Denied(
                "this registration is not open: it was used, has expired, or another was made after it",
                messages.UNAUTHORIZED,
            )
        log.info("%s has registered, from %s", tag, address)

    async def hashed(self, password: str) -> str:
        """Return what is to be kept of a new password. Raises RPCError for one that is not taken."""
        try:
            async with self._hashing:
                return await asyncio.to_thread(passwords.hashed, password)
        except passwords.Unsuitable as error:
            raise RPCError(str(error), messages.NOT_VALID) from error

    async def _user(self, name: str, tag: str, password: str, place: str) -> Identity | None:
        found = await self._domain.users.user(name)
        kept = found.password_hash if found is not None and not found.disabled else None
        matches = await self._matches(password, kept, tag, place)
        return Identity(tag, found.display_name, found.access) if matches and found is not None else None

    async def _matches(self, password: str, kept: str | None, tag: str, place: str) -> bool:
        """Compare, once for all who ask the same at the same time: fifty commands of one person cost one hash.

        Nothing is remembered once it is answered. Raises Denied.
        """
        loop = asyncio.get_running_loop()
        while (asked := self._comparing.get((password, kept))) is not None:
            await asyncio.wait([asked])
            if not asked.cancelled():
                self._require_turn(tag, place, loop.time())
                return asked.result()
        answer: asyncio.Future[bool] = loop.create_future()
        self._comparing[password, kept] = answer
        try:
            async with self._turn_to_hash(tag, place):
                answer.set_result(await asyncio.to_thread(passwords.matches, password, kept))
            return answer.result()
        finally:
            answer.cancel()  # Where there is none, somebody else has to find out.
            del self._comparing[password, kept]

    @contextlib.asynccontextmanager
    async def _turn_to_hash(self, tag: str, place: str) -> AsyncIterator[None]:
        """Wait until one may hash. Raises Denied."""
        if self._waiting[place] >= _WAITING_FROM_ONE_PLACE:
            raise Denied("too many logins at once from this address; try again", messages.TRY_AGAIN)
        self._waiting[place] += 1
        try:
            async with self._hashing:
                # Many may have asked at once, before any of them had failed: those who waited here are counted first.
                self._require_turn(tag, place, asyncio.get_running_loop().time())
                yield
        finally:
            self._waiting[place] -= 1
            if not self._waiting[place]:
                del self._waiting[place]

    def _require_turn(self, tag: str, place: str, now: float) -> None:
        wait = self.attempts.wait_seconds(tag, place, now)
        if wait:
            raise Denied(f"too many failed logins; try again in {math.ceil(wait)} s", messages.TRY_AGAIN)


def _shown(tag: str) -> str:
    """Return a tag for the log: whoever made it up must not write lines of their own there."""
    return ascii(tag[:80])[1:-1]


def refusal(error: errors.DbAccessorError) -> RPCError:
    """Return how an error of the database is answered. The one place that translates them."""
    match error:
        case errors.NotReady() | errors.NotLeader():
            return RPCError(f"the controllers cannot answer now: {error}", messages.TRY_AGAIN)
        case errors.Indefinite():
            return RPCError(f"it may have happened, or not: {error}")
        case _:
            return RPCError(str(error), messages.BAD_REQUEST)

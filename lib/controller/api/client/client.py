"""A person's or a program's way in: which controller is dialled first, what a login leaves in the store, clear errors.

    async with await Client.connect(Store(), "prod") as client:
        models = await client.call("ModelManager", 9, "ListModelSummaries", {}, dict)

The last good address is dialled first, always; the others follow when it fails, or does not answer at once. A
controller that cannot let anybody in now, or is of an older epoch than this client knows, is passed over. So is one
that does not know the password, which may be older than itself knows: one that was left behind knows those of then.
Redirects are not followed, and never change the store.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

from controller.api import connection, dial, epoch, messages, order, registration, scopes
from controller.api.client.entries import Account, Entry, after_login
from controller.api.client.store import Known, Store, StoreError
from controller.api.connection import Connection, Over, TooLate
from controller.api.dial import DialError, Pace
from controller.api.epoch import Verdict
from controller.api.messages import BadMessage, LoginParams, LoginResult, Nothing, RegisterParams, RPCError
from controller.api.registration import Registration
from controller.api.scopes import HostPort

log = logging.getLogger(__name__)

_T = TypeVar("_T")

# A controller ends a login by itself after twenty seconds: who gave up earlier would take many at once for a failure,
# and ask the next one the same.
_LOGIN_SECONDS = 25.0

# A wrong password is tried at so many controllers at most, once at each: each takes it for a guess.
_MOST_DENIALS = 7


class ClientError(Exception):
    """The client is not in. The message says what to do; what the store holds is as it was."""


class NoPassword(ClientError):
    """The store knows no password for this controller: ask for one."""


class Denied(ClientError):
    """The controllers answer, and do not let this user in with this password."""


class Unavailable(ClientError):
    """Nobody can be reached, or nobody who is reached can let anybody in now. The message names each address."""


class NotNow(Unavailable):
    """Controllers answer, and none of them can let anybody in now: there is no quorum, or it was tried too often."""


class Untrusted(ClientError):
    """Somebody answers with a certificate that is not of this cluster. Nothing was sent to him."""


class Client:
    """One user at one cluster, logged in. Made by `connect` or `register`."""

    def __init__(
        self, store: Store, name: str, password: str | None, pace: Pace, model_uuid: str, *, user: str = ""
    ) -> None:
        self._store = store
        self.name = name
        self._user = user
        self._password = password
        self._pace = pace
        self._model_uuid = model_uuid
        self._connection: Connection | None = None
        self._login: LoginResult | None = None

    @classmethod
    async def connect(
        cls,
        store: Store,
        name: str | None = None,
        *,
        user: str = "",
        password: str | None = None,
        model_uuid: str = "",
        pace: Pace = dial.CLIENT,
    ) -> Client:
        """Return a client that has logged in to the controller of this name, or to the current one.

        `user` and `password` are whom the store names, if not given.
        Raises a ClientError, and StoreError where the store does not know the controller. A store that cannot be
        written is logged, and is no reason not to be in.
        """
        client = cls(store, store.find(name).name, password, pace, model_uuid, user=user)
        await client.reconnect()
        return client

    @classmethod
    async def register(
        cls, store: Store, text: str, password: str, *, name: str = "", pace: Pace = dial.CLIENT
    ) -> Client:
        """Set the password that a registration string lets one set, remember the cluster, and log in.

        Raises BadRegistration, ClientError, and StoreError, before anything is used up where that can be known.
        """
        told = registration.parse(text)
        chosen = name or told.controller_name
        entry = Entry(told.controller_uuid, told.addresses, told.ca_cert)
        store.require_free(chosen, entry.uuid)
        store.require_writable()
        await _set_password(told, password, pace)
        store.add(chosen, entry, Account(told.user, password))
        return await cls.connect(store, chosen, pace=pace)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def connection(self) -> Connection:
        """The connection there is now; it may be over."""
        assert self._connection is not None
        return self._connection

    @property
    def login(self) -> LoginResult:
        """What the last login said."""
        assert self._login is not None
        return self._login

    async def call(
        self,
        type: str,
        version: int,
        request: str,
        params: Any = None,
        kind: type[_T] = Nothing,  # type: ignore[assignment]
        *,
        deadline_seconds: float = 30,
    ) -> _T:
        """Return the answer to one request, from another controller if this one has gone before it was asked.

        Raises RPCError, and Over or TooLate when it may have happened: look before asking again.
        """
        if self.connection.over is not None:
            await self.reconnect()
        return await self.connection.call(type, version, request, params, kind, deadline_seconds=deadline_seconds)

    async def reconnect(self) -> None:
        """Come in anew: at the address that was good last, else at another. Raises a ClientError, StoreError."""
        await self.close()
        known = self._store.find(self.name)
        account = known.account or Account("")
        user = self._user or account.user
        password = self._password or (account.password if user == account.user else "")
        if not user:
            raise NoPassword(f"nobody is logged in to {known.name}: hactl login {known.name}")
        if not password:
            raise NoPassword(f"the password of {user} at {known.name} is not stored: hactl login {known.name}")
        self._connection, self._login = await self._come_in(known, user, password)
        self._remember(known)

    async def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            await self._connection.close()

    async def _come_in(self, known: Known, user: str, password: str) -> tuple[Connection, LoginResult]:
        """Return the first connection that lets the user in, the last good address tried first."""
        entry = known.entry
        asked = LoginParams(auth_tag=f"user-{user}", credentials=password, epoch=entry.epoch)
        addresses = _addresses(entry.api_endpoints)
        left = order.for_client(addresses, addresses[0] if addresses else None)
        passed: list[str] = []
        not_now = False
        denied: dict[str, str] = {}
        pace = self._pace
        while True:
            try:
                made = await _dial(left, entry.ca_cert, pace, self._model_uuid)
            except DialError as error:
                if denied:
                    raise _denied(known.name, user, tuple(denied.values()), passed, error) from error
                raise _no_way_in(known.name, passed, error, not_now=not_now) from error
            left = tuple(address for address in left if address != made.address)
            if made.controller_id in denied:  # Another address of it.
                await made.close()
                continue
            try:
                result = await made.login(asked, deadline_seconds=_LOGIN_SECONDS)
                reason = _not_this_cluster(entry, result)
                if not reason:
                    return made, result
            except RPCError as error:
                reason = await _passed_over(made, error, known.name, user)
                not_now = not_now or error.code == messages.TRY_AGAIN
                if error.code == messages.UNAUTHORIZED:
                    denied[made.controller_id] = reason
                    # The password is wrong most likely, and a person is not to wait for who does not answer.
                    pace = replace(pace, retry=None)
                    left = left if len(denied) < _MOST_DENIALS else ()
            except (Over, TooLate, BadMessage) as error:
                reason = str(error)
            except BaseException:
                await made.close()
                raise
            await made.close()
            passed.append(f"{made.address}: {reason}")

    def _remember(self, known: Known) -> None:
        result = self.login
        try:
            changed = self._store.remember_login(
                known.name,
                known.entry.uuid,
                result.servers,
                str(self.connection.address),
                result.epoch,
                ca_cert=result.ca_cert,
                agent_version=result.server_version,
                public_hostname=result.public_dns_name,
            )
        except StoreError as error:
            log.warning("what the login said is not remembered: %s", error)
            return
        if changed:
            now = after_login(known.entry, result.servers, str(self.connection.address), result.epoch)
            if now.api_endpoints != known.entry.api_endpoints:
                before, after = known.entry.api_endpoints, now.api_endpoints
                log.info("API endpoints changed from %s to %s", list(before), list(after))


async def _set_password(told: Registration, password: str, pace: Pace) -> None:
    """Set it at the first controller that can. One without a quorum is passed over, as at a login."""
    left = _addresses(told.addresses)
    passed: list[str] = []
    asked = RegisterParams(user=told.user, secret=told.secret, password=password)
    while True:
        try:
            made = await _dial(left, told.ca_cert, pace, "")
        except DialError as error:
            raise _no_way_in(told.controller_name, passed, error, not_now=bool(passed)) from error
        async with made:
            try:
                await made.call("Registration", 1, "Complete", asked)
                return
            except RPCError as error:
                if error.code != messages.TRY_AGAIN:
                    raise Denied(f"{told.user} is not registered: {error}") from error
                passed.append(f"{made.address}: {error}")
            except (Over, TooLate, BadMessage) as error:
                # Whether the password was set shows when one logs in with it, which comes next.
                log.info("the answer to the registration was lost: %s", error)
                return
        left = [address for address in left if address != made.address]


async def _dial(addresses: Sequence[HostPort], ca_cert: str, pace: Pace, model_uuid: str) -> Connection:
    context = _context(ca_cert)

    async def connect(address: HostPort) -> Connection:
        return await connection.connect(address, context, model_uuid=model_uuid)

    _, made = await dial.dial(addresses, connect, discard=lambda late: late.close(), pace=pace)
    return made


def _context(ca_cert: str) -> ssl.SSLContext:
    try:
        return connection.client_context(ca_cert)
    except ValueError as error:
        raise Untrusted(f"{error}: register again") from error


def _addresses(endpoints: Sequence[str]) -> list[HostPort]:
    found = []
    for text in endpoints:
        try:
            found.append(scopes.hostport(text))
        except ValueError as error:  # What somebody wrote by hand must not keep the others from being dialled.
            log.warning("an endpoint is passed over: %s", error)
    return found


async def _passed_over(made: Connection, error: RPCError, name: str, user: str) -> str:
    """Return why this controller is passed over. Raises a ClientError where all of them would say the same."""
    if error.code in (messages.TRY_AGAIN, messages.SUPERSEDED, messages.UNAUTHORIZED):
        return str(error)
    await made.close()
    if error.code == messages.REDIRECT:
        raise ClientError(f"{name} has moved to other controllers; redirects are not followed") from error
    raise ClientError(f"{name} does not let {user} in: {error}") from error


def _not_this_cluster(entry: Entry, result: LoginResult) -> str:
    """Say why a login that succeeded is not to be used, "" when it is."""
    if result.controller_tag != f"controller-{entry.uuid}":
        return f"it is of another cluster ({result.controller_tag})"
    known = entry.epoch if entry.epoch.number else None
    match epoch.judge(known, result.epoch):
        case Verdict.OLDER:
            return f"it is of an older epoch than {entry.epoch.number}, which this client has seen: it was left behind"
        case Verdict.RIVAL:
            return f"it is of another epoch {entry.epoch.number} than the one this client has seen"
        case _:
            return ""


def _denied(name: str, user: str, denials: Sequence[str], passed: Sequence[str], error: DialError) -> Denied:
    """Return the error for a user whom nobody let in: one reason where all say the same, else each address's."""
    reasons = [*passed, *map(str, error.failures)]
    if len(reasons) == len(denials):
        reasons = list(dict.fromkeys(denials))
    return Denied(f"{name} does not let {user} in: {'; '.join(reasons)}")


def _no_way_in(name: str, passed: Sequence[str], error: DialError, *, not_now: bool = False) -> ClientError:
    """Return the error for a user: each address with its reason."""
    reasons = [*passed, *map(str, error.failures)]
    sentence = f"no controller of {name} lets anybody in"
    told = f"{sentence}: {'; '.join(reasons)}" if reasons else f"{sentence}: no address is known; register again"
    if not_now:
        return NotNow(told)
    return Untrusted(told) if isinstance(error, dial.Untrusted) and not passed else Unavailable(told)

"""One connection, from its first message to its last: login, requests side by side, watchers, and a clean end.

Whatever a peer sends, its own connection is all it can lose: each request ends in an answer, an error of ours becomes
"internal error" there and a line in the log here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from websockets.frames import CloseCode

from controller.api import login, messages
from controller.api.facade import Facades, Identity, Watcher
from controller.api.limits import Limits
from controller.api.login import Logins
from controller.api.messages import BadMessage, LoginParams, Nothing, RegisterParams, Request, RPCError
from controller.api.stream import Closed, Stream
from dbaccessor import errors

log = logging.getLogger(__name__)

ADMIN, ADMIN_VERSION = "Admin", 3
REGISTRATION, REGISTRATION_VERSION = "Registration", 1
_VERSIONS = {ADMIN: ADMIN_VERSION, REGISTRATION: REGISTRATION_VERSION}


class Session:
    """One connection's conversation; what facades see of it is a Caller. `known` is called once it has logged in."""

    def __init__(
        self,
        stream: Stream,
        model_uuid: str,
        logins: Logins,
        facades: Facades,
        limits: Limits,
        known: Callable[[], None] = lambda: None,
    ) -> None:
        self._stream = stream
        self._model_uuid = model_uuid
        self._logins = logins
        self._facades = facades
        self._limits = limits
        self._known = known
        self._identity: Identity | None = None
        self._watchers: dict[str, Watcher] = {}
        self._made = 0
        self._requests: set[asyncio.Task[None]] = set()

    @property
    def identity(self) -> Identity:
        assert self._identity is not None, "before the login there is nobody to ask for"
        return self._identity

    @property
    def model_uuid(self) -> str:
        return self._model_uuid

    @property
    def place(self) -> str:
        return self._stream.place

    def has_new_secret(self, secret_hash: str) -> None:
        """The agent has replaced its secret on this connection: what is kept of it now."""
        self._identity = replace(self.identity, secret_hash=secret_hash)

    def add_watcher(self, watcher: Watcher) -> str:
        """Keep a watcher for this connection and return its id. Raises RPCError when there are too many."""
        if len(self._watchers) >= self._limits.watchers:
            watcher.stop()
            raise RPCError(f"{len(self._watchers)} watchers are the most of one connection", messages.QUOTA_EXCEEDED)
        self._made += 1
        self._watchers[str(self._made)] = watcher
        return str(self._made)

    def watcher(self, id: str) -> Watcher:
        """Return a watcher of this connection. Raises RPCError."""
        if id not in self._watchers:
            raise RPCError("unknown watcher id", messages.NOT_FOUND)
        return self._watchers[id]

    def remove_watcher(self, id: str) -> None:
        """Stop a watcher of this connection. Raises RPCError."""
        self.watcher(id).stop()
        del self._watchers[id]

    async def run(self, login_seconds: float) -> str:
        """Serve until the connection ends, and return why it did. Cancelled, it says so to the other side first."""
        code, reason = CloseCode.NORMAL_CLOSURE, ""
        try:
            async with asyncio.timeout(login_seconds):
                refused = await self._until_login()
            if refused:
                code, reason = CloseCode.POLICY_VIOLATION, refused
                return reason
            self._stream.trust()
            self._known()
            await self._serve()
            return ""
        except TimeoutError:
            code, reason = CloseCode.POLICY_VIOLATION, "there was no login in time"
            return reason
        except Closed as closed:
            return str(closed)
        except asyncio.CancelledError:
            code, reason = CloseCode.GOING_AWAY, "this controller stops"
            raise
        finally:
            await self._end_requests()
            await self._stream.close(code, reason)

    async def _until_login(self) -> str:
        """Return "" once the login has succeeded, or why there will be none. One request at a time."""
        failures = 0
        while self._identity is None:
            data = await self._stream.receive()
            try:
                asked = messages.request(data)
            except BadMessage as bad:
                await self._stream.send(messages.refusal(bad.request_id, RPCError(str(bad), messages.BAD_REQUEST)))
                return "the first message was no request"
            try:
                answer = messages.answer(asked.request_id, await self._before_login(asked))
            except RPCError as error:
                failures += 1
                answer = messages.refusal(asked.request_id, error)
            except errors.DbAccessorError as error:
                answer = messages.refusal(asked.request_id, login.refusal(error))
            except Exception:
                log.exception("a login from %s", self._stream.place)
                answer = messages.refusal(asked.request_id, RPCError("internal error"))
            await self._stream.send(answer)
            if failures >= self._limits.failures:
                return "too many failed logins"
        return ""

    async def _before_login(self, asked: Request) -> object:
        version = _VERSIONS.get(asked.type)
        if version is None:
            raise RPCError("not logged in: Admin(3).Login comes first", messages.UNAUTHORIZED)
        if asked.version != version:
            raise RPCError(f'unknown version ({asked.version}) of interface "{asked.type}"', messages.NOT_IMPLEMENTED)
        match asked.type, asked.request:
            case "Admin", "Login":
                self._identity, result = await self._logins.login(
                    messages.params(asked, LoginParams), self._stream.place, self._model_uuid
                )
                return result
            case "Admin", "RedirectInfo":
                raise RPCError("not redirected", messages.NOT_FOUND)
            case "Registration", "Complete":
                await self._logins.register(messages.params(asked, RegisterParams), self._stream.place)
                return Nothing()
        where = f"{asked.type}({asked.version}).{asked.request[:80]}"
        raise RPCError(f"no such request - method {where} is not implemented", messages.NOT_IMPLEMENTED)

    async def _serve(self) -> None:
        while True:
            data = await self._stream.receive()
            try:
                asked = messages.request(data)
            except BadMessage as bad:
                await self._stream.send(messages.refusal(bad.request_id, RPCError(str(bad), messages.BAD_REQUEST)))
                continue
            if len(self._requests) >= self._limits.requests:
                error = RPCError(f"{self._limits.requests} requests at once are the most", messages.QUOTA_EXCEEDED)
                await self._stream.send(messages.refusal(asked.request_id, error))
                continue
            task = asyncio.create_task(self._answer(asked))
            self._requests.add(task)
            task.add_done_callback(self._requests.discard)

    async def _answer(self, asked: Request) -> None:
        try:
            message = await self._answered(asked)
            await self._stream.send(message)
        except Closed as closed:
            # The one who receives may be waiting; it is told what happened.
            self._stream.cut(str(closed))

    async def _answered(self, asked: Request) -> bytes:
        try:
            method = self._facades.method(asked, self.identity)
            params = messages.params(asked, method.takes)
            async with asyncio.timeout(None if method.waits else self._limits.request_seconds):
                return messages.answer(asked.request_id, await method.call(self, params, asked.id))
        except RPCError as error:
            return messages.refusal(asked.request_id, error)
        except errors.DbAccessorError as error:
            return messages.refusal(asked.request_id, login.refusal(error))
        except TimeoutError:
            late = RPCError(f"not done within {self._limits.request_seconds:g} s", messages.TRY_AGAIN)
            return messages.refusal(asked.request_id, late)
        except Exception:
            log.exception("%s(%d).%s for %s", asked.type, asked.version, asked.request, self.identity.tag)
            return messages.refusal(asked.request_id, RPCError("internal error"))

    async def _end_requests(self) -> None:
        for watcher in self._watchers.values():
            watcher.stop()
        self._watchers.clear()
        tasks = list(self._requests)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

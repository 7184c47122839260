"""Plain HTTP on the API's port: is this controller well, and what is going on inside it.

| path | who may | what |
|---|---|---|
| /health | anybody | 200 while this controller serves, 503 with the reason while it does not |
| /introspection/metrics | a superuser, by HTTP's Basic | the metrics, for Prometheus |
| /introspection/depengine | the same | the engine's report |
| /introspection/cluster | the same | the status document |
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from controller.api import login
from controller.api.login import Logins
from controller.api.messages import TRY_AGAIN, RPCError
from dbaccessor import errors

_TEXT = "text/plain; charset=utf-8"
_JSON = "application/json"
_CHALLENGE = ("WWW-Authenticate", 'Basic realm="ha-controller", charset="UTF-8"')


@dataclass(frozen=True)
class Page:
    """What is sent back."""

    status: int
    content_type: str = _TEXT
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = field(default=())


@dataclass(frozen=True)
class Sources:
    """Where the pages come from. `unwell` returns "" while this controller serves, else why it does not."""

    unwell: Callable[[], str]
    metrics: Callable[[], Awaitable[tuple[str, bytes]]]
    depengine: Callable[[], Awaitable[Mapping[str, Any]]]
    cluster: Callable[[], Awaitable[Mapping[str, Any]]]


class Pages:
    """Answers plain HTTP requests."""

    def __init__(self, sources: Sources, logins: Logins) -> None:
        self._sources = sources
        self._logins = logins

    async def answer(self, path: str, authorization: str, place: str) -> Page | None:
        """Return what to answer; None for a path that is none of these."""
        path = path.partition("?")[0]
        if path == "/health":
            reason = self._sources.unwell()
            return Page(503, body=f"{reason}\n".encode()) if reason else Page(200, body=b"ok\n")
        inside = {
            "/introspection/metrics": self._metrics,
            "/introspection/depengine": self._depengine,
            "/introspection/cluster": self._cluster,
        }.get(path)
        if inside is None:
            return None
        refused = await self._refusal(authorization, place)
        return refused or await inside()

    async def _refusal(self, authorization: str, place: str) -> Page | None:
        if not authorization:
            return Page(401, body=b"log in: user-NAME and password\n", headers=(_CHALLENGE,))
        try:
            tag, password = _basic(authorization)
            identity = await self._logins.authenticate(tag, password, place)
        except ValueError as error:
            return Page(400, body=f"{error}\n".encode())
        except RPCError as error:
            status = 429 if error.code == TRY_AGAIN else 401
            return Page(status, body=f"{error}\n".encode(), headers=(_CHALLENGE,) if status == 401 else ())
        except errors.DbAccessorError as error:
            return Page(503, body=f"{login.refusal(error)}\n".encode())
        return None if identity.is_superuser else Page(403, body=b"permission denied\n")

    async def _metrics(self) -> Page:
        content_type, body = await self._sources.metrics()
        return Page(200, content_type, body)

    async def _depengine(self) -> Page:
        return Page(200, _JSON, msgspec.json.encode(await self._sources.depengine()) + b"\n")

    async def _cluster(self) -> Page:
        return Page(200, _JSON, msgspec.json.encode(await self._sources.cluster()) + b"\n")


def _basic(header: str) -> tuple[str, str]:
    scheme, _, rest = header.partition(" ")
    try:
        text = base64.b64decode(rest.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        text = ""
    tag, colon, password = text.partition(":")
    if scheme.lower() != "basic" or not colon:
        raise ValueError("Authorization is not Basic with a name and a password")
    return tag, password

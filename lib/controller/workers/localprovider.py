"""Flow 2, hop 8: the provider `local`, a service that makes hosts on one machine; HTTP and JSON over TCP or unix.

A client of forty lines instead of a library: one request a connection, an answer of bounded size, one deadline for all
of it, and every failure translated into what the caller can do.
"""

from __future__ import annotations

import asyncio
import base64
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from controller.workers.provider import Gone, Instance, NotDone, ProviderError, Refused, Spec, TryAgain

# The image's interpreter, with the packages that agentd needs (docs/reference/localjuju.md).
PYTHON = "/var/lib/cloud/python3"

START_SECONDS = 20.0  # Asked again after it, a start that is still under way is the same one.
STOP_SECONDS = 20.0
LIST_SECONDS = 5.0

_T = TypeVar("_T")

_HEAD_BYTES = 64 << 10
_ANSWER_BYTES = 8 << 20
_REFUSALS: dict[int, type[ProviderError]] = {400: Refused, 410: Gone, 507: NotDone}


class BadUrl(ValueError):
    """Not the address of a provider; the text says which forms there are."""


@dataclass(frozen=True)
class Endpoint:
    """Where the service listens: `path` of a unix socket, else host and port."""

    host: str = ""
    port: int = 0
    path: str = ""


def parse_url(url: str) -> Endpoint:
    """Return where `url` leads. Raises BadUrl."""
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BadUrl(f"{url}: {error}") from None
    if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/"):
        return Endpoint(path=parts.path)
    if parts.scheme == "http" and parts.hostname and port and parts.path in ("", "/") and not parts.username:
        return Endpoint(host=parts.hostname, port=port)
    raise BadUrl(f"{url!r} is no provider's address: http://HOST:PORT or unix:///PATH")


class _Shown(msgspec.Struct, frozen=True):
    uuid: str
    instance: str
    address: str = ""


class _Listed(msgspec.Struct, frozen=True):
    instances: tuple[_Shown, ...]


class _Refusal(msgspec.Struct, frozen=True):
    reason: str


class LocalProvider:
    """The instances with these tags. `asker` goes into the service's log: who asked, under which token."""

    def __init__(self, url: str, tags: Mapping[str, str], asker: str) -> None:
        self._endpoint = parse_url(url)
        self._url = url
        self._tags = dict(tags)
        self._asker = asker

    @property
    def name(self) -> str:
        """The address itself: the service has no other name."""
        return self._url.rstrip("/")

    async def start(self, uuid: str, spec: Spec) -> Instance:
        answer = await self._ask("PUT", f"/{uuid}", START_SECONDS, _document(spec, self._tags))
        return _instance(_decoded(answer, _Shown))

    async def stop(self, uuid: str) -> None:
        # Somebody else's instance is stopped as readily: the service knows no owners.
        await self._ask("DELETE", f"/{uuid}", STOP_SECONDS)

    async def list(self) -> tuple[Instance, ...]:
        answer = await self._ask("GET", f"?{urllib.parse.urlencode(self._tags)}", LIST_SECONDS)
        return tuple(_instance(shown) for shown in _decoded(answer, _Listed).instances)

    async def _ask(self, method: str, target: str, limit_seconds: float, document: object = None) -> bytes:
        failure: type[TryAgain] = NotDone
        try:
            async with asyncio.timeout(limit_seconds):
                reader, writer = await self._connected()
                failure = TryAgain  # From here on it may arrive, whatever comes back.
                status, body = await self._converse(reader, writer, method, target, document)
        except TimeoutError:
            raise failure(f"{self._url} did not answer within {limit_seconds:g} s") from None
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            raise failure(f"{self._url}: {str(error) or type(error).__name__}") from None
        if status == 200:
            return body
        try:
            refusal = msgspec.json.decode(body, type=_Refusal)
        except msgspec.DecodeError:
            # Not a provider at all, perhaps. A wrong address can be corrected, so nothing is given up for it.
            kind = NotDone if status == 404 else TryAgain
            raise kind(f"{self._url} answered {status}, and is no provider") from None
        raise _REFUSALS.get(status, TryAgain)(refusal.reason)

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        end = self._endpoint
        if end.path:
            return await asyncio.open_unix_connection(end.path, limit=_HEAD_BYTES)
        return await asyncio.open_connection(end.host, end.port, limit=_HEAD_BYTES)

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: str, target: str, document: object
    ) -> tuple[int, bytes]:
        content = b"" if document is None else msgspec.json.encode(document)
        try:
            writer.write(
                f"{method} /v1/instances{target} HTTP/1.1\r\nHost: local\r\nX-Asked-By: {self._asker}\r\n"
                f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode()
                + content
            )
            await writer.drain()
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            first, *lines = head.split("\r\n")
            headers = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
            length = int(headers["content-length"]) if "content-length" in headers else -1
            if not 0 <= length <= _ANSWER_BYTES:
                raise ValueError(f"an answer of {length} bytes")
            return int(first.split(" ")[1]), await reader.readexactly(length)
        except (IndexError, KeyError) as error:
            raise ValueError(f"not HTTP: {error}") from None
        finally:
            # Not close(), which first sends what is left: to somebody who does not read that takes for ever.
            writer.transport.abort()


def _document(spec: Spec, tags: Mapping[str, str]) -> dict[str, Any]:
    return {
        "hostname": spec.hostname,
        "tags": dict(tags),
        "files": [{"path": f.path, "text": f.text, "mode": f.mode} for f in spec.files],
        "archives": [{"folder": a.folder, "base64": base64.b64encode(a.content).decode()} for a in spec.archives],
        "services": list(spec.services),
    }


def _instance(shown: _Shown) -> Instance:
    return Instance(shown.uuid, shown.instance, shown.address)


def _decoded(body: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise TryAgain(f"the provider's answer is not understood: {error}") from None

"""The cloud's door: HTTP/1.1, one request a connection.

| request | answer |
|---|---|
| `GET /v1/instances[?KEY=VALUE…]` | `{"instances": […]}`, those with all of these tags |
| `PUT /v1/instances/UUID`, body: the spec | the instance, once it runs |
| `DELETE /v1/instances/UUID` | `{}`, once nothing of it is left |

A refusal is `{"error": "Gone" | "Full" | "BadSpec" | "LaunchFailed", "reason": …}` with status 410, 507, 400 or 503.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.parse
from typing import Any

from localjuju.cloud import BadSpec, Cloud, CloudError, Full, Gone, LaunchFailed

PORT = 17999
_HEAD_BYTES = 16 << 10
_BODY_BYTES = 16 << 20
_READ_SECONDS = 20.0
_STATUS: dict[type[CloudError], int] = {Gone: 410, Full: 507, BadSpec: 400, LaunchFailed: 503}
_WORDS = {200: "OK", 400: "Bad Request", 404: "Not Found", 410: "Gone", 503: "Unavailable", 507: "Full"}
_PREFIX = "/v1/instances"


async def serve(cloud: Cloud, host: str, port: int) -> asyncio.Server:
    """Answer at this address until the server is closed."""

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError, asyncio.IncompleteReadError):
            try:
                async with asyncio.timeout(_READ_SECONDS):
                    method, target, headers, body = await _request(reader)
                status, document = await _answer(cloud, method, target, headers, body)
            except (ValueError, asyncio.LimitOverrunError) as error:
                status, document = 400, {"error": "BadSpec", "reason": f"the request is not understood: {error}"}
            content = json.dumps(document).encode() + b"\n"
            writer.write(
                f"HTTP/1.1 {status} {_WORDS[status]}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode()
                + content
            )
            async with asyncio.timeout(_READ_SECONDS):
                await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    return await asyncio.start_server(converse, host, port, limit=_HEAD_BYTES)


async def _request(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str], bytes]:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)}
    length = int(headers.get("content-length", "0"))
    if not 0 <= length <= _BODY_BYTES:
        raise ValueError(f"a body of {length} bytes")
    return method, target, headers, await reader.readexactly(length)


async def _answer(
    cloud: Cloud, method: str, target: str, headers: dict[str, str], body: bytes
) -> tuple[int, dict[str, Any]]:
    parts = urllib.parse.urlsplit(target)
    uuid = parts.path.removeprefix(_PREFIX).removeprefix("/")
    asker = headers.get("x-asked-by", "")
    try:
        match method, parts.path.startswith(_PREFIX), uuid:
            case "GET", True, "":
                return 200, {"instances": cloud.list(dict(urllib.parse.parse_qsl(parts.query)))}
            case "PUT", True, uuid if uuid:
                spec = json.loads(body)
                if not isinstance(spec, dict):
                    raise BadSpec("the spec is no object")
                return 200, await cloud.start(uuid, spec, asker)
            case "DELETE", True, uuid if uuid:
                await cloud.stop(uuid, asker)
                return 200, {}
            case _:
                return 404, {"error": "BadSpec", "reason": f"there is no {method} {parts.path}"}
    except CloudError as error:
        return _STATUS[type(error)], {"error": type(error).__name__, "reason": str(error)}

"""Answers on control.socket: waiting for the daemon's loop from a socket's thread, and what goes over the wire.

A request is a `Route`: a method, a path, the manifold whose output answers it, and a coroutine. So a module adds its
requests by having a tuple of routes, and a request that needs a worker which does not run is NotReady and says why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Any

import msgspec

from controller.engine import Missing
from dbaccessor import confsocket, errors
from dbaccessor.confsocket import Handler, Response

_GONE_SECONDS = 0.1
_LONGEST_SECONDS = 60.0

_STATUS: dict[type[errors.DbAccessorError], int] = {
    errors.Refused: 400,
    errors.Indefinite: 409,
    errors.NotReady: 503,
    errors.NotLeader: 503,
}


class Nothing(msgspec.Struct, frozen=True):
    """The body of a request that needs none."""


@dataclass(frozen=True)
class Route:
    """One request of control.socket. `handle` gets what `manifold` offers (an instance of `kind`) and the body, parsed.

    It runs on the daemon's loop and returns what becomes JSON. A DbAccessorError is answered as such; what takes longer
    than `limit_seconds` is cancelled and NotReady.
    """

    method: str
    path: str
    manifold: str
    kind: type[Any]
    handle: Callable[[Any, Any], Awaitable[Any]]
    body: type[Any] = Nothing
    limit_seconds: float = 20.0


def handlers(
    routes: Iterable[Route], output: Callable[[str], object], loop: asyncio.AbstractEventLoop
) -> dict[tuple[str, str], Handler]:
    """Return the handlers of these routes. `output` is the engine's."""
    return {(route.method, route.path): _handler(route, output, loop) for route in routes}


def _handler(route: Route, output: Callable[[str], object], loop: asyncio.AbstractEventLoop) -> Handler:
    async def work(body: Any) -> Any:
        try:
            offered = output(route.manifold)
        except Missing as error:
            raise errors.NotReady(f"{error} does not run here now; hactl engine says why") from error
        if not isinstance(offered, route.kind):
            raise TypeError(f"{route.manifold} offers {type(offered).__name__}, not {route.kind.__name__}")
        return await route.handle(offered, body)

    def handle(body: bytes) -> Response:
        parsed = msgspec.json.decode(body or b"{}", type=route.body)
        return as_json(wait(work(parsed), loop, route.limit_seconds))

    return answering(handle)


def wait(
    work: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop, limit_seconds: float, *, watch: bool = True
) -> Any:
    """Return what `work` returns on the loop; cancel it at the limit or, with `watch`, once whoever asked has gone."""
    future = asyncio.run_coroutine_threadsafe(work, loop)
    left = limit_seconds
    try:
        while True:
            try:
                return future.result(timeout=min(left, _GONE_SECONDS) if watch else left)
            except FutureTimeout:
                left -= _GONE_SECONDS if watch else left
                if future.done():
                    raise
                if left <= 0:
                    raise errors.NotReady(f"not done within {limit_seconds:g} s") from None
                if confsocket.client_gone():
                    raise errors.NotReady("whoever asked has gone") from None
    finally:
        future.cancel()


def answering(handler: Handler) -> Handler:
    """Turn what the database says no with into an answer that says so."""

    def answer(body: bytes) -> Response:
        try:
            return handler(body)
        except errors.DbAccessorError as error:
            return _refusal(_STATUS.get(type(error), 503), type(error).__name__, str(error))
        except (TimeoutError, CancelledError):
            return _refusal(503, "NotReady", "it took too long")
        except msgspec.DecodeError as error:
            return _refusal(400, "Refused", f"the request is not understood: {error}")

    return answer


def as_json(document: Any) -> Response:
    """Return the answer that says "done" with this document."""
    return 200, "application/json", msgspec.json.encode(document) + b"\n"


def _refusal(status: int, kind: str, reason: str) -> Response:
    return status, "application/json", msgspec.json.encode({"error": kind, "reason": reason}) + b"\n"

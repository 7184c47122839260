"""Flow 3, hop 6: an order of addresses -> the first connection that stands, or why there is none.

A staggered race ("happy eyeballs"): the next address is started after an interval, or at once when one has failed, so
that a silent address costs an interval and not its time-out. The first success wins; the others are cancelled, and one
that came about meanwhile is closed. What is wrong with a certificate does not get better by asking again, and tells
more than "connection refused": it is never retried, and is the first thing reported.

The race knows nothing of TLS or websockets: it is given `connect`.
"""

from __future__ import annotations

import asyncio
import enum
import os
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from controller.api.scopes import HostPort
from dbaccessor import tls

_T = TypeVar("_T")

# How long a connection that lost the race may take to say goodbye.
_DISCARD_SECONDS = 1.0


@dataclass(frozen=True)
class Pace:
    """How patient a race is, in seconds. `retry` is when a failed address is tried again, None for never."""

    interval: float
    attempt: float
    total: float
    retry: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.interval <= self.attempt <= self.total:
            raise ValueError(f"0 < interval <= attempt <= total must hold, not {self}")


# An agent comes again by itself, with a new order; a person waits for the answer. When a controller has died, all its
# agents come at once: with a shorter interval each of them would shake hands with all of the slowed-down rest.
AGENT = Pace(interval=0.5, attempt=5.0, total=60.0)
CLIENT = Pace(interval=0.25, attempt=5.0, total=30.0, retry=2.0)


class Kind(enum.IntEnum):
    """What went wrong, the most telling first."""

    CERTIFICATE = 0
    ANSWER = 1  # Somebody is there, and not as expected.
    SILENCE = 2
    NETWORK = 3


@dataclass(frozen=True)
class Failure:
    """One address, and why there is no connection to it, in a few words."""

    address: HostPort
    kind: Kind
    reason: str

    def __str__(self) -> str:
        return f"{self.address}: {self.reason}"


class PeerError(Exception):
    """Raised by a `connect`: somebody answered, and cannot be used. The message says why in a few words."""

    def __init__(self, kind: Kind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class DialError(Exception):
    """No connection. `failures` has each address's last, the most telling first; the message names all of them."""

    def __init__(self, what: str, failures: Iterable[Failure]) -> None:
        self.failures = tuple(sorted(failures, key=lambda f: f.kind))
        super().__init__(f"{what}: {'; '.join(map(str, self.failures))}" if self.failures else what)


class Unreachable(DialError):
    """No address answered: wait, or look at the network."""


class Rejected(DialError):
    """An address answered, and not as a controller of ours does: look at what listens there."""


class Untrusted(DialError):
    """An address answered with a certificate that is not trusted: look whose it is before anything else."""


async def dial(
    addresses: Sequence[HostPort],
    connect: Callable[[HostPort], Awaitable[_T]],
    *,
    discard: Callable[[_T], Awaitable[None]],
    pace: Pace,
    on_failure: Callable[[Failure], None] = lambda _: None,
) -> tuple[HostPort, _T]:
    """Return the first connection that stands, and its address. Raises a DialError when there is none.

    `connect` may raise OSError, TimeoutError, EOFError or PeerError; anything else is a defect and ends the race.
    `discard` closes a connection that came too late. When this returns or raises, no attempt is left.
    """
    race = _Race(addresses, connect, pace, on_failure)
    try:
        winner = await race.run()
    finally:
        await race.end(discard)
    return winner


def failure_of(address: HostPort, error: Exception, attempt_seconds: float) -> Failure:
    """Translate what a `connect` raised."""
    match error:
        case PeerError():
            return Failure(address, error.kind, str(error))
        case TimeoutError():
            return Failure(address, Kind.SILENCE, f"no answer within {attempt_seconds:g} s")
        case ssl.SSLCertVerificationError():
            return Failure(address, Kind.CERTIFICATE, tls.explain(error))
        case ssl.SSLError() | EOFError():
            return Failure(address, Kind.ANSWER, tls.explain(error))
        case OSError() if error.errno is not None and error.errno > 0:
            # The system's words: asyncio's own ("Connect call failed …") do not say why.
            return Failure(address, Kind.NETWORK, os.strerror(error.errno).lower())
        case ConnectionResetError() | BrokenPipeError():
            return Failure(address, Kind.NETWORK, tls.explain(error))
        case OSError() if error.strerror:  # A name that cannot be resolved: its numbers are no errno.
            return Failure(address, Kind.NETWORK, error.strerror.lower())
        case _:
            return Failure(address, Kind.NETWORK, str(error) or type(error).__name__)


class _Race(Generic[_T]):
    def __init__(
        self,
        addresses: Sequence[HostPort],
        connect: Callable[[HostPort], Awaitable[_T]],
        pace: Pace,
        on_failure: Callable[[Failure], None],
    ) -> None:
        self._waiting = deque(dict.fromkeys(addresses))
        self._again: deque[tuple[float, HostPort]] = deque()  # When, and whom: in the order of time.
        self._running: dict[asyncio.Task[_T], HostPort] = {}
        self._connect = connect
        self._pace = pace
        self._on_failure = on_failure
        self._failures: dict[HostPort, Failure] = {}
        self._won: asyncio.Task[_T] | None = None
        self._next_start = 0.0

    async def run(self) -> tuple[HostPort, _T]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._pace.total
        while True:
            self._start_due(loop.time())
            if loop.time() >= deadline or not (self._running or self._waiting or self._again):
                raise self._error()
            await self._until(min(deadline, self._next_event()))
            for task in [t for t in self._running if t.done()]:
                address = self._running[task]
                error = task.exception()
                if error is None:
                    self._won = task
                    return address, task.result()
                del self._running[task]
                self._note(address, error, loop.time())

    async def end(self, discard: Callable[[_T], Awaitable[None]]) -> None:
        """Cancel what runs, and close what stands and did not win."""
        losers = [task for task in self._running if task is not self._won]
        for task in losers:
            task.cancel()
        await asyncio.gather(*losers, return_exceptions=True)
        late = [t.result() for t in losers if not t.cancelled() and t.exception() is None]
        if late:
            await asyncio.gather(*(_close(discard, connection) for connection in late), return_exceptions=True)

    def _start_due(self, now: float) -> None:
        while self._again and self._again[0][0] <= now:
            self._waiting.append(self._again.popleft()[1])
        if self._waiting and (now >= self._next_start or not self._running):
            address = self._waiting.popleft()
            self._running[asyncio.create_task(self._attempt(address), name=f"dial {address}")] = address
            self._next_start = now + self._pace.interval

    async def _attempt(self, address: HostPort) -> _T:
        async with asyncio.timeout(self._pace.attempt):
            return await self._connect(address)

    def _next_event(self) -> float:
        if self._waiting:
            return self._next_start
        return self._again[0][0] if self._again else float("inf")

    async def _until(self, moment: float) -> None:
        left = max(0.0, moment - asyncio.get_running_loop().time())
        if self._running:
            await asyncio.wait(
                self._running, timeout=left if left != float("inf") else None, return_when=asyncio.FIRST_COMPLETED
            )
        else:
            await asyncio.sleep(left)

    def _note(self, address: HostPort, error: BaseException, now: float) -> None:
        if not isinstance(error, OSError | EOFError | PeerError):  # TimeoutError and ssl's are OSErrors.
            raise error
        failure = failure_of(address, error, self._pace.attempt)
        self._failures[address] = failure
        self._on_failure(failure)
        self._next_start = now
        if self._pace.retry is not None and failure.kind is not Kind.CERTIFICATE:
            self._again.append((now + self._pace.retry, address))

    def _error(self) -> DialError:
        for address in self._running.values():
            silent = Failure(address, Kind.SILENCE, f"no answer within {self._pace.total:g} s")
            self._failures.setdefault(address, silent)
        worst = min((f.kind for f in self._failures.values()), default=None)
        failures = self._failures.values()
        match worst:
            case Kind.CERTIFICATE:
                return Untrusted("no controller can be trusted", failures)
            case Kind.ANSWER:
                return Rejected("nobody answers as a controller does", failures)
            case None:
                return Unreachable("there is no address to dial", ())
            case _:
                return Unreachable("no controller can be reached", failures)


async def _close(discard: Callable[[_T], Awaitable[None]], connection: _T) -> None:
    async with asyncio.timeout(_DISCARD_SECONDS):
        await discard(connection)

"""Flow 2, hop 4: what a single-instance worker gets, and the decorator that runs it only where it is responsible."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol, TypeVar, cast, runtime_checkable

from controller.engine.housing import Decorator
from controller.engine.manifold import Bounce, EngineError, Getter, Manifold, Missing, Worker
from controller.leases.fence import FencedDatabase
from controller.leases.lease import Fenced, Key, Lost, Token
from dbaccessor.database import Database

_T = TypeVar("_T")

# Why most responsibilities that are lost are over.
LATE: Final = "it was not renewed in time"


class Responsibility:
    """One holding of one lease. What works under it writes through `fenced` alone, and asks `check` before it acts.

    It ends once and for all: when its deadline passes on the holder's own clock, when another has taken over, or when
    it is given up. `holder` is the controller id, `incarnation` this process's.
    """

    def __init__(self, key: Key, token: Token, holder: str, incarnation: str, now: Callable[[], float]) -> None:
        self.key = key
        self.token = token
        self.holder = holder
        self.incarnation = incarnation
        self.deadline = float("inf")
        self.why_over = ""
        self._now = now
        self._over = asyncio.Event()
        self._guests = 0
        self._vacated = asyncio.Event()
        self._vacated.set()
        self._fenced: dict[str, FencedDatabase] = {}

    def check(self) -> None:
        """Raise Lost once it is over. Also right after the process was paused: it asks the clock, not a timer."""
        if not self.why_over and self._now() >= self.deadline:
            self.end(LATE)
        if self.why_over:
            raise Lost(f"responsibility {self.token} for {self.key} is over: {self.why_over}")

    @property
    def seconds_left(self) -> float:
        """How long it holds if it is not renewed again; 0 when it is over."""
        return 0.0 if self.why_over else max(0.0, self.deadline - self._now())

    async def lost(self) -> None:
        """Return when it is over."""
        await self._over.wait()

    def fenced(self, database: Database) -> FencedDatabase:
        """Return this database as it may be used under this responsibility; the same one each time."""
        if database.name not in self._fenced:
            self._fenced[database.name] = FencedDatabase(database, self)
        return self._fenced[database.name]

    @contextlib.contextmanager
    def occupied(self) -> Iterator[None]:
        """While the block runs somebody works under this: it is not given to others by a clean stop before it ends.

        Raises Lost.
        """
        self.check()
        self._guests += 1
        self._vacated.clear()
        try:
            yield
        finally:
            self._guests -= 1
            if not self._guests:
                self._vacated.set()

    # What only the keeper of the lease, and a fence that was raised by a later holder, call.

    def hold_until(self, deadline: float) -> None:
        self.deadline = deadline

    def end(self, why: str) -> None:
        """Make it over. The first reason stays."""
        if not self.why_over:
            self.why_over = why
            self._over.set()

    async def vacated(self) -> None:
        """Return when nobody works under it."""
        await self._vacated.wait()


@runtime_checkable
class Singular(Protocol):
    """The output of a singular flag (singular.py)."""

    @property
    def responsibility(self) -> Responsibility | None:
        """What is held, None while the flag says no. It is the same for as long as the flag's worker lives."""
        ...

    def check(self) -> bool: ...


def is_responsible(flag: str = "is-responsible") -> Decorator:
    """Return a decorator: the manifold runs only while this singular flag says yes.

    Its start gets the responsibility by `get(flag, Singular).responsibility`, and databases by
    `get(name, FencedDatabase)`: fenced by this responsibility. Asking for a plain Database raises EngineError.
    A worker that ends with Lost or Fenced is started again when this controller is responsible again.
    """

    def house(manifold: Manifold) -> Manifold:
        def start(get: Getter) -> Worker:
            responsibility = get(flag, Singular).responsibility  # type: ignore[type-abstract]
            if responsibility is None:
                raise Missing(f"{flag} says no")
            return _Occupant(manifold.start(_fencing(get, responsibility)), responsibility)

        def output(occupant: Any) -> object:
            return manifold.output(occupant.worker)

        inputs = manifold.inputs if flag in manifold.inputs else (*manifold.inputs, flag)
        return dataclasses.replace(manifold, inputs=inputs, start=start, output=output)

    return house


def _fencing(get: Getter, responsibility: Responsibility) -> Getter:
    """Return a getter that hands databases out fenced, and in no other way."""

    def fencing(name: str, kind: type[_T]) -> _T:
        if kind is FencedDatabase:
            return cast(_T, responsibility.fenced(get(name, Database)))
        found = get(name, kind)
        if isinstance(found, Database):
            raise EngineError(
                f"a single-instance worker may not have {name} as a plain Database, which a former holder could write:"
                f' ask for get("{name}", FencedDatabase); it reads and writes'
            )
        return found

    return fencing


class _Occupant:
    """A worker inside of its responsibility."""

    def __init__(self, worker: Worker, responsibility: Responsibility) -> None:
        self.worker = worker
        self._responsibility = responsibility
        self.report = getattr(worker, "report", None)

    async def run(self) -> None:
        try:
            with self._responsibility.occupied():
                await self.worker.run()
        except (Lost, Fenced) as error:
            raise Bounce(str(error)) from error

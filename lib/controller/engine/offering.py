"""Manifolds for what is no work of its own: a value that others need, and one that has to be prepared first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from controller.engine.manifold import Bounce, Getter, Manifold, Missing, Worker


class Offer:
    """A worker that only exists, so that its value can be had by name. `value` is what it offers."""

    def __init__(self, value: object) -> None:
        self.value = value

    async def run(self) -> None:
        """Exist until cancelled."""
        await asyncio.Event().wait()

    def report(self) -> object:
        """Return the value's own report, {} when it has none."""
        report = getattr(self.value, "report", None)
        return report() if callable(report) else {}


def offer(make: Callable[[Getter], object], inputs: tuple[str, ...] = ()) -> Manifold:
    """Return a manifold that offers what `make` makes of its inputs; made anew whenever one of them changes."""
    return Manifold(lambda get: Offer(make(get)), inputs, output=lambda worker: worker.value)


class _Loan(Offer):
    """Reports nothing: the value's own worker runs, and reports, somewhere else."""

    def report(self) -> object:
        return {}


def lend(value: object) -> Manifold:
    """Return a manifold that offers a value which lives elsewhere, as for the engine inside of a worker."""
    return Manifold(lambda _: _Loan(value), output=lambda worker: worker.value)


# What a preparation results in: the worker that keeps it up, whose `value` is offered.
Prepare = Callable[[], Awaitable[Offer]]


class _Preparing:
    def __init__(self, prepare: Prepare, keep: Callable[[Offer], None]) -> None:
        self._prepare = prepare
        self._keep = keep

    async def run(self) -> None:
        self._keep(await self._prepare())
        raise Bounce("prepared")

    def report(self) -> dict[str, object]:
        return {"prepared": False}


def gate(make: Callable[[Getter], Prepare], inputs: tuple[str, ...] = ()) -> Manifold:
    """Return a manifold that offers its value only once it is prepared, so that who needs it starts then.

    `make` looks up the inputs; what it returns is awaited in the manifold's run and may take its time: it returns the
    worker that runs from then on. It is awaited again whenever an input is another one than it was made from.
    """
    prepared: list[tuple[tuple[object, ...], Offer]] = []

    def start(get: Getter) -> Worker:
        now: tuple[object, ...] = tuple(get(name, object) for name in inputs)
        kept = prepared.pop() if prepared else None
        if kept is not None and all(a is b for a, b in zip(kept[0], now, strict=True)):
            return kept[1]
        return _Preparing(make(get), lambda offered: prepared.append((now, offered)))

    def output(worker: Any) -> object:
        if isinstance(worker, _Preparing):
            raise Missing("it is not prepared yet")
        return worker.value

    return Manifold(start, inputs, output)

"""Manifolds that run only under a condition: flags, and a wrapper that adds one to any manifold. Plain data.

A flag is a worker whose output answers one question, and whose answer never changes while it lives: when the truth
changes, the flag ends, and everyone housed under it is bounced. So a manifold that runs under a flag runs only while
the answer was yes, without having to listen to anything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from controller.engine.manifold import Getter, Manifold, Missing, Worker

Decorator = Callable[[Manifold], Manifold]


@runtime_checkable
class Flag(Protocol):
    """The output of a flag manifold."""

    def check(self) -> bool:
        """Return the answer. It is the same for as long as the flag's worker lives."""
        ...


def if_all(*flags: str) -> Decorator:
    """Return a decorator: the manifold starts only while each of these flag manifolds runs and says yes."""

    def house(manifold: Manifold) -> Manifold:
        def start(get: Getter) -> Worker:
            for name in flags:
                if not get(name, Flag).check():  # type: ignore[type-abstract]
                    raise Missing(f"{name} says no")
            return manifold.start(get)

        added = tuple(name for name in flags if name not in manifold.inputs)
        return dataclasses.replace(manifold, inputs=(*manifold.inputs, *added), start=start)

    return house

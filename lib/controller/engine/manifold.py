"""What is put into the engine: a worker's recipe, the names it needs, and what its end means. Plain data.

The words and semantics are those of Juju's dependency engine (juju/worker, package dependency), on asyncio: a worker
is one object with `async run()`, stopping is cancellation, and an error says what the engine is to do next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

_T = TypeVar("_T")


class Worker(Protocol):
    """Something that runs until it is cancelled, is finished (returns), or fails (raises).

    Whatever it owns lives inside `run`: when that has ended, nothing of the worker is left.
    """

    async def run(self) -> None: ...


class EngineError(Exception):
    """A table of manifolds that cannot be: a name twice, a cycle, an input that is no manifold."""


class Missing(Exception):
    """Raised by start or run: an input is not there. The worker stays stopped until one of its inputs changes."""


class Bounce(Exception):
    """Raised by run: start me again at once (after the bounce delay); nothing is wrong."""


class Uninstall(Exception):
    """Raised by start or run: this manifold is not needed any more, for as long as the engine runs."""


class Getter(Protocol):
    """Gives a manifold's start the outputs of its declared inputs. Valid only during start."""

    def __call__(self, name: str, kind: type[_T]) -> _T:
        """Return the output of the input `name`. Raises Missing while that one does not run or offers no `kind`."""
        ...


# What remains of an error: the same, another one, or None for "finished, nothing wrong".
Filter = Callable[[Exception], Exception | None]


def _itself(worker: Any) -> object:
    return worker


def _as_it_is(error: Exception) -> Exception | None:
    return error


@dataclass(frozen=True)
class Manifold:
    """One worker in the graph.

    `start` makes the worker, quickly and without waiting: what takes time belongs into its `run`. It is called whether
    or not the inputs are there, and learns so from the getter. `output` is what others get for it. `filter` sees every
    error of start and run first.
    """

    start: Callable[[Getter], Worker]
    inputs: tuple[str, ...] = ()
    output: Callable[[Any], object] = field(default=_itself)
    filter: Filter = field(default=_as_it_is)


Manifolds = Mapping[str, Manifold]


def check(manifolds: Manifolds) -> None:
    """Raise EngineError, which names the culprit, unless every input is a manifold and none needs itself."""
    for name, manifold in manifolds.items():
        unknown = sorted(set(manifold.inputs) - set(manifolds))
        if unknown:
            raise EngineError(f"{name} needs {', '.join(unknown)}, which is no manifold here")
    cycle = find_cycle({name: manifold.inputs for name, manifold in manifolds.items()})
    if cycle:
        raise EngineError(f"these need one another in a circle: {' -> '.join(cycle)}")


def find_cycle(inputs: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the names along one cycle, the first again at the end; () when there is none."""
    done: set[str] = set()

    def follow(name: str, path: tuple[str, ...]) -> tuple[str, ...]:
        if name in path:
            return (*path[path.index(name) :], name)
        if name in done:
            return ()
        for needed in inputs.get(name, ()):
            found = follow(needed, (*path, name))
            if found:
                return found
        done.add(name)
        return ()

    for name in inputs:
        found = follow(name, ())
        if found:
            return found
    return ()

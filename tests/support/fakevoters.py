"""A fake leader and the other voters, each a fake node of its own, for tests of who may vouch for a leader."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest

import fakenode
from dbaccessor import errors
from dbaccessor.database import Database
from fakenode import Asked, FakeNode, leader, members

VOTER, STANDBY, SPARE = 0, 1, 2
Play = Callable[[FakeNode, list[FakeNode], Database], Awaitable[None]]


def others(count: int) -> list[FakeNode]:
    made = []
    for number in range(1, count + 1):
        made.append(FakeNode())
        made[-1].name = f"controller-{number}-{number}"
    return made


def hold(play: Play, voters: int = 3, extra: tuple[tuple[int, str, int], ...] = ()) -> None:
    """Play on a leader that names so many voters, itself the first."""

    async def run() -> None:
        async with FakeNode() as node:
            rest = others(voters - 1)
            node.others = {other.name: other for other in rest}
            node.script = cluster_of(node, rest, extra)
            database = Database(node, "data")
            try:
                await play(node, rest, database)
            finally:
                database.close()
                for other in rest:
                    await other.close()

    asyncio.run(run())


def cluster_of(node: FakeNode, rest: list[FakeNode], extra: tuple[tuple[int, str, int], ...] = ()) -> fakenode.Script:
    told = members((7, node.name, VOTER), *((i, other.name, VOTER) for i, other in enumerate(rest, 1)), *extra)
    return lambda asked: told if asked.type == 16 else fakenode.obliging(asked)


def naming(dqlite_id: int, name: str) -> fakenode.Script:
    return lambda asked: leader(dqlite_id, name)


def asked_of(nodes: list[FakeNode]) -> int:
    return sum(len(node.asked) for node in nodes)


def noting(node: FakeNode, rest: list[FakeNode]) -> list[str]:
    """Return the list of what is asked from now on, of the leader and of the voters, who go on as before.

    "voter": whom it follows; "terms": its terms.
    """
    order: list[str] = []

    def note(script: fakenode.Script, word: Callable[[Asked], str]) -> fakenode.Script:
        def noted(asked: Asked) -> object:
            order.append(word(asked))
            return script(asked)

        return noted

    words = {3: "open", 16: "members"}
    node.script = note(node.script, lambda asked: words.get(asked.type) or asked.text or "still?")
    for other in rest:
        other.script = note(other.script, lambda asked: "voter")
        if other.word is not None:
            other.word = lambda said=other.word: order.append("terms") or said()  # type: ignore[func-returns-value,misc]
    return order


@contextmanager
def unconfirmed() -> Iterator[None]:
    """The last reason may be another one on a slow machine, where the deadline passes at any place."""
    with pytest.raises(errors.NotReady, match="confirmed|too late|in time|deadline|no answer|busy"):
        yield

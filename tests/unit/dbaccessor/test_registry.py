"""The rows that say which node belongs to which controller, written and read back."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from dbaccessor import registry
from dbaccessor.identity import Epoch, Identity, Known
from dbaccessor.registry import NodeRow
from sqlitedatabase import SqliteDatabase

LEFT = Known("2", "controller-2-102", "10.0.0.12", dropped=True)


def member(controller_id: str, dqlite_id: int) -> Identity:
    return Identity(
        cluster_uuid="u", controller_id=controller_id, dqlite_id=dqlite_id, epoch=Epoch(1, "a"), state="member"
    )


def test_rows_and_those_left_behind_are_read_in_one_question():
    database = SqliteDatabase()
    asked: list[str] = []
    inner = database.read

    async def read(sql: str, *arguments: Any, **options: Any) -> Any:
        asked.append(sql)
        return await inner(sql, *arguments, **options)

    database.read = read  # type: ignore[method-assign]
    known = cast(Any, database)

    async def play() -> None:
        await registry.announce(known, member("2", 102), "10.0.0.12", 3, ())
        await registry.announce(known, member("0", 100), "10.0.0.10", 0, (), 1)
        nodes, dropped = await registry.rows(known)
        assert set(nodes) == {
            NodeRow("0", "controller-0-100", "10.0.0.10", 0),
            NodeRow("2", "controller-2-102", "10.0.0.12", 3),
        }
        assert dropped == ()

        await registry.announce(known, member("0", 100), "10.0.0.10", 4, (LEFT,), 1)
        assert await registry.rows(known) == ((NodeRow("0", "controller-0-100", "10.0.0.10", 4),), (LEFT,))

        await registry.forget_dropped(known, [LEFT.name])
        assert await registry.rows(known) == ((NodeRow("0", "controller-0-100", "10.0.0.10", 4),), ())

    asyncio.run(play())
    assert len(asked) == 3

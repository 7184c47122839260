"""The archive as a stream: whoever reads it hears of its end, whatever ended it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dbaccessor import backup, errors
from dbaccessor.backup import Facts
from dbaccessor.identity import Epoch, Identity

FACTS = Facts(Identity(cluster_uuid="u", controller_id="0", dqlite_id=1, epoch=Epoch(1, "a")), 1, "1", "1.18")


@pytest.mark.parametrize(
    "error", [errors.NotReady("no leader"), OSError("gone"), ValueError("what is this"), KeyError()]
)
def test_whatever_ends_the_stream_early_is_heard_by_its_reader(error: Exception):
    async def to_leader(**_: object) -> None:
        raise error

    async def confirm(*_: object) -> None:
        raise AssertionError("nothing was read")

    async def read() -> None:
        connector = SimpleNamespace(to_leader=to_leader)
        async with asyncio.timeout(5):
            async for _ in backup.stream(cast(Any, connector), confirm, ["controller"], FACTS):
                raise AssertionError("there is nothing to send")

    with pytest.raises(type(error)) as heard:
        asyncio.run(read())
    assert heard.value is error

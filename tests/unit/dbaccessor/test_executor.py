"""What a start that the library refuses says of the data, with and without room on the disk."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dbaccessor import actions, errors
from dbaccessor.executor import Executor
from dbaccessor.identity import Epoch, Identity, Store

ME = Identity(cluster_uuid="u", controller_id="0", dqlite_id=100, epoch=Epoch(1, "aa"), state="member")
START = actions.Start("starts")


class DiskOf:
    """A disk whose free space is what the test says."""

    def __init__(self) -> None:
        self.free = self.problem = ""

    def look(self) -> None:
        self.problem = self.free


class RefusedNode:
    """Starts, or raises what the test says."""

    def __init__(self) -> None:
        self.starts = 0
        self.error: errors.DbAccessorError | None = None

    async def start(self, _identity: Identity, _latency_ms: int) -> None:
        self.starts += 1
        if self.error is not None:
            raise self.error


@pytest.fixture
def disk() -> DiskOf:
    return DiskOf()


@pytest.fixture
def own() -> RefusedNode:
    return RefusedNode()


@pytest.fixture
def executor(tmp_path: Path, disk: DiskOf, own: RefusedNode) -> Executor:
    parts: list[Any] = [Store(tmp_path), disk, SimpleNamespace(identity=ME), own]
    parts += [SimpleNamespace(announced_as=None), None, SimpleNamespace(set_state=lambda *_: None)]
    conf = SimpleNamespace(network_latency_ms=10)
    return Executor(*parts, conf=lambda: cast(Any, conf), on_change=lambda: None, on_timing=lambda _: None)


def test_data_that_the_library_refuses_is_damaged_until_it_starts(executor, own):
    own.error = errors.Refused("load closed segment: bad checksum")
    with pytest.raises(errors.Refused):
        asyncio.run(executor.carry_out(START))
    assert executor.damage == "load closed segment: bad checksum"

    own.error = None
    asyncio.run(executor.carry_out(START))
    assert executor.damage == ""


def test_a_start_that_is_refused_without_room_says_nothing_of_the_data(executor, disk, own):
    disk.free, own.error = "0 MiB are free", errors.Refused("truncate open segment: no space")

    for _ in range(3):
        with pytest.raises(errors.NotReady, match="no space.*0 MiB are free"):
            asyncio.run(executor.carry_out(START))

    assert executor.damage == ""
    assert own.starts == 1, "not asked again before there is room"

    disk.free, own.error = "", None
    asyncio.run(executor.carry_out(START))
    assert (executor.damage, own.starts) == ("", 2)


def test_data_that_is_refused_with_room_as_well_is_damaged(executor, disk, own):
    disk.free, own.error = "0 MiB are free", errors.Refused("bad checksum")
    with pytest.raises(errors.NotReady):
        asyncio.run(executor.carry_out(START))

    disk.free = ""
    with pytest.raises(errors.Refused):
        asyncio.run(executor.carry_out(START))

    assert executor.damage == "bad checksum"


def test_a_start_that_is_not_ready_says_nothing_of_the_data(executor, own):
    own.error = errors.NotReady("no file can be made")

    for _ in range(2):
        with pytest.raises(errors.NotReady):
            asyncio.run(executor.carry_out(START))

    assert (executor.damage, own.starts) == ("", 2)

"""What is heard from the others: only what is new wakes the worker's loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dbaccessor import timing
from dbaccessor.conf import ControllerConf
from dbaccessor.identity import Epoch, Identity
from dbaccessor.preamble import Answer, Hello
from dbaccessor.presence import Presence

EPOCH, NEWER, OLDER = Epoch(2, "b"), Epoch(3, "c"), Epoch(1, "a")
ME = Identity(cluster_uuid="u", controller_id="0", dqlite_id=100, epoch=EPOCH, state="member")
CONF = ControllerConf(
    controller_id="0", generation=1, cluster_uuid="u", db_bind_addresses={"0": "127.0.0.1", "1": "127.0.0.2"}, tls="off"
)


class Heard:
    """A presence of controller 0, and what reaches the worker: `hops` are the wake-ups of its loop."""

    def __init__(self, tmp_path: Path) -> None:
        self.members: list[str] = []
        self.refused: list[str] = []
        self.woken = self.hops = 0
        self._loop = asyncio.get_running_loop()
        self.presence = Presence(
            timing.for_latency(10), self._request, self.refused.append, self.members.append, self._wake, tmp_path
        )
        self.presence._loop = self  # type: ignore[assignment]
        self.presence.become(ME)
        self.presence.know(CONF, {})

    async def _request(self, _: object) -> Any:
        raise AssertionError

    def _wake(self) -> None:
        self.woken += 1

    def call_soon_threadsafe(self, call: Callable[..., None], *arguments: object) -> None:
        self.hops += 1
        self._loop.call_soon_threadsafe(call, *arguments)


def play(tmp_path: Path, work: Callable[[Presence], None]) -> Heard:
    async def inside() -> Heard:
        made = Heard(tmp_path)
        made.presence.proxy.start()
        await asyncio.to_thread(work, made.presence)
        await asyncio.sleep(0)
        await made.presence.proxy.stop()
        return made

    return asyncio.run(inside())


def hello(epoch: Epoch | None, *, controller_id: str = "1", cluster_uuid: str = "u") -> Hello:
    return Hello(purpose="identity", cluster_uuid=cluster_uuid, epoch=epoch, controller_id=controller_id, dqlite_id=101)


def answer(epoch: Epoch, *, superseded: Epoch | None = None, cluster_uuid: str = "u") -> Answer:
    return Answer(accepted=True, cluster_uuid=cluster_uuid, epoch=epoch, superseded=superseded)


def test_a_member_that_calls_has_been_seen_and_wakes_nobody(tmp_path: Path):
    made = play(tmp_path, lambda presence: presence._hello(hello(EPOCH)))

    assert made.members == ["1"]
    assert "1" in made.presence.dialer._seen
    assert (made.hops, made.woken) == (0, 0)


def test_an_answer_that_speaks_of_no_newer_epoch_wakes_nobody(tmp_path: Path):
    def work(presence: Presence) -> None:
        for said in (answer(EPOCH), answer(OLDER), answer(OLDER, superseded=EPOCH), answer(NEWER, cluster_uuid="v")):
            presence._heard(said)

    assert play(tmp_path, work).hops == 0


@pytest.mark.parametrize(
    "work",
    [
        lambda presence: presence._heard(answer(NEWER)),
        lambda presence: presence._heard(answer(EPOCH, superseded=NEWER)),
        lambda presence: presence._hello(hello(NEWER)),
        lambda presence: presence._hello(hello(NEWER, controller_id="9")),
    ],
)
def test_a_newer_epoch_wakes_the_worker_at_once(tmp_path: Path, work: Callable[[Presence], None]):
    made = play(tmp_path, work)

    assert made.presence.heard_epoch == NEWER
    assert made.woken == 1
    assert made.members == [], "one of another epoch is no member of this one"


def test_a_caller_from_an_older_epoch_is_told_of(tmp_path: Path):
    made = play(tmp_path, lambda presence: presence._hello(hello(OLDER)))

    assert made.refused == ["controller-1-101"]
    assert made.woken == 0


def test_a_caller_of_another_cluster_is_nobody_we_know(tmp_path: Path):
    made = play(tmp_path, lambda presence: presence._hello(hello(NEWER, cluster_uuid="v")))

    assert (made.members, made.refused, made.hops) == ([], [], 0)
    assert "1" not in made.presence.dialer._seen

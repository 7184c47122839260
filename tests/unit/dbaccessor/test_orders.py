"""Orders from outside that meet what only a new process can mend: whoever asked is answered, and the worker ends."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from dbaccessor import errors, goodbye, rebuild
from dbaccessor.actions import Reconfigure
from dbaccessor.identity import Epoch, Identity, Store
from dbaccessor.orders import Orders
from dbaccessor.preamble import Outcome
from dbaccessor.worker import Worker

ME = Identity(cluster_uuid="u", controller_id="0", dqlite_id=1, epoch=Epoch(1, "a"), state="member")
STUCK = "the node did not stop"


async def never(*_: object) -> None:
    raise RuntimeError(STUCK)


def orders(store: Store) -> Orders:
    """Of a member whose node does not stop."""
    outlook = SimpleNamespace(members=(SimpleNamespace(name="x", role=""),) * 2)
    sight = SimpleNamespace(
        identity=ME, outlook=lambda: outlook, look=lambda: asyncio.sleep(0, outlook), view=lambda _: None
    )
    executor = SimpleNamespace(stop_node=never, go_on_alone=never, become=lambda _: None)
    accounts = SimpleNamespace(set_state=lambda *_: None)
    own = SimpleNamespace(local=SimpleNamespace())
    return Orders(store, *cast(Any, (sight, own, None, executor, accounts)))


def test_a_rebuild_that_stops_halfway_is_answered_and_is_the_workers_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(rebuild, "plan", lambda *_, force: Reconfigure((), "on a word"))

    async def play() -> tuple[Outcome, RuntimeError | None]:
        made = orders(Store(tmp_path))
        return await made.rebuild(force=False), made.failure

    outcome, failure = asyncio.run(play())
    assert outcome == Outcome(False, f"{STUCK}; controllerd ends, and its next start goes on")
    assert str(failure) == STUCK


@pytest.mark.parametrize("raised", [False, True])
def test_a_rebuild_whose_start_fails_afterwards_says_that_it_was_done_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: bool
):
    """The new epoch has no way back: "not done" would send the operator to the next unit, to do it there as well."""
    monkeypatch.setattr(rebuild, "plan", lambda *_, force: Reconfigure(("controller-1-2",), "on a word"))
    made = orders(Store(tmp_path))

    async def go_on_alone(_: Reconfigure) -> None:
        if raised:
            cast(Any, made._sight).identity = msgspec.structs.replace(ME, epoch=Epoch(2, "b"))
        raise errors.NotReady("the disk is full")

    cast(Any, made._executor).go_on_alone = go_on_alone

    outcome = asyncio.run(made.rebuild(force=False))

    assert outcome.done is raised
    assert "NotReady: the disk is full" in outcome.reason
    assert ("epoch 2 (b)" in outcome.reason and "controller-1-2" in outcome.reason) is raised


def test_one_that_left_and_cannot_stop_its_node_has_left_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(goodbye, "say", lambda *_: asyncio.sleep(0, Outcome(True, "removed")))
    store = Store(tmp_path)

    async def play() -> tuple[Outcome, RuntimeError | None]:
        made = orders(store)
        return await made.leave(), made.failure

    outcome, failure = asyncio.run(play())
    left = store.identity()
    assert outcome == Outcome(True, "removed")
    assert left is not None and left.state == "left"
    assert str(failure) == STUCK


def test_the_worker_ends_with_what_an_order_could_not_mend(tmp_path: Path):
    async def play() -> None:
        worker = Worker(tmp_path)
        worker._orders.failure = RuntimeError(STUCK)
        async with asyncio.timeout(5):
            await worker.run()

    with pytest.raises(ExceptionGroup) as ended:
        asyncio.run(play())
    assert ended.group_contains(RuntimeError, match=STUCK)

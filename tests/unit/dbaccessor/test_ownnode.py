"""The own node's end: in order, with an error, or never."""

from __future__ import annotations

import asyncio
import threading

import pytest

from dbaccessor import errors
from dbaccessor.dqlite import raftformat
from dbaccessor.localnode import Probe
from dbaccessor.ownnode import OwnNode


class NodeThatStops:
    def __init__(self, how) -> None:
        self.running = True
        self.handover = how
        self._how = how

    def stop(self) -> None:
        self._how()
        self.running = False


def own_node(tmp_path, how) -> OwnNode:
    own = OwnNode(tmp_path, connect=lambda name: -1)
    own._node = NodeThatStops(how)
    return own


def test_a_node_that_never_stops_is_left_behind_at_the_limit(tmp_path, caplog):
    let_go = threading.Event()
    own = own_node(tmp_path, let_go.wait)

    async def story() -> None:
        await own.stop(limit_seconds=0.05)
        assert (own.stuck, own.running) == (True, False)
        await own.finish(limit_seconds=0.05)
        assert own.stuck

    asyncio.run(story())

    assert "a query that does not end runs on it" in caplog.text
    assert "only the end of this process ends it" in caplog.text
    let_go.set()


def test_a_handover_that_comes_back_late_is_waited_for_and_the_node_stopped_then(tmp_path):
    let_go = threading.Event()
    own = own_node(tmp_path, let_go.wait)
    node = own._node

    async def story() -> None:
        handover = await own.hand_over(0.05, possible=lambda: True)
        assert (handover.result, own.stuck) == ("too-late", True)
        await own.stop()
        assert node.running, "nobody touches a node in the middle of a handover"
        asyncio.get_running_loop().call_later(0.05, let_go.set)
        await own.finish(limit_seconds=10)

    asyncio.run(story())

    assert (own.stuck, node.running) == (False, False)


def test_a_handover_is_given_up_as_soon_as_it_is_not_possible(tmp_path):
    let_go = threading.Event()
    own = own_node(tmp_path, let_go.wait)

    handover = asyncio.run(own.hand_over(60, possible=lambda: False))

    assert (handover.result, own.stuck) == ("too-late", True)
    let_go.set()


def test_a_node_that_stops_is_not_stuck(tmp_path):
    own = own_node(tmp_path, lambda: None)

    asyncio.run(own.stop())

    assert (own.stuck, own.running) == (False, False)


def test_a_stop_that_fails_says_so_and_came_back(tmp_path):
    def fail() -> None:
        raise errors.Refused("it says no")

    own = own_node(tmp_path, fail)

    with pytest.raises(errors.Refused, match="it says no"):
        asyncio.run(own.stop())
    assert not own.stuck


class NodeThatSays:
    def __init__(self) -> None:
        self.probed: Probe | None = None

    async def probe(self, deadline_seconds: float) -> Probe | None:
        return self.probed


@pytest.mark.parametrize(
    ("seen", "deposed"),
    [
        ([("other", 1), ("me", 2), ("me", 2)], False),
        ([("other", 1), ("other", 2), ("", 3)], False),
        ([("me", 2), (None, 2), ("me", 2)], False),
        ([("me", 2), ("other", 3)], True),
        ([("me", 2), ("", 2)], True),
        ([("me", 2), (None, 3), ("other", 3), ("me", 4)], True),
        ([("me", 2), ("me", 4)], True),
    ],
)
def test_a_node_that_led_and_does_so_no_longer_or_in_a_later_term_is_deposed(tmp_path, seen, deposed):
    """None: it does not answer, which is no news."""
    own = own_node(tmp_path, lambda: None)
    own._name, own.local = "me", NodeThatSays()

    async def story() -> None:
        for leader, term in seen:
            (tmp_path / "metadata1").write_bytes(raftformat.METADATA.pack(raftformat.FORMAT, 1, term, 0))
            own.local.probed = None if leader is None else Probe(leader, ())
            await own.look()

    asyncio.run(story())

    assert own.deposed is deposed

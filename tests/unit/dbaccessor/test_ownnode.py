"""The own node's end: in order, with an error, or never."""

from __future__ import annotations

import asyncio
import threading

import pytest

from dbaccessor import errors
from dbaccessor.ownnode import OwnNode


class NodeThatStops:
    def __init__(self, how) -> None:
        self.stop = how


def own_node(tmp_path, how) -> OwnNode:
    own = OwnNode(tmp_path, connect=lambda name: -1)
    own._node = NodeThatStops(how)
    return own


def test_a_node_that_never_stops_is_left_behind_at_the_limit(tmp_path, caplog):
    let_go = threading.Event()
    own = own_node(tmp_path, let_go.wait)

    asyncio.run(own.stop(limit_seconds=0.05))

    assert (own.stuck, own.running) == (True, False)
    assert "a query that does not end runs on it" in caplog.text
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

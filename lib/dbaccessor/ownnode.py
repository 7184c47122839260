"""The one node of this controller: started and stopped here, and asked here how it sees the cluster."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dbaccessor import localnode
from dbaccessor.accounts import Handover
from dbaccessor.dqlite import nodedir
from dbaccessor.dqlite.node import Node
from dbaccessor.givenup import GivenUp
from dbaccessor.identity import Identity
from dbaccessor.localnode import LocalNode, Probe
from dbaccessor.terms import Terms

log = logging.getLogger(__name__)

_PROBE_SECONDS = 0.3
_LOOK_GAP_SECONDS = 1.5
_LOOK_AGAIN_SECONDS = 0.1
# A node stops within milliseconds, unless a query runs on it that never ends: nothing can interrupt one.
_STOP_SECONDS = 10.0
# Nodes that did not come to an end. Their threads call back into this process.
_ABANDONED: list[Node] = []


class OwnNode:
    """Runs at most one node. `probe` is its last word, None while it does not run or does not answer.

    `terms` are those of the node that runs, or is about to; read on any thread.
    """

    def __init__(self, directory: Path, connect: Callable[[str], int]) -> None:
        self._directory = directory
        self._connect = connect
        self._node: Node | None = None
        # A call into the library that did not come back in time, and the node that it was made on: the library's
        # threads use that for as long as they live.
        self._late: asyncio.Future[Any] | None = None
        self._late_node: Node | None = None
        self._silent_since: float | None = None
        self._looked_at = time.monotonic()
        self.local: LocalNode | None = None
        self.probe: Probe | None = None
        self.terms: Terms | None = None
        self._name = ""
        # In which term it led when it was last looked at, None where it did not.
        self._led_in: int | None = None
        self._given_up = GivenUp()
        # Whether the node has led in this run and does so no longer, or only again, and may hold what it gave up then.
        self.deposed = False

    @property
    def running(self) -> bool:
        return self._node is not None

    @property
    def silent_seconds(self) -> float:
        """How long the node has been telling, without a break, that it knows no leader."""
        return 0.0 if self._silent_since is None else time.monotonic() - self._silent_since

    @property
    def stuck(self) -> bool:
        """Whether a handover or a stop did not come back.

        Then the node and its data must not be touched: the process must end, or wait with `finish`.
        """
        return self._late is not None and not self._late.done()

    async def start(self, identity: Identity, latency_ms: int) -> None:
        """Start the node on the data directory. Raises DbAccessorError, with nothing running.

        Raises RuntimeError where only a new process can go on.
        """
        assert self._node is None
        node = Node(
            identity.dqlite_id,
            identity.name,
            self._directory,
            bind_address=localnode.bind_address(identity.dqlite_id),
            connect=self._connect,
            latency_ms=latency_ms,
        )
        # Known before the node listens: whoever reaches it must be listened to.
        terms = self.terms = Terms(identity.dqlite_id)
        try:
            await asyncio.to_thread(node.start)
        except BaseException:
            self.terms = None
            raise
        terms.begin(node.stored_term)
        self._node = node
        self._name = identity.name
        self.local = LocalNode(identity.dqlite_id)
        self._silent_since = None
        log.info("node %s runs", identity.name)

    async def look(self) -> None:
        """Ask the node; its answer is in `probe` afterwards."""
        self.probe = await self.local.probe(_PROBE_SECONDS) if self.local is not None else None
        if self.probe is not None:
            self._note_whether_it_leads(self.probe.leader == self._name)

    def _note_whether_it_leads(self, leads: bool) -> None:
        led_in = nodedir.stored_term(self._directory) if leads else None
        if self._led_in is not None and led_in != self._led_in:
            self.deposed = self.deposed or self._given_up.may_stay()
        self._led_in = led_in
        if leads:
            self._given_up.look()

    def heed(self, leader: str) -> None:
        """Take note of the leader that is known now ("": none). A node that does not answer is not silence, nor is a
        time in which nobody looked (this process was stopped, or busy)."""
        now = time.monotonic()
        unbroken = now - self._looked_at < _LOOK_GAP_SECONDS
        self._looked_at = now
        if leader or self.probe is None or not unbroken:
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = now

    async def hand_over(self, limit_seconds: float, possible: Callable[[], bool]) -> Handover | None:
        """Give leadership and voting right to others, before a stop. What happens is told; nothing is raised.

        None: no node runs. Given up at the limit, or as soon as it is not `possible` any more: when all members stop
        at once, the last ones would wait for an agreement that cannot come.
        """
        if self._node is None:
            return None
        log.info("handing over before the stop")
        began = time.monotonic()
        call = self._call(self._node, self._node.handover)
        deadline = began + limit_seconds
        while not call.done() and time.monotonic() < deadline and possible():
            await asyncio.wait({call}, timeout=min(_LOOK_AGAIN_SECONDS, max(0.0, deadline - time.monotonic())))
        seconds = round(time.monotonic() - began, 3)
        if not call.done():
            log.warning("no handover within %.1f s; stopping without", seconds)
            return Handover("too-late", seconds)
        self._came_back()
        log.info("handover %s", "done" if call.result() else "not possible")
        return Handover("done" if call.result() else "kept-vote", seconds)

    async def stop(self, limit_seconds: float = _STOP_SECONDS) -> None:
        """Stop the node if it runs, and wait until its threads are gone. At the limit it is `stuck`.

        Where it is stuck already, the node is left as it is. Raises DbAccessorError.
        """
        node, self._node = self._node, None
        if self.local is not None:
            self.local.close()
        self.local, self.probe, self.terms = None, None, None
        self._led_in, self.deposed = None, False
        self._given_up.forget()
        if node is None or self.stuck:
            return
        call = self._call(node, node.stop)
        await asyncio.wait({call}, timeout=limit_seconds)
        if not call.done():
            log.error("the node did not stop within %g s: a query that does not end runs on it", limit_seconds)
            return
        self._came_back()
        call.result()

    async def finish(self, limit_seconds: float) -> None:
        """Wait for the call that did not come back, and stop the node then. For a process that is to live on.

        At the limit the node is left to itself, and is kept so that its threads can do no harm.
        """
        call, node = self._late, self._late_node
        if call is None or node is None:
            return
        await asyncio.wait({call}, timeout=limit_seconds)
        if not call.done():
            log.error("the node does not come to an end: only the end of this process ends it")
            _ABANDONED.append(node)
            return
        self._came_back()
        if node.running:
            self._node = node
            await self.stop(limit_seconds)

    def _call(self, node: Node, function: Callable[[], Any]) -> asyncio.Future[Any]:
        """Make a call that may never come back. Unlike asyncio's threads this one keeps no process from ending."""
        self._late, self._late_node = _in_thread(function), node
        return self._late

    def _came_back(self) -> None:
        self._late = self._late_node = None


def _in_thread(call: Callable[[], Any]) -> asyncio.Future[Any]:
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: Exception | None) -> None:
        if error is not None:
            outcome.set_exception(error)
            outcome.exception()  # Whoever would be interested may be gone; that is no reason for a warning.
        else:
            outcome.set_result(result)

    def work() -> None:
        result, error = None, None
        try:
            result = call()
        except Exception as raised:  # noqa: BLE001 - It is raised again, in whoever waits.
            error = raised
        # The loop may be closed by the time a late call comes back; nobody waits for it any more then.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=work, name="dqlite-call", daemon=True).start()
    return outcome

"""The one node of this controller: started and stopped here, and asked here how it sees the cluster."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TypeVar

from dbaccessor import localnode
from dbaccessor.dqlite.node import Node
from dbaccessor.identity import Identity
from dbaccessor.localnode import LocalNode, Probe
from dbaccessor.report import Handover

log = logging.getLogger(__name__)

_T = TypeVar("_T")

_PROBE_SECONDS = 0.3
_LOOK_GAP_SECONDS = 1.5
_LOOK_AGAIN_SECONDS = 0.1
# A node stops within milliseconds, unless a query runs on it that never ends: nothing can interrupt one.
_STOP_SECONDS = 10.0


class OwnNode:
    """Runs at most one node. `probe` is its last word, None while it does not run or does not answer."""

    def __init__(self, directory: Path, connect: Callable[[str], int]) -> None:
        self._directory = directory
        self._connect = connect
        self._node: Node | None = None
        self._silent_since: float | None = None
        self._looked_at = time.monotonic()
        self._calling = False
        self.local: LocalNode | None = None
        self.probe: Probe | None = None

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

        Then the node and its data must not be touched again, and the process must end.
        """
        return self._calling

    async def start(self, identity: Identity, latency_ms: int) -> None:
        """Start the node on the data directory. Raises DbAccessorError, with nothing running."""
        assert self._node is None
        node = Node(
            identity.dqlite_id,
            identity.name,
            self._directory,
            bind_address=localnode.bind_address(identity.dqlite_id),
            connect=self._connect,
            latency_ms=latency_ms,
        )
        await asyncio.to_thread(node.start)
        self._node = node
        self.local = LocalNode(identity.dqlite_id)
        self._silent_since = None
        log.info("node %s runs", identity.name)

    async def look(self) -> None:
        """Ask the node; its answer is in `probe` afterwards."""
        self.probe = await self.local.probe(_PROBE_SECONDS) if self.local is not None else None

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
        self._calling = True
        began = time.monotonic()
        try:
            async with asyncio.timeout(limit_seconds):
                done = await _while_possible(_in_abandonable_thread(self._node.handover), possible)
            self._calling = False
            log.info("handover %s", "done" if done else "not possible")
            return Handover("done" if done else "kept-vote", round(time.monotonic() - began, 3))
        except TimeoutError:
            log.warning("no handover within %.1f s; stopping without", time.monotonic() - began)
            return Handover("too-late", round(time.monotonic() - began, 3))

    async def stop(self, limit_seconds: float = _STOP_SECONDS) -> None:
        """Stop the node if it runs, and wait until its threads are gone. At the limit it is `stuck`."""
        node, self._node = self._node, None
        if self.local is not None:
            self.local.close()
        self.local, self.probe = None, None
        if node is None or self.stuck:
            return
        self._calling = True
        try:
            async with asyncio.timeout(limit_seconds):
                await _in_abandonable_thread(node.stop)
        except TimeoutError:
            log.error("the node did not stop within %g s: a query that does not end runs on it", limit_seconds)
        except Exception:
            self._calling = False
            raise
        else:
            self._calling = False


async def _while_possible(call: Coroutine[None, None, bool], possible: Callable[[], bool]) -> bool:
    """Return what the call returns. Raises TimeoutError once it is not possible any more."""
    task = asyncio.create_task(call)
    try:
        while not task.done():
            if not possible():
                raise TimeoutError
            await asyncio.wait({task}, timeout=_LOOK_AGAIN_SECONDS)
        return task.result()
    finally:
        task.cancel()


async def _in_abandonable_thread(call: Callable[[], _T]) -> _T:
    """Run a call that may never come back. Unlike asyncio's threads it keeps no process from ending."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, error: BaseException | None) -> None:
        if outcome.done():
            return
        if error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(result)  # type: ignore[arg-type]

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
    return await outcome

"""The one node of this controller: started and stopped here, and asked here how it sees the cluster."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from dbaccessor import localnode
from dbaccessor.dqlite.node import Node
from dbaccessor.identity import Identity
from dbaccessor.localnode import LocalNode, Probe

log = logging.getLogger(__name__)

_PROBE_SECONDS = 0.3


class OwnNode:
    """Runs at most one node. `probe` is its last word, None while it does not run or does not answer."""

    def __init__(self, directory: Path, connect: Callable[[str], int]) -> None:
        self._directory = directory
        self._connect = connect
        self._node: Node | None = None
        self._leader_seen_at = time.monotonic()
        self.local: LocalNode | None = None
        self.probe: Probe | None = None

    @property
    def running(self) -> bool:
        return self._node is not None

    @property
    def silent_seconds(self) -> float:
        """How long no leader has been seen."""
        return time.monotonic() - self._leader_seen_at

    def saw_leader(self) -> None:
        self._leader_seen_at = time.monotonic()

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
        self.saw_leader()
        log.info("node %s runs", identity.name)

    async def look(self) -> None:
        """Ask the node; its answer is in `probe` afterwards."""
        self.probe = await self.local.probe(_PROBE_SECONDS) if self.local is not None else None

    async def hand_over(self, limit_seconds: float) -> None:
        """Give leadership and voting right to others, before a stop. What happens is logged; nothing is raised."""
        if self._node is None:
            return
        log.info("handing over before the stop")
        try:
            async with asyncio.timeout(limit_seconds):
                done = await asyncio.to_thread(self._node.handover)
            log.info("handover %s", "done" if done else "not possible")
        except TimeoutError:
            log.warning("handover took more than %g s; stopping without", limit_seconds)

    async def stop(self) -> None:
        """Stop the node if it runs, and wait until its threads are gone."""
        node, self._node = self._node, None
        if self.local is not None:
            self.local.close()
        self.local, self.probe = None, None
        if node is not None:
            await asyncio.to_thread(node.stop)

"""What this controller's own node says right now, asked over its abstract socket.

The node answers these two questions itself, without a quorum: whom its raft follows, and what its log holds as the
configuration. One instance belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from dbaccessor import errors
from dbaccessor.dqlite import connection as dqlite_connection
from dbaccessor.preamble import MemberFact

# Longer than any probe, which has its own deadline: the channel's clock need not wake the loop after each of them.
_CHANNEL_SECONDS = 10.0


@dataclass(frozen=True)
class Probe:
    """`leader` is a raft name, "" when the node follows nobody (always so on a stand-by or a spare)."""

    leader: str
    members: tuple[MemberFact, ...]


def bind_address(dqlite_id: int) -> str:
    """Return the abstract socket that the node of this id listens on; only this process may connect to it."""
    return f"@ha-controller-{dqlite_id}"


class LocalNode:
    """Asks one node; keeps one connection open between questions."""

    def __init__(self, dqlite_id: int) -> None:
        self._path = "\0" + bind_address(dqlite_id)[1:]
        self._connection: dqlite_connection.Connection | None = None
        self._lock = asyncio.Lock()
        self._answered = 0
        self._last: Probe | None = None

    async def probe(self, deadline_seconds: float) -> Probe | None:
        """Return the node's answers, or None when it does not answer in time. One question serves everybody who asks
        meanwhile."""
        answered = self._answered
        try:
            async with asyncio.timeout(deadline_seconds), self._lock:
                if self._answered == answered:
                    self._last = await self._ask()
                    self._answered += 1
                return self._last
        except (errors.DbAccessorError, OSError, TimeoutError):
            return None

    async def _ask(self) -> Probe:
        try:
            if self._connection is None:
                self._connection = await self._open(_CHANNEL_SECONDS)
            leader, members = await self._connection.leader_and_members()
        except BaseException:
            # Also where whoever asked went away: nobody hears the answers, so the next one asks anew.
            self.close()
            raise
        return Probe(
            leader[1] if leader else "",
            tuple(MemberFact(m.dqlite_id, m.name, str(m.role)) for m in members),
        )

    async def connect(self, deadline_seconds: float) -> dqlite_connection.Connection:
        """Open a further connection to the own node, for a caller that will use it for itself."""
        return await self._open(deadline_seconds)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _open(self, deadline_seconds: float) -> dqlite_connection.Connection:
        reader, writer = await asyncio.open_unix_connection(self._path)
        return await dqlite_connection.Connection.open(reader, writer, deadline_seconds=deadline_seconds)

"""Whoever was let in by the proxy, looked at again and again: some have to leave by now.

A controller that was removed since would not be let in any more. A client that takes nothing of an answer that waits
for it holds what its query holds inside the node, the read lock above all, and with it every checkpoint
(docs/reference/libdqlite.md); it may be frozen, and will ask again when it wakes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from dbaccessor import preamble, tls
from dbaccessor.preamble import Answer, Hello
from dbaccessor.tlsstream import Pump

LOOK_SECONDS = 1.0
# As long as most questions may take at all.
STUCK_SECONDS = 10.0


@dataclass(frozen=True)
class Guest:
    """One connection: from where, with which words and certificate (None: without TLS) it was let in.

    `pump` is what moves Dqlite's bytes, where it carries any.
    """

    ip: str
    hello: Hello
    peer: tls.Peer | None
    pump: Pump | None = None


class Admitted:
    """The connections that carry Dqlite's bytes and came in, by the task that serves each.

    `facts` are the own node's, as of now; `departed` the ids that never come back; `tell` counts and logs.
    """

    def __init__(
        self,
        facts: Callable[[], Awaitable[Answer]],
        departed: Callable[[], frozenset[str]],
        tell: Callable[[str, str, str], None],
    ) -> None:
        self._facts = facts
        self._departed = departed
        self._tell = tell
        self._guests: dict[asyncio.Task[None], Guest] = {}

    def add(self, task: asyncio.Task[None], guest: Guest) -> None:
        """Keep an eye on this one until its task is done."""
        self._guests[task] = guest
        task.add_done_callback(lambda done: self._guests.pop(done, None))

    async def watch(self) -> None:
        """Cancel the task of everyone who has to leave. Runs until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for task, guest in list(self._guests.items()):
                if guest.hello.purpose == "client" and guest.pump and guest.pump.stuck_seconds >= STUCK_SECONDS:
                    self._end(task, guest, "stuck", f"it has taken nothing of an answer for {STUCK_SECONDS:g} s")
            if any(self._is_gone(guest.peer) for guest in self._guests.values()):
                await self._weed()

    async def _weed(self) -> None:
        own = await self._facts()
        if not own.members:
            return  # The own node does not answer, or is no voter: it cannot be told who is a member still.
        for task, guest in list(self._guests.items()):
            if guest.peer is None:
                continue
            reason = preamble.lost(guest.hello, own, guest.peer, self._departed())
            if reason is not None:
                self._end(task, guest, "lost", reason)

    def _is_gone(self, peer: tls.Peer | None) -> bool:
        return peer is not None and (peer.retired or peer.controller_id in self._departed())

    def _end(self, task: asyncio.Task[None], guest: Guest, word: str, reason: str) -> None:
        who = guest.peer if guest.peer is not None else f"controller {guest.hello.controller_id or '?'}"
        self._tell(guest.ip, word, f"ended a connection of {who} ({guest.hello.purpose}): {reason}")
        task.cancel()

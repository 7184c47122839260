"""Flow 1, hop 7: whether the node that answered was still the leader when it answered (C14).

Dqlite never asks its quorum before it reads. A leader that was paused and deposed meanwhile answers with old data
until it notices, and does so for a write that changes no row too. So the word of a majority is needed: the node's own,
and that of so many *other* voters that they are a majority with it. There are two orders, and
docs/decisions/13-reads-are-confirmed-by-the-voters.md has the proof of each.

*Ahead of the read* (`ask_ahead`, then `vouched`), the shorter way:

1. other voters name the node as their leader, asked after the caller's read began. They are those that the node told
   of the last time, which is only a guess whom to ask;
2. the node reads, tells the voters, and shows that it has led without a break since the connection's database was
   opened (Connection.query_as_leader). Those of 1. count if they are enough among the voters that it tells now.

*After the read* (`confirm`, then `still_leads`), where a transaction has read already, or the guess was wrong:

1. the node that answered tells the voters, on the same connection;
2. so many other voters name it, asked after the read;
3. one more request on the same connection succeeds. It fails if the node ever stepped down, so 2. spoke of the same
   term as the read. The caller sends it: the COMMIT of a transaction, or `still_leads`.

Whom a voter follows is never remembered, and no question counts that was sent before the read began.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from dbaccessor import errors
from dbaccessor.dqlite.connection import Connection, Member, Role
from dbaccessor.witness import Members, Round, Witness

__all__ = ["Confirmer", "Members", "still_leads"]

# A voter that took longer than was waited for is not among the first for so long, where there are others.
_SHUN_SECONDS = 5.0
# How long those that are asked ahead have. The guess may be of voters that are gone, and the read has to go on.
_AHEAD_SECONDS = 0.05
# Where that was too short once, as it always is on a slow network, nobody is asked ahead for so long.
_PATIENT_SECONDS = 5.0


class Confirmer:
    """Asks voters. One of it serves every database of a process, so that they share connections and questions."""

    def __init__(self, members: Members) -> None:
        self._members = members
        self._identity: object = None
        self._witnesses: dict[str, Witness] = {}
        # The leader that was confirmed last, "" for none, and its voters then: whom to ask ahead, and nothing more.
        self._leader = ""
        self._voters: frozenset[str] = frozenset()
        self._ahead_from = float("-inf")
        # Hears of each confirmation whether it was one.
        self.on_round: Callable[[bool], None] = lambda done: None

    async def ask_ahead(self, connection: Connection, *, deadline: float) -> frozenset[str]:
        """Return the names of voters that follow the node at the end of `connection`, asked from now on.

        They are enough if the cluster is as it was. Where that is not known, or they do not say so soon, there are
        none, and `confirm` has to do. Raises nothing.
        """
        self._heed_identity()
        if connection.dialled_as != self._identity or connection.name != self._leader:
            return frozenset()
        now = asyncio.get_running_loop().time()
        needed = _needed(self._voters, self._leader)
        if not needed or now < self._ahead_from:
            return frozenset()
        round_ = Round(self._leader, needed, self._in_order(self._voters - {self._leader}))
        try:
            await round_.run(min(deadline, now + _AHEAD_SECONDS))
        except errors.NotReady:
            self._leader = ""
            if asyncio.get_running_loop().time() >= now + _AHEAD_SECONDS:
                self._ahead_from = now + _PATIENT_SECONDS
            return frozenset()
        return frozenset(round_.named)

    def vouched(self, connection: Connection, members: Sequence[Member], named: frozenset[str]) -> bool:
        """Whether what query_as_leader answered is confirmed by these voters, which `ask_ahead` returned before it.

        `members` came with that answer. False says only that `confirm` has to do.
        """
        voters = _voters(members)
        vouched = (
            bool(voters)
            and len(named & voters - {connection.name}) >= _needed(voters, connection.name)
            and connection.dialled_as == self._members.identity
        )
        if vouched:
            self._remember(connection.name, voters)
            self.on_round(True)
        else:
            self._leader = ""
        return vouched

    async def confirm(self, connection: Connection, members: Sequence[Member], *, deadline: float) -> None:
        """Return once enough other voters have named the node at the end of `connection`, steps 1 and 2 after a read.

        `members` is its own answer to `cluster`, asked after the last read. Raises NotReady, and the connection is
        closed then: what was read on it may be old.
        """
        try:
            await self._ask(connection, _voters(members), deadline)
        except BaseException:
            self.on_round(False)
            connection.close()
            raise
        self.on_round(True)

    async def _ask(self, connection: Connection, voters: frozenset[str], deadline: float) -> None:
        self._heed_identity()
        if connection.dialled_as != self._identity:
            raise errors.NotReady("the cluster's epoch changed while this was read")
        if not voters:
            raise errors.NotReady(f"{connection.name} names no voters")
        needed = _needed(voters, connection.name)
        if not needed:
            return  # The only voter cannot be deposed without its own vote.
        others = voters - {connection.name}
        self._keep_only(others)
        await Round(connection.name, needed, self._in_order(others)).run(deadline)
        if connection.dialled_as != self._members.identity:
            raise errors.NotReady("the cluster's epoch changed while this was read")
        self._remember(connection.name, voters)

    def close(self) -> None:
        """Drop the connections to the voters. What is being asked fails as not confirmed."""
        self._keep_only(frozenset())

    def _heed_identity(self) -> None:
        if self._members.identity != self._identity:
            self._keep_only(frozenset())
            self._identity = self._members.identity

    def _remember(self, leader: str, voters: frozenset[str]) -> None:
        if voters != self._voters:
            self._keep_only(voters - {leader})
        self._leader, self._voters = leader, voters

    def _keep_only(self, names: frozenset[str]) -> None:
        for gone in self._witnesses.keys() - names:
            self._witnesses.pop(gone).close()

    def _in_order(self, names: frozenset[str]) -> list[Witness]:
        """Return the witnesses of these, those that are to be asked first in front: the own node, no hop away."""
        for name in names - self._witnesses.keys():
            self._witnesses[name] = Witness(self._members, name)
        own, now = self._members.own_name, asyncio.get_running_loop().time()
        return sorted(
            (self._witnesses[name] for name in names),
            key=lambda w: (now - w.was_late < _SHUN_SECONDS, w.name != own, w.was_late, w.name),
        )


def _voters(members: Sequence[Member]) -> frozenset[str]:
    return frozenset(m.name for m in members if m.role is Role.VOTER)


def _needed(voters: frozenset[str], leader: str) -> int:
    """Return how many other voters make a majority with the leader, which may be no voter any more."""
    return len(voters) // 2 + (leader not in voters)


async def still_leads(connection: Connection, *, deadline: float) -> None:
    """Step 3 after a read, where nothing else is sent. Raises NotReady or NotLeader; the connection is closed then."""
    try:
        await connection.still_leads(deadline_seconds=max(0.0, deadline - asyncio.get_running_loop().time()))
    except BaseException:
        connection.close()
        raise

"""Flow 1, hop 7: whether the node that answered was still the leader when it answered (C14).

Dqlite never asks its quorum before it reads. A leader that was paused and deposed meanwhile answers with old data
until it notices, and does so for a write that changes no row too. So the word of a majority is needed: the node's own,
and that of so many *other* voters that they are a majority with it. There are two ways, and
docs/decisions/13-reads-are-confirmed-by-the-voters.md has the proof of each.

*Beside the read* (`ask_beside`, then `vouched`), the shorter one, where there are three voters or more:

1. other voters say that they have acknowledged nothing in a later term than one in which the node is known to have led
   (terms.py). They are asked after the caller's read began, at the same time as the node, and are those that the node
   told of the last time, which is only a guess whom to ask;
2. the node tells the voters, and then reads, which it does only if it has led without a break since the connection's
   database was opened (Connection.answer_as_leader). Those of 1. count if they are enough among these voters.

Where no such term is known yet, the voters' answer, which tells it, is waited for before the node is asked.

*After the read* (`confirm`, then `still_leads`), where a transaction has read already, or the shorter way did not do:

1. the node tells the voters, on the same connection: with a single read, or after the last one of several;
2. so many other voters name it as their leader, asked after the read;
3. one more request on the same connection succeeds. It fails if the node ever stepped down, so 2. spoke of the same
   term as the read. The caller sends it: the COMMIT of a transaction, or `still_leads`.

What a voter says is never remembered, but for terms in which somebody led; and no question counts that was sent before
the read began.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from dbaccessor import errors
from dbaccessor.dqlite.connection import Connection, Member, Role
from dbaccessor.identity import dqlite_id_of
from dbaccessor.terms import Word
from dbaccessor.witness import Following, Members, Round, Witness

__all__ = ["Confirmer", "Members", "still_leads"]

# A voter that took longer than was waited for is not among the first for so long, where there are others.
_SHUN_SECONDS = 5.0
# After a voter could not be reached, and so cannot name its leader, or tell its terms: one of an earlier version never
# does, and each attempt to find out costs a handshake.
_PAUSE_SECONDS = 0.1
_TERMS_PAUSE_SECONDS = 2.0
# How long the voters that are asked beside a read may take, once it is there.
_BESIDE_SECONDS = 0.05
# Where that was too short once, nobody is asked beside a read for so long.
_PATIENT_SECONDS = 5.0
# For how long whom to ask first is not thought about again.
_ORDER_SECONDS = 0.5
# With fewer voters, one of them might come to lead without a word from anybody else.
_FEWEST_VOTERS = 3

_W = TypeVar("_W")


class Confirmer:
    """Asks voters. One of it serves every database of a process, so that they share connections and questions."""

    def __init__(self, members: Members) -> None:
        self._members = members
        self._identity: object = None
        self._followers: dict[str, Witness[str]] = {}
        self._terms: dict[str, Witness[Word]] = {}
        self._ordered: list[Witness[Word]] = []
        self._ordered_until = float("-inf")
        # Who a node told us are the members, the last time, and the voters among them: they are the same for days.
        self._told: tuple[Member, ...] = ()
        self._voters_told: frozenset[str] = frozenset()
        # The leader that was confirmed last, "" for none, and its voters then: whom to ask beside a read, and no more.
        self._leader = ""
        self._voters: frozenset[str] = frozenset()
        # A term in which that leader is known to have led, 0 where none is: it is in no earlier one any more.
        self._led = 0
        self._beside_from = float("-inf")
        # Hears of each confirmation: "beside" or "after" the read, or "unconfirmed".
        self.on_round: Callable[[str], None] = lambda result: None

    async def ask_beside(self, connection: Connection, *, deadline: float) -> Round[Word] | None:
        """Return the round of questions for the terms of voters that a read over `connection` needs, None where there
        is nobody to ask.

        Its caller begins it as soon as the read is sent, hands it to `vouched`, and ends it. Where no term is known yet
        in which this leader has led, it has begun, and is waited for here.
        """
        identity = self._heed_identity()
        leader, voters = connection.name, self._voters
        if connection.dialled_as != identity or leader != self._leader or len(voters) < _FEWEST_VOTERS:
            return None
        now = asyncio.get_running_loop().time()
        if now < self._beside_from:
            return None
        # Of this leader, for this read: what others learn meanwhile may be of another leader.
        known = self._led
        sent = known > 0

        def judge(word: Word) -> str:
            nonlocal known
            if word.led > known and word.leader == dqlite_id_of(leader):
                if not sent:
                    known = word.led
                if leader == self._leader:
                    self._led = max(self._led, word.led)  # For those that begin after this one.
            return "" if word.newest <= known else f"a voter has heard of term {word.newest}, and {known} is known"

        what = f"{leader} is not confirmed as the leader"
        round_ = Round(what, _needed(voters, leader), self._informants(now), judge, self._reorder)
        # Without a term, what they say is heard before the read is sent, so that it counts for this one as well.
        if not sent:
            round_.begin()
            if not await self._heard(round_, now + _BESIDE_SECONDS, deadline):
                round_.end()
                return None
            sent = True
        return round_

    async def _heard(self, round_: Round[Word], until: float, deadline: float) -> bool:
        """Whether enough have vouched by then. Where they took too long, nobody is asked beside a read for a while."""
        try:
            await round_.outcome(min(until, deadline))
        except errors.NotReady:
            if asyncio.get_running_loop().time() >= until:
                self._beside_from = until + _PATIENT_SECONDS
            return False
        return True

    async def vouched(
        self, round_: Round[Word] | None, connection: Connection, members: tuple[Member, ...], *, deadline: float
    ) -> bool:
        """Whether what answer_as_leader answered is confirmed by the voters that were asked beside it.

        `members` came with that answer. False says only that `confirm` has to do.
        """
        voters = self._voters_among(members)
        needed = _needed(voters, connection.name)
        vouching: set[str] = set()
        if round_ is not None and needed:
            if not round_.enough and not await self._heard(
                round_, asyncio.get_running_loop().time() + _BESIDE_SECONDS, deadline
            ):
                return False
            vouching = round_.vouching & voters - {connection.name}
        if not voters or len(vouching) < needed or (needed and len(voters) < _FEWEST_VOTERS):
            return False
        if connection.dialled_as != self._members.identity:
            return False
        self._remember(connection.name, voters)
        self.on_round("beside")
        return True

    async def confirm(self, connection: Connection, members: tuple[Member, ...], *, deadline: float) -> None:
        """Return once enough other voters have named the node at the end of `connection`, steps 1 and 2 after a read.

        `members` is its own answer to `cluster`, asked after the last read. Raises NotReady, and the connection is
        closed then: what was read on it may be old.
        """
        try:
            await self._ask(connection, self._voters_among(members), deadline)
        except BaseException:
            self.on_round("unconfirmed")
            connection.close()
            raise
        self.on_round("after")

    async def _ask(self, connection: Connection, voters: frozenset[str], deadline: float) -> None:
        if connection.dialled_as != self._heed_identity():
            raise errors.NotReady("the cluster's epoch changed while this was read")
        if not voters:
            raise errors.NotReady(f"{connection.name} names no voters")
        needed = _needed(voters, connection.name)
        if not needed:
            return  # The only voter cannot be deposed without its own vote.
        others = voters - {connection.name}
        self._keep_only(others)
        leader = connection.name

        def judge(named: str) -> str:
            return "" if named == leader else f"names {named}" if named else "names nobody"

        round_ = Round(
            f"{leader} is not confirmed as the leader", needed, self._followers_of(others), judge, self._reorder
        )
        round_.begin()
        try:
            await round_.outcome(deadline)
        finally:
            round_.end()
        if connection.dialled_as != self._members.identity:
            raise errors.NotReady("the cluster's epoch changed while this was read")
        self._remember(connection.name, voters)

    def close(self) -> None:
        """Drop the connections to the voters. What is being asked fails as not confirmed."""
        self._keep_only(frozenset())

    def _heed_identity(self) -> object:
        """Return who we are now. What was known as somebody else is forgotten."""
        identity = self._members.identity
        if identity != self._identity:
            self._keep_only(frozenset())
            self._identity = identity
            self._leader, self._led = "", 0
        return identity

    def _voters_among(self, members: tuple[Member, ...]) -> frozenset[str]:
        if members is not self._told:
            self._told = members
            self._voters_told = frozenset(m.name for m in members if m.role is Role.VOTER)
        return self._voters_told

    def _remember(self, leader: str, voters: frozenset[str]) -> None:
        if voters != self._voters:
            self._keep_only(voters - {leader})
        if leader != self._leader:
            self._led, self._ordered_until = 0, float("-inf")
        self._leader, self._voters = leader, voters

    def _keep_only(self, names: frozenset[str]) -> None:
        for gone in self._followers.keys() - names:
            self._followers.pop(gone).close()
        for gone in self._terms.keys() - names:
            self._terms.pop(gone).close()
        self._reorder()

    def _followers_of(self, names: frozenset[str]) -> list[Witness[str]]:
        """Return those that are asked whom these follow, as `_in_order` has them."""

        def make(name: str) -> Witness[str]:
            async def dial(deadline: float) -> Following:
                return Following(await self._members.to_member(name, deadline=deadline))

            return Witness(name, dial, _PAUSE_SECONDS)

        return self._in_order(names, self._followers, make)

    def _informants(self, now: float) -> list[Witness[Word]]:
        """Return those that are asked for the terms of the voters, as `_in_order` has them, a moment ago at most."""
        if now > self._ordered_until:
            self._ordered = self._in_order(self._voters - {self._leader}, self._terms, self._informant)
            self._ordered_until = now + _ORDER_SECONDS
        return self._ordered

    def _reorder(self) -> None:
        self._ordered_until = float("-inf")

    def _informant(self, name: str) -> Witness[Word]:
        return Witness(name, lambda by: self._members.to_terms(name, deadline=by), _TERMS_PAUSE_SECONDS)

    def _in_order(
        self, names: frozenset[str], known: dict[str, Witness[_W]], make: Callable[[str], Witness[_W]]
    ) -> list[Witness[_W]]:
        """Return the witnesses of these, those that are to be asked first in front: the own node, no hop away."""
        for name in names - known.keys():
            known[name] = make(name)
        own, now = self._members.own_name, asyncio.get_running_loop().time()
        return sorted(
            (known[name] for name in names),
            key=lambda w: (now - w.was_late < _SHUN_SECONDS, w.name != own, w.was_late, w.name),
        )


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

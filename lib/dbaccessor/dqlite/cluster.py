"""What the members' roles mean: quorum, how many may still fail, and whether the roles are where they belong.
Pure.

Dqlite's leader manages the roles by itself: it wants three voters and three stand-bys among the members that
answer, makes spares of the rest, and of every member that does not answer.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from dbaccessor.dqlite.wire import Member, Role

__all__ = ["Member", "Role", "Targets", "has_quorum", "may_lose", "off_target", "quorum", "targets"]

VOTERS = 3
STANDBYS = 3


@dataclass(frozen=True)
class Targets:
    voters: int
    standbys: int
    spares: int


def quorum(voters: int) -> int:
    """Return how many of this many voters, dead or alive, must answer for writes to go on: their majority."""
    return voters // 2 + 1


def has_quorum(members: Collection[Member], answering: Collection[int]) -> bool:
    """True when enough voters answer. `answering` holds Dqlite ids. No members at all have no quorum."""
    voters = _voters(members)
    return len(voters & set(answering)) >= quorum(len(voters))


def may_lose(members: Collection[Member], answering: Collection[int]) -> int:
    """Return how many voters that answer now may fail at once while a majority of all voters is left.

    0 also where the quorum is lost already: `has_quorum` tells the two apart.
    """
    voters = _voters(members)
    return max(0, len(voters & set(answering)) - quorum(len(voters)))


def targets(answering_members: int) -> Targets:
    """Return how many of each role there should be among this many members that answer."""
    voters = min(VOTERS, answering_members)
    standbys = min(STANDBYS, answering_members - voters)
    return Targets(voters, standbys, answering_members - voters - standbys)


def off_target(members: Collection[Member], answering: Collection[int]) -> str | None:
    """Say in one sentence how the roles differ from their target, or None when they are there.

    For the watchdog: Dqlite mends this within a second or two, so a difference that stays is a wedge, which
    only a change of leader undoes. Nothing can be mended without a quorum, so that is no difference.
    """
    if not has_quorum(members, answering):
        return None
    alive = set(answering)
    silent = sorted(m.name for m in members if m.dqlite_id not in alive and m.role is not Role.SPARE)
    if silent:
        return f"{', '.join(silent)} should be a spare while silent"
    found = [m.role for m in members if m.dqlite_id in alive]
    want = targets(len(found))
    have = Targets(found.count(Role.VOTER), found.count(Role.STANDBY), found.count(Role.SPARE))
    if have == want:
        return None
    return f"there are {_words(have)} that answer, and there should be {_words(want)}"


def _voters(members: Collection[Member]) -> set[int]:
    return {m.dqlite_id for m in members if m.role is Role.VOTER}


def _words(counts: Targets) -> str:
    parts = (
        f"{counts.voters} voter{'s' * (counts.voters != 1)}",
        f"{counts.standbys} stand-by{'s' * (counts.standbys != 1)}",
        f"{counts.spares} spare{'s' * (counts.spares != 1)}",
    )
    return f"{parts[0]}, {parts[1]} and {parts[2]}"

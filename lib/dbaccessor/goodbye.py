"""Ending in order: leadership handed over before a stop; for good, also removed by the next leader.

This is how an orderly shrink loses nothing: the node is removed while it still counts for the quorum. And what is done
about a leader that departed without a goodbye, and lives: nobody but a leader can remove it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection

from dbaccessor import dial, errors
from dbaccessor.dqlite.connection import Connection, Role
from dbaccessor.identity import Identity, controller_of
from dbaccessor.localnode import LocalNode
from dbaccessor.outlook import Outlook
from dbaccessor.preamble import MembershipRequest, Outcome

log = logging.getLogger(__name__)

_PAUSE_SECONDS = 0.1


class AlreadyRemoved(Exception):
    """The leader does not know this node as a member any more."""


async def say(
    identity: Identity,
    local: LocalNode,
    outlook: Callable[[], Outlook],
    dialer: dial.Dialer,
    limit_seconds: float,
) -> Outcome:
    """Ask the leader, whoever it is by then, to remove this node. Raises TimeoutError, DbAccessorError, OSError."""
    request = MembershipRequest(
        operation="leave", controller_id=identity.controller_id, dqlite_id=identity.dqlite_id, name=identity.name
    )
    async with asyncio.timeout(limit_seconds):
        while True:
            try:
                leader = await _other_leader(identity, local, outlook)
            except AlreadyRemoved:
                return Outcome(True, "removed; the answer to the request was lost")
            try:
                outcome = await dialer.membership(leader, request, limit_seconds)
            except dial.DialError as error:
                outcome = Outcome(False, str(error))
            if outcome.done:
                return outcome
            log.info("leaving: %s", outcome.reason)
            await asyncio.sleep(_PAUSE_SECONDS)


async def _other_leader(identity: Identity, local: LocalNode, outlook: Callable[[], Outlook]) -> str:
    """Return the leader's name once it is not this node, handing leadership over as often as needed."""
    while True:
        if outlook().removed:
            raise AlreadyRemoved
        probe = await local.probe(_PAUSE_SECONDS * 3)
        leader = (probe.leader if probe is not None else "") or outlook().leader
        if leader and leader != identity.name:
            return leader
        if leader:
            try:
                await hand_leadership_over(identity, local, outlook())
            except (errors.DbAccessorError, OSError) as error:
                log.info("leadership was not handed over: %s", error)  # It may have moved by itself meanwhile.
        await asyncio.sleep(_PAUSE_SECONDS)


async def hand_leadership_over(identity: Identity, local: LocalNode, outlook: Outlook) -> str:
    """Transfer leadership to a voter that answers. Return its name, "" if there is none.

    To any of them, by chance: two that leave at the same time would otherwise give it to each other for ever. Raises
    DbAccessorError, OSError.
    """
    connection = await local.connect(1.0)
    try:
        heirs = [m for m in await connection.cluster() if m.role is Role.VOTER and m.dqlite_id != identity.dqlite_id]
        heirs = [m for m in heirs if m.dqlite_id in outlook.alive]
        if not heirs:
            return ""
        heir = random.choice(heirs)
        log.info("handing leadership to %s", heir.name)
        await connection.transfer(heir.dqlite_id)
        return heir.name
    finally:
        connection.close()


async def take_leadership_over(
    identity: Identity, outlook: Outlook, departed: Collection[str], connect: Callable[[str], Awaitable[Connection]]
) -> str:
    """Let a leader that departed for good give leadership to this node, if it is a voter. Return its name, "" for none.

    Its own configuration may be as old as the day on which it lost its charm: it would keep out all who came since.
    `connect` reaches a member by its name. Raises DbAccessorError, OSError.
    """
    leader = outlook.leader
    if not leader or controller_of(leader) not in departed or identity.controller_id in departed:
        return ""
    if outlook.own_role != "voter":
        return ""
    connection = await connect(leader)
    try:
        log.warning("%s leads and has departed for good: taking leadership over", leader)
        await connection.transfer(identity.dqlite_id)
        return leader
    finally:
        connection.close()

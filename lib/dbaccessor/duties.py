"""What is done beside the worker's loop, time and again: the leader's duties, the charm's news, the registry's rows.
A follower has one duty as well: not to follow a leader that has departed for good.

None of it changes the node. What fails is said and done again in the next round.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from dbaccessor import errors, goodbye
from dbaccessor.charmnews import CharmNews
from dbaccessor.dial import Dialer
from dbaccessor.dqlite.connection import Connection
from dbaccessor.executor import Executor
from dbaccessor.leader import MemberConnector
from dbaccessor.membership import Membership
from dbaccessor.registrar import Registrar
from dbaccessor.sight import Sight

log = logging.getLogger(__name__)

_DUTY_SECONDS = 0.5
_REGISTRY_SECONDS = 2.0
# Until the own row is written, nobody may use this controller.
_UNANNOUNCED_SECONDS = 0.25
# A transfer of leadership shows its effect within this.
_DEPOSE_SECONDS = 2.0


class Duties:
    """`on_announced` is called when the own row was written, `on_known` when members.json may name others."""

    def __init__(
        self,
        sight: Sight,
        membership: Membership,
        charm_news: CharmNews,
        registrar: Registrar,
        executor: Executor,
        dialer: Dialer,
        connector: MemberConnector,
        on_announced: Callable[[], None],
        on_known: Callable[[], None],
    ) -> None:
        self._sight = sight
        self._membership = membership
        self._charm_news = charm_news
        self._registrar = registrar
        self._executor = executor
        self._dialer = dialer
        self._connector = connector
        self._deposed_at = float("-inf")
        self._on_announced = on_announced
        self._on_known = on_known

    async def run(self) -> None:
        """Do them until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lead())
            group.create_task(self._keep_registry())

    async def _lead(self) -> None:
        """The leader's duties, and keeping the charm informed."""
        sight = self._sight
        while True:
            await asyncio.sleep(_DUTY_SECONDS)
            sight.disk.look()
            try:
                await self._membership.look()
                await self._follow_nobody_departed()
                identity, outlook = sight.identity, sight.outlook()
                if identity is not None and outlook.leader and sight.announced:
                    await self._charm_news.update(identity, outlook)
            except (errors.DbAccessorError, OSError, TimeoutError) as error:
                log.log(logging.DEBUG if sight.disk.problem else logging.WARNING, "duties: %s", error)
            outlook = sight.outlook()
            self._charm_news.tell_whether_it_serves(bool(outlook.leader) and sight.announced)
            self._charm_news.ask_for_a_newer_map(sight.conf, outlook)

    async def _follow_nobody_departed(self) -> None:
        loop, identity, conf = asyncio.get_running_loop(), self._sight.identity, self._sight.conf
        if identity is None or conf is None or not conf.departed or loop.time() < self._deposed_at + _DEPOSE_SECONDS:
            return

        async def connect(name: str) -> Connection:
            self._deposed_at = loop.time()
            return await self._connector.to_member(name, deadline=loop.time() + _DEPOSE_SECONDS)

        await goodbye.take_leadership_over(identity, self._sight.outlook(), conf.departed, connect)

    async def _keep_registry(self) -> None:
        """Write the own row once per start, then keep what the rows say in members.json."""
        sight = self._sight
        while True:
            await asyncio.sleep(_REGISTRY_SECONDS if sight.announced else _UNANNOUNCED_SECONDS)
            identity, conf, outlook = sight.identity, sight.conf, sight.outlook()
            if identity is None or conf is None or not outlook.leader or identity.state != "member":
                continue
            try:
                if not sight.announced:
                    generation = self._executor.founded_at_generation
                    await self._registrar.announce(identity, conf.own_address or "", generation)
                    self._on_announced()
                await self._registrar.remember(identity, outlook, conf, self._dialer.book)
                self._on_known()
            except (errors.DbAccessorError, OSError) as error:
                log.info("registry: %s", error)

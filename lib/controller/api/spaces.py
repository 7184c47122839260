"""What can be done with spaces, from any controller. Every call may be repeated after a doubt."""

from __future__ import annotations

from typing import Final

from controller.answering import Nothing, Route
from controller.api import charmspace, nodes
from controller.api.nodes import BadSpace, Published
from controller.api.spacemessages import Answer, Named, Space, Wanted
from controller.api.users import Runs, twice_is_once
from dbaccessor import errors
from dbaccessor.conf import DEFAULT_SPACE
from dbaccessor.database import Transaction

NAME: Final = "spaces"


class SpaceService:
    """The spaces of one set of controllers."""

    def __init__(self, database: Runs) -> None:
        self._database = database

    async def all(self) -> Answer:
        """Return every space, and what is published."""
        return await self._database.run(_read, read_only=True)

    async def set(self, name: str, subnets: tuple[str, ...]) -> Answer:
        """Make a space of exactly these subnets, taking them from others. Raises Refused, having changed nothing.

        The space that the charm sets, and its subnets, are the charm's.
        """

        async def change(tx: Transaction) -> Answer:
            try:
                await charmspace.refuse_space(tx, name, subnets)
                await nodes.set_space(tx, name, subnets)
            except BadSpace as error:
                raise errors.Refused(str(error)) from error
            return await _read(tx)

        return await twice_is_once(self._database, change)

    async def remove(self, name: str) -> Answer:
        """Remove a space; removing it twice is as once. Raises Refused while agents are sent to its addresses."""

        async def change(tx: Transaction) -> Answer:
            if name == DEFAULT_SPACE:
                raise errors.Refused(f"space {name} cannot be removed: it is whatever lies in no other space")
            await charmspace.refuse_space(tx, name)
            if await nodes.management_space(tx) == name:
                raise errors.Refused(
                    f"agents are sent to space {name}: run `hactl controller-config juju-mgmt-space=` first"
                )
            await nodes.remove_space(tx, name)
            return await _read(tx)

        return await twice_is_once(self._database, change)


async def _read(tx: Transaction) -> Answer:
    spaces = await nodes.spaces(tx)
    names = sorted({DEFAULT_SPACE, *spaces.names})
    agents, clients = await nodes.published(tx, nodes.AGENTS), await nodes.published(tx, nodes.CLIENTS)
    return Answer(
        spaces=tuple(Space(name, tuple(sorted(map(str, spaces.subnets(name))))) for name in names),
        management_space=await nodes.management_space(tx),
        charm_space=(await charmspace.mark(tx)).space,
        agents=_listed(agents),
        clients=_listed(clients),
        notes=() if agents is None else agents.notes,
    )


def _listed(published: Published | None) -> dict[str, tuple[str, ...]]:
    return {} if published is None else {s.controller_id: tuple(map(str, s.servers)) for s in published.servers}


async def _all(service: SpaceService, _: Nothing) -> Answer:
    return await service.all()


async def _set(service: SpaceService, wanted: Wanted) -> Answer:
    return await service.set(wanted.name, wanted.subnets)


async def _remove(service: SpaceService, named: Named) -> Answer:
    return await service.remove(named.name)


ROUTES = (
    Route("GET", "/spaces", NAME, SpaceService, _all),
    Route("POST", "/spaces", NAME, SpaceService, _set, Wanted),
    Route("POST", "/spaces/remove", NAME, SpaceService, _remove, Named),
)

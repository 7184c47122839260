"""Keeps two records true while there is a leader: this node's row in the database, and members.json on disk.

The first tells the others who this node is; the second is what remains of the others' rows when nobody leads.
"""

from __future__ import annotations

import msgspec
from dbaccessor.database import Database

from dbaccessor import registry
from dbaccessor.conf import ControllerConf
from dbaccessor.dial import AddressBook
from dbaccessor.identity import Identity, Known, Members, Store, controller_of, merge_known
from dbaccessor.outlook import Outlook


class Registrar:
    """`announced_as` is the identity whose row is known to be written, None at first."""

    def __init__(self, store: Store, database: Database) -> None:
        self._store = store
        self._database = database
        self.members = Members()
        self.announced_as: Identity | None = None

    def load(self) -> None:
        self.members = self._store.members()

    async def announce(self, identity: Identity, address: str, generation: int) -> None:
        """Write this node's row. Raises DbAccessorError; asking again is safe."""
        await registry.announce(self._database, identity, address, generation)
        if identity.dropped:
            await registry.drop_others(self._database, identity)
        self.announced_as = identity

    async def remember(self, identity: Identity, outlook: Outlook, conf: ControllerConf, book: AddressBook) -> None:
        """Bring members.json up to date with the cluster. Raises DbAccessorError."""
        rows = await registry.rows(self._database)
        addresses = book.everybody()
        now = {
            m.name: Known(controller_of(m.name), m.name, addresses.get(controller_of(m.name), ""), str(m.role))
            for m in outlook.members
        }
        if not now:
            return
        recorded = [Known(r.controller_id, r.name, r.address) for r in rows if r.name not in now]
        # Those that left in order are forgotten, once the cluster itself does not know them any more.
        earlier = [k for k in self.members.known if k.name in now or k.controller_id not in conf.departed]
        self.save(
            recorded=max((r.generation for r in rows if r.controller_id != identity.controller_id), default=0),
            known=merge_known(earlier, [*recorded, *now.values()]),
            role=now[identity.name].role if identity.name in now else self.members.role,
        )

    def save(
        self,
        *,
        generation: int = 0,
        recorded: int = 0,
        known: tuple[Known, ...] | None = None,
        role: str | None = None,
    ) -> None:
        """Write members.json if anything differs. Generations never sink."""
        fresh = msgspec.structs.replace(
            self.members,
            generation=max(generation, self.members.generation),
            recorded=max(recorded, self.members.recorded),
            known=self.members.known if known is None else known,
            role=self.members.role if role is None else role,
        )
        if fresh != self.members:
            self._store.save_members(fresh)
            self.members = fresh

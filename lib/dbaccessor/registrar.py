"""Keeps two records true while there is a leader: this node's row in the database, and members.json on disk.

The first tells the others who this node is; the second is what remains of the others' rows when nobody leads.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import msgspec

from dbaccessor import registry
from dbaccessor.conf import ControllerConf
from dbaccessor.database import Database
from dbaccessor.dial import AddressBook
from dbaccessor.identity import Identity, Known, Members, Store, controller_of, merge_known
from dbaccessor.outlook import Outlook

log = logging.getLogger(__name__)


class Registrar:
    """`announced_as` is the identity whose row is known to be written, None at first."""

    def __init__(self, store: Store, database: Database, application: int = 0) -> None:
        self._store = store
        self._application = application
        self._database = database
        self._unsaved = False
        # Counts how often what is remembered was replaced as a whole.
        self._loads = 0
        self._refused: set[str] = set()
        self.members = Members()
        self.announced_as: Identity | None = None

    def load(self) -> None:
        self.members = self._store.members()
        self._loads += 1

    @property
    def dropped(self) -> tuple[Known, ...]:
        """The members that a forced reconfiguration left behind and that were not yet seen refused."""
        return tuple(k for k in self.members.known if k.dropped)

    def saw_refused(self, name: str) -> None:
        """Note that this member, if it was left behind, has met the new epoch."""
        if any(k.name == name for k in self.dropped):
            self._refused.add(name)

    async def announce(self, identity: Identity, address: str, generation: int) -> None:
        """Write this node's row. Raises DbAccessorError; asking again is safe."""
        await registry.announce(self._database, identity, address, generation, self.dropped, self._application)
        self.announced_as = identity

    async def remember(self, identity: Identity, outlook: Outlook, conf: ControllerConf, book: AddressBook) -> None:
        """Bring members.json up to date with the cluster. Raises DbAccessorError."""
        loads = self._loads
        self._look_for_refused(outlook, identity)
        if self._refused:
            await registry.forget_dropped(self._database, self._refused)
            self._refused = set()
        rows, left_behind = await registry.rows(self._database)
        if self._loads != loads:
            return  # This node went on alone, or is none any more: what was seen before does not hold.
        addresses = book.everybody()
        now = {
            m.name: Known(controller_of(m.name), m.name, addresses.get(controller_of(m.name), ""), str(m.role))
            for m in outlook.members
        }
        if not now:
            return
        # Those that left in order are forgotten, once the cluster itself does not know them any more.
        joining = [Known(r.controller_id, r.name, r.address) for r in rows if r.name not in now]
        earlier = [k for k in self.members.known if not k.dropped]
        everybody = {k.controller_id for k in (*left_behind, *now.values())}
        unclear = [k for k in (*earlier, *joining) if k.controller_id not in conf.departed]
        others = [r for r in rows if r.controller_id != identity.controller_id]
        recorded = max((r.generation for r in others), default=0)
        self.save(
            recorded=recorded,
            recorded_by=tuple(r.controller_id for r in others if r.generation == recorded),
            known=merge_known(unclear, [*left_behind, *now.values()]),
            role=now[identity.name].role if identity.name in now else self.members.role,
            addresses={i: a for i, a in addresses.items() if i in everybody or i not in conf.departed},
        )

    def save(
        self,
        *,
        generation: int = 0,
        recorded: int = 0,
        recorded_by: tuple[str, ...] = (),
        known: tuple[Known, ...] | None = None,
        role: str | None = None,
        addresses: Mapping[str, str] | None = None,
    ) -> None:
        """Write members.json if anything differs. Generations never sink.

        A disk that refuses the write is logged and tried again at the next call: what is remembered here only
        forbids, and the node itself goes on.
        """
        before = self.members
        self.members = msgspec.structs.replace(
            before,
            generation=max(generation, before.generation),
            recorded=max(recorded, before.recorded),
            recorded_by=_recorders(before, recorded, recorded_by),
            known=before.known if known is None else known,
            role=before.role if role is None else role,
            addresses=before.addresses if addresses is None else dict(addresses),
        )
        if self.members == before and not self._unsaved:
            return
        try:
            self._store.save_members(self.members)
            self._unsaved = False
        except OSError as error:
            if not self._unsaved:
                log.error("members.json cannot be written: %s; trying again", error)
            self._unsaved = True

    def _look_for_refused(self, outlook: Outlook, identity: Identity) -> None:
        for known in self.dropped:
            answer = outlook.answers.get(known.controller_id)
            if answer is None:
                continue
            if answer.name != known.name or answer.superseded is not None or answer.epoch == identity.epoch:
                self._refused.add(known.name)


def _recorders(before: Members, recorded: int, by: tuple[str, ...]) -> tuple[str, ...]:
    """Who recorded the highest generation. A row that is gone by now counts all the same."""
    if recorded > before.recorded:
        return tuple(sorted(by))
    if recorded < before.recorded:
        return before.recorded_by
    # An earlier version kept no names: whoever it was cannot be told any more.
    return tuple(sorted({*before.recorded_by, *by})) if before.recorded_by else ()

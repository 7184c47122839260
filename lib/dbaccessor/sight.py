"""Flow 1, hop 4: all that the worker can see, put together for `decide`: configuration, disk, own node and peers.

Looking changes nothing but this memory: how long something has been so is counted here.
"""

from __future__ import annotations

import asyncio

from dbaccessor import situation
from dbaccessor.accounts import Accounts, Troubles
from dbaccessor.conf import ConfReader, ControllerConf
from dbaccessor.disk import Disk
from dbaccessor.dqlite import cluster
from dbaccessor.executor import Executor
from dbaccessor.identity import Identity, Store
from dbaccessor.logend import LogEnd
from dbaccessor.membership import Leading
from dbaccessor.outlook import Outlook
from dbaccessor.ownnode import OwnNode
from dbaccessor.peers import PeerWatch
from dbaccessor.presence import Presence
from dbaccessor.registrar import Registrar


class Sight:
    """`reader` and `disk` are brought up to date by whoever owns the loop; the rest by `look`."""

    def __init__(
        self,
        store: Store,
        reader: ConfReader,
        disk: Disk,
        presence: Presence,
        own: OwnNode,
        peers: PeerWatch,
        registrar: Registrar,
        executor: Executor,
        accounts: Accounts,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._store = store
        self.reader = reader
        self.disk = disk
        self._presence = presence
        self._own = own
        self._peers = peers
        self._registrar = registrar
        self._executor = executor
        self._accounts = accounts
        self._log_end = LogEnd(store.data_dir)
        self._removed_since: float | None = None

    @property
    def conf(self) -> ControllerConf | None:
        """The configuration in force; None before there is one."""
        return self.reader.conf

    @property
    def identity(self) -> Identity | None:
        return self._presence.identity

    @property
    def announced(self) -> bool:
        """Whether the row of this identity stands in the database."""
        return self.identity is not None and self._registrar.announced_as == self.identity

    async def look(self) -> Outlook:
        """Ask the own node, take note of what has changed, and tell it to those who ask."""
        await self._own.look()
        outlook = self.outlook()
        self._own.heed(outlook.leader)
        self._accounts.heed(outlook.leader)
        if not outlook.removed or self.identity is None or self.identity.state != "member":
            self._removed_since = None
        elif self._removed_since is None:
            self._removed_since = self._loop.time()
        await self._log_end.look(
            self.identity,
            outlook.own_role,
            running=self._own.running,
            silent_seconds=self._own.silent_seconds,
            hold_seconds=self._executor.timing.hold_seconds,
        )
        self._tell(outlook)
        return outlook

    def tell(self) -> None:
        """Answer whoever asks who this is with what is so now."""
        self._tell(self.outlook())

    def _tell(self, outlook: Outlook) -> None:
        running = self._own.running
        leader = outlook.leader if running else ""
        end = self._log_end.of(self.identity, running=running)
        self._presence.tell(running=running, leader=leader, last=end.last, empty=end.empty, ailing=self.disk.problem)

    def outlook(self) -> Outlook:
        """Return what the cluster looks like, by the answers that are there."""
        return Outlook(
            self.identity,
            self._own.probe,
            self._peers.answers(),
            self._registrar.members.role,
            self.disk.problem,
        )

    def leading(self) -> Leading | None:
        """Return what the leader's duties need to know, None while the own node does not lead."""
        identity, conf, local, outlook = self.identity, self.conf, self._own.local, self.outlook()
        if identity is None or conf is None or local is None or not outlook.leading:
            return None
        generations = {a.dqlite_id: a.generation for a in outlook.answers.values()}
        return Leading(identity.dqlite_id, local, conf, outlook.members, outlook.alive, self._peers.anew, generations)

    def quorum_answers(self) -> bool:
        outlook = self.outlook()
        return cluster.has_quorum(outlook.members, outlook.alive)

    def view(self, outlook: Outlook) -> situation.View:
        """Return everything that `decide` looks at."""
        members, marked_id = self._registrar.members, self._store.marked_id()
        known = {k.name for k in members.known if not k.dropped} | {m.name for m in outlook.members}
        return situation.View(
            conf=self.conf,
            conf_problem=self.reader.problem,
            disk=situation.Disk(
                identity=self.identity,
                marked_id=marked_id,
                # The marker is one of them.
                has_files=marked_id is not None or self._store.has_files(),
                fingerprint=self._store.fingerprint(),
                damage=self._executor.damage,
                held=members.held,
            ),
            running=self._running(outlook) if self._own.running else None,
            peers=self._peers.peers(self.cluster_uuid()),
            members=tuple(sorted(known)),
            heard_epoch=self._presence.heard_epoch,
            recorded_generation=members.recorded,
            recorded_by=members.recorded_by,
            peers_asked=self._peers.asked(self._presence.targets()),
            hold_seconds=self._executor.timing.hold_seconds,
        )

    def troubles(self) -> Troubles:
        """Return what keeps this controller from its work, whatever is decided."""
        return Troubles(
            self._presence.listen_problem,
            self.disk.problem,
            self._presence.certificate_problem(),
            self._peers.distrusted(),
        )

    def cluster_uuid(self) -> str:
        if self.identity is not None:
            return self.identity.cluster_uuid
        return self.conf.cluster_uuid if self.conf is not None else ""

    def _running(self, outlook: Outlook) -> situation.Running:
        now = self._loop.time()
        removed = self._removed_since is not None and now - self._removed_since >= self._executor.timing.hold_seconds
        return situation.Running(
            outlook.own_role,
            outlook.leader,
            self._own.silent_seconds,
            self._log_end.of(self.identity, running=True).last,
            answers=self._own.probe is not None,
            removed=removed,
        )

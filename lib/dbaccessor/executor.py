"""Flow 1, hop 6: one Action of decide -> the node, its data and its identity changed accordingly.

Only the worker calls this, one Action at a time. Whatever ends half-way (a kill, a full disk, a silent leader) leaves
files that the next look understands; the changes of several steps are journalled in reconfigure.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from dbaccessor import actions, errors, reconfigure, timing
from dbaccessor.accounts import Accounts
from dbaccessor.conf import ControllerConf
from dbaccessor.disk import Disk
from dbaccessor.dqlite import node as dqlite_node
from dbaccessor.identity import Epoch, Identity, Store
from dbaccessor.ownnode import OwnNode
from dbaccessor.peers import PeerWatch
from dbaccessor.preamble import MembershipRequest
from dbaccessor.presence import Presence
from dbaccessor.registrar import Registrar
from dbaccessor.timing import Timing

log = logging.getLogger(__name__)


class Executor:
    """The worker's hands. `conf` tells the configuration in force, `on_change` hears that the own facts changed."""

    def __init__(
        self,
        store: Store,
        disk: Disk,
        presence: Presence,
        own: OwnNode,
        registrar: Registrar,
        peers: PeerWatch,
        accounts: Accounts,
        conf: Callable[[], ControllerConf | None],
        on_change: Callable[[], None],
        on_timing: Callable[[Timing], None],
    ) -> None:
        self._store = store
        self._disk = disk
        self._presence = presence
        self._own = own
        self._registrar = registrar
        self._peers = peers
        self._accounts = accounts
        self._current_conf = conf
        self.on_change = on_change
        self.on_timing = on_timing
        # Why the library refused to start on the data, "" when it did not.
        self.damage = ""
        # The same while the disk had no room. That may be the reason, so it says nothing of the data.
        self._refused_without_room = ""
        # The configuration that this node founded its cluster by, 0 when it did not.
        self.founded_at_generation = 0
        self.timing = timing.for_latency(10)

    def become(self, identity: Identity | None) -> None:
        """Be this node from now on, to everybody."""
        self._presence.become(identity)
        self.on_change()

    def _conf(self) -> ControllerConf:
        conf = self._current_conf()
        assert conf is not None, "decide acts only with a configuration"
        return conf

    async def carry_out(self, action: actions.Action) -> None:
        """Do it, wholly. Raises DbAccessorError, OSError or TimeoutError; then looking again tells what there is."""
        match action:
            case actions.Bootstrap():
                await self._bootstrap(action)
            case actions.Start():
                self._accounts.set_state("starting", action.reason)
                await self._start_node()
            case actions.Join():
                await self._join(action)
            case actions.Forget():
                self._forget_identity()
            case actions.Supersede():
                await self._supersede(action.epoch)
            case actions.PutAside():
                await self._put_aside(action)
            case actions.Reconfigure():
                await self.go_on_alone(action)
            case actions.Wait() | actions.Serve():
                pass

    async def _bootstrap(self, action: actions.Bootstrap) -> None:
        conf = self._conf()
        self._accounts.set_state("bootstrapping", action.reason)
        identity = await asyncio.to_thread(
            reconfigure.bootstrap, self._store, cluster_uuid=conf.cluster_uuid, controller_id=conf.controller_id
        )
        self.founded_at_generation = conf.generation
        self.become(identity)

    async def _join(self, action: actions.Join) -> None:
        conf = self._conf()
        self._accounts.set_state("joining", action.reason)
        identity = self._presence.identity or await self._new_identity(conf, action.leader)
        if not self._own.running:
            await self._start_node()
        request = MembershipRequest(
            operation="join",
            controller_id=identity.controller_id,
            dqlite_id=identity.dqlite_id,
            name=identity.name,
            address=conf.own_address or "",
            generation=conf.generation,
        )
        outcome = await self._presence.dialer.membership(action.leader, request, self.timing.join_seconds)
        if not outcome.done:
            raise errors.NotReady(f"{action.leader} says: {outcome.reason}")
        log.info("joined: %s", outcome.reason)
        member = msgspec.structs.replace(identity, state="member")
        self._store.save_identity(member)
        self.become(member)

    async def _new_identity(self, conf: ControllerConf, leader: str) -> Identity:
        """Make a new id with an empty, marked directory, in the epoch of those who follow `leader`."""
        epochs = [a.epoch for a in self._peers.answers().values() if a.leader == leader and a.epoch is not None]
        if not epochs:
            raise errors.NotReady(f"nobody follows {leader} any more")
        dqlite_id = dqlite_node.new_id()
        identity = Identity(
            cluster_uuid=conf.cluster_uuid,
            controller_id=conf.controller_id,
            dqlite_id=dqlite_id,
            epoch=max(epochs, key=lambda e: e.number),
            fingerprint=await asyncio.to_thread(self._store.make_data_dir, dqlite_id),
        )
        self._store.save_identity(identity)
        self.become(identity)
        return identity

    async def _supersede(self, epoch: Epoch) -> None:
        """Whatever the disk says, this process serves the older epoch no longer."""
        identity = self._presence.identity
        assert identity is not None
        marked = msgspec.structs.replace(identity, superseded=epoch)
        try:
            self._store.save_identity(marked)
        finally:
            self.become(marked)
            await self._presence.proxy.drop_connections()
            await self.stop_node()

    async def _put_aside(self, action: actions.PutAside) -> None:
        await self.stop_node()
        where = await asyncio.to_thread(self._store.put_aside, action.reason)
        self._forget_identity()
        log.warning("data put aside in %s: %s", where, action.reason)

    async def go_on_alone(self, action: actions.Reconfigure) -> None:
        """Make this node the only member, in a new epoch. Raises RuntimeError where only a new process can go on."""
        identity = self._presence.identity
        assert identity is not None
        self._accounts.set_state("reconfiguring", action.reason)
        log.warning("going on alone: %s", action.reason)
        await self.stop_node()
        await self._presence.proxy.drop_connections()
        # Anything remembered only in memory so far is to be on disk before the journal refers to it.
        self._registrar.save()
        try:
            await asyncio.to_thread(reconfigure.go_on_alone, self._store, identity, action.dropping)
        except (errors.DbAccessorError, OSError) as error:
            if self._store.identity() != identity:
                raise RuntimeError(
                    f"going on alone stopped halfway; a new process has to complete it: {error}"
                ) from error
            raise
        finally:
            self.become(self._store.identity())
        self._registrar.load()
        await self._start_node()

    async def _start_node(self) -> None:
        identity = self._presence.identity
        assert identity is not None
        if self._store.journal() is not None:
            raise errors.NotReady("an interrupted change on disk could not be completed; the log says why")
        if self._refused_without_room:
            self._wait_for_room()
        self._registrar.announced_as = None
        latency_ms = self._conf().network_latency_ms
        self.timing = timing.for_latency(latency_ms)
        self.on_timing(self.timing)
        try:
            await self._own.start(identity, latency_ms)
            self.damage = self._refused_without_room = ""
        except errors.Refused as error:
            self._refused_without_room = str(error)
            self._wait_for_room()
            self.damage = str(error)
            raise
        finally:
            self.on_change()

    def _wait_for_room(self) -> None:
        """Raise NotReady while the disk has no room for the node that was refused.

        Not asked before: each start that fails inside the library leaks some descriptors.
        """
        self._disk.look()
        if self._disk.problem:
            raise errors.NotReady(f"{self._refused_without_room}; {self._disk.problem}")
        self._refused_without_room = ""

    def _forget_identity(self) -> None:
        self._store.forget_identity()
        self._registrar.load()
        self.damage = self._refused_without_room = ""
        self.become(None)

    async def stop_node(self) -> None:
        """Stop the node if it runs; its data stays as it is. Raises RuntimeError where only a new process can go on."""
        await self._own.stop()
        self.on_change()
        if self._own.stuck:
            raise RuntimeError("the node did not stop, and its data must not be touched: a new process has to go on")

"""Flow 1, hop 5 to 6: the worker that owns this controller's Dqlite node. It looks, decides, acts, and looks again.

One loop does everything that changes the node: read the configuration, look (sight.py), ask `decide`, carry out its
one Action (executor.py). What somebody orders (orders.py) takes turns with it. Beside it run the peer watch (peers.py),
the duties (duties.py) and the proxy (proxy.py, on its own thread), which change no node.

`run` ends only by cancellation; `stop` is the orderly way and hands leadership over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path
from typing import Any

from dbaccessor import actions, backup, errors, reconfigure, registry, report, timing, tlsfiles
from dbaccessor import decide as policy
from dbaccessor.accounts import Accounts
from dbaccessor.charmnews import CharmNews
from dbaccessor.conf import FILE_NAME, ConfReader, ControllerConf
from dbaccessor.confirm import Confirmer
from dbaccessor.database import Database
from dbaccessor.disk import Disk
from dbaccessor.dqlite import nodedir
from dbaccessor.dqlite.connection import Connection
from dbaccessor.dqlite.walindex import WalIndexes
from dbaccessor.duties import Duties
from dbaccessor.executor import Executor
from dbaccessor.identity import Epoch, Identity, Store
from dbaccessor.leader import MemberConnector
from dbaccessor.logwatch import LogWatch
from dbaccessor.membership import Leading, Membership
from dbaccessor.metrics import Metrics
from dbaccessor.orders import Orders
from dbaccessor.outlook import Outlook
from dbaccessor.ownnode import OwnNode
from dbaccessor.peers import PeerWatch
from dbaccessor.pool import Gate
from dbaccessor.preamble import MembershipRequest, Outcome
from dbaccessor.presence import Presence
from dbaccessor.registrar import Registrar
from dbaccessor.sight import Sight

log = logging.getLogger(__name__)

_TICK_SECONDS = 0.25
_CONF_SECONDS = 2.0
_RETRY_SECONDS = 1.0


class Worker:
    """Owns the node of one state directory. Create it inside the event loop that runs it.

    `application` is the version of the program around this package, which the controllers tell each other.
    """

    def __init__(self, state_dir: Path, application: int = 0) -> None:
        self._loop = asyncio.get_running_loop()
        self._store = Store(state_dir)
        first = timing.for_latency(timing.LATENCY_DEFAULT_MS)
        self._wake = asyncio.Event()
        self.metrics = Metrics()
        self._presence = Presence(
            first,
            self._membership_request,
            lambda name: self._registrar.saw_refused(name),
            lambda controller_id: self._peers.heard(controller_id),
            self._wake.set,
            credentials=state_dir / tlsfiles.DIRECTORY,
        )
        self._dialer, self._proxy = self._presence.dialer, self._presence.proxy
        self._own = OwnNode(self._store.data_dir, self._dialer.raft_connect)
        self._proxy.terms = lambda: self._own.terms
        self._peers = PeerWatch(self._dialer, first, self._presence.targets, self._wake.set)
        self._connector = MemberConnector(self._dialer, lambda: self._own.local, lambda: self._own.terms)
        self._confirmer = Confirmer(self._connector)
        self._proxy.on_refused = self.metrics.refused
        self._confirmer.on_round = self.metrics.confirmed
        self._databases: dict[str, Database] = {}
        controller_database = self.database(registry.DATABASE)
        self._registrar = Registrar(self._store, controller_database, application)
        self._membership = Membership(controller_database, first, self._leading)
        self._accounts = Accounts(state_dir)
        self.charm_news = CharmNews(self._store)
        disk = Disk(state_dir)
        self._executor = Executor(
            self._store,
            disk,
            self._presence,
            self._own,
            self._registrar,
            self._peers,
            self._accounts,
            conf=lambda: self.conf,
            on_change=self._changed,
            on_timing=self._retime,
        )
        self._sight = Sight(
            self._store,
            ConfReader(state_dir / FILE_NAME),
            disk,
            self._presence,
            self._own,
            self._peers,
            self._registrar,
            self._executor,
            self._accounts,
        )
        self._orders = Orders(self._store, self._sight, self._own, self._dialer, self._executor, self._accounts)
        self._duties = Duties(
            self._sight,
            self._membership,
            self.charm_news,
            self._registrar,
            self._executor,
            self._dialer,
            self._connector,
            on_announced=self._wake.set,
            on_known=self._update_addresses,
        )
        self._logs = LogWatch(
            WalIndexes(),
            self._leads,
            self._orders.give_leadership_away,
            self._restart_node,
            self.metrics.relieved,
        )
        self._conf_due = self._retry_at = 0.0
        self._unfinished = False

    # What others may call

    def database(self, name: str) -> Database:
        """Return the handle to the database `name`, whose transactions run on the leader; the same one each time."""
        if name not in self._databases:
            self._databases[name] = self.new_database(name)
        return self._databases[name]

    def new_database(self, name: str, gate: Gate | None = None) -> Database:
        """Return a handle of its own, with its own queues; the caller closes it. `gate`: see Pool."""
        return Database(self._connector, name, self._confirmer, gate).measure(self.metrics.namespace(name))

    @property
    def network_latency_ms(self) -> int:
        """The latency setting of the configuration in force; the default while there is none."""
        conf = self.conf
        return timing.LATENCY_DEFAULT_MS if conf is None else conf.network_latency_ms

    @property
    def epoch(self) -> Epoch | None:
        """The epoch of the cluster that this node belongs to; None while it belongs to none."""
        return None if self.identity is None else self.identity.epoch

    async def databases(self, *, deadline_seconds: float = 10) -> tuple[str, ...]:
        """Return the names of the cluster's databases, the controller's own first. Raises DbAccessorError."""
        return await backup.names(self.database(registry.DATABASE), deadline_seconds=deadline_seconds)

    def backup(
        self, wanted: Sequence[str], listed: Collection[str], version: str, dqlite_version: str
    ) -> AsyncIterator[bytes]:
        """Return an archive of these databases, part by part; `listed` are those of `databases`. Raises NotReady."""
        identity = self.identity
        if identity is None:
            raise errors.NotReady("this controller is in no cluster")
        index = nodedir.last_index_on_disk(self._store.data_dir)
        facts = backup.Facts(identity, index, version, dqlite_version)
        return backup.stream(self._connector, self._confirm, wanted, listed, facts)

    async def _confirm(self, connection: Connection, deadline: float) -> None:
        """Raises NotReady unless the node at the end of this connection leads, by the word of a majority."""
        members = await connection.cluster()
        await self._confirmer.confirm(connection, members, deadline=deadline)

    def nudge(self) -> None:
        """Look at the configuration file now. Callable from any thread."""

        def look() -> None:
            self._conf_due = 0.0
            self._wake.set()

        self._loop.call_soon_threadsafe(look)

    @property
    def state(self) -> str:
        """The state that the status document names: "serving" once the databases can be used."""
        return self._accounts.state

    @property
    def conf(self) -> ControllerConf | None:
        """The configuration in force; None before there is one."""
        return self._sight.conf

    @property
    def identity(self) -> Identity | None:
        """Who this node is in its cluster; None while it belongs to none."""
        return self._presence.identity

    def forget_database(self, name: str) -> None:
        """Close the handle to the database `name`, for one that was deleted; asked again, there is a fresh one."""
        database = self._databases.pop(name, None)
        if database is not None:
            database.close()

    @property
    def stuck(self) -> bool:
        """Whether a call into the library did not come back, so that the process must end without waiting for it."""
        return self._own.stuck

    async def run(self) -> None:
        """Own the node until cancelled.

        Raises only for what needs a new process (the supervisor's restart) or an operator.
        """
        self._load()
        self._proxy.start()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._peers.run())
                group.create_task(self._duties.run())
                group.create_task(self._logs.run())
                await self._keep_deciding()
        finally:
            for database in self._databases.values():
                database.close()
            self._confirmer.close()
            self._dialer.stop()
            await self._own.stop()
            await self._proxy.stop()

    async def stop(self) -> None:
        """Hand over what the node holds, then stop it. Call it before cancelling `run`."""
        await self._orders.stop()

    async def finish(self) -> None:
        """Wait for a node that `stop` left behind as `stuck`. For a process that is to live on."""
        await self._orders.finish()

    async def leave(self) -> Outcome:
        """Say goodbye for good, so that the others need not wait for this node. Idempotent; the reason is inside."""
        return await self._orders.leave()

    async def rebuild(self, force: bool) -> Outcome:
        """Make this node the only member on an operator's word; the others join again. The reason is in the outcome."""
        outcome = await self._orders.rebuild(force)
        self._wake.set()
        return outcome

    # The loop

    def _load(self) -> None:
        self._unfinished = False
        try:
            done = reconfigure.finish(self._store)
            if done is not None:
                log.warning("%s", done)
        except (errors.DbAccessorError, OSError) as error:
            # Nothing may be decided on what lies there half done: it would be taken for somebody else's.
            self._unfinished = True
            log.error("an interrupted change on disk cannot be completed: %s", error)
        self.charm_news.load()
        self._registrar.load()
        self._sight.reader = ConfReader(self._sight.reader.path, floor=self._registrar.members.generation)
        self._conf_due = 0.0
        self._executor.become(self._store.identity())
        self._update_addresses()

    async def _keep_deciding(self) -> None:
        while True:
            self._wake.clear()
            async with self._orders.acting:
                if self._orders.failure is not None:
                    raise self._orders.failure
                if not self._orders.stopping:
                    await self._step_guarded()
            tick = self._loop.call_later(_TICK_SECONDS, self._wake.set)
            try:
                await self._wake.wait()
            finally:
                tick.cancel()

    async def _step_guarded(self) -> None:
        """One step. What the disk or the network refuses is shown and tried again; it never ends the node."""
        waiting = self._loop.time() < self._retry_at
        try:
            if waiting:
                await self._sight.look()
            else:
                await self._step()
        except (errors.DbAccessorError, OSError, TimeoutError) as error:
            if not waiting:  # A look that fails puts the next step no further off.
                self._retry_at = self._loop.time() + _RETRY_SECONDS
            sentence = f"{self._accounts.state}: {str(error) or type(error).__name__}"
            self._accounts.show([("retry", sentence, f"it is tried again every {_RETRY_SECONDS:g} s")])

    async def _step(self) -> None:
        # Also what this process left half done: no node starts on it before it is completed or undone.
        if self._unfinished or (not self._own.running and self._store.journal() is not None):
            self._load()
            if self._unfinished:
                raise errors.NotReady("an interrupted change on disk could not be completed; the log says why")
        self._read_conf()
        await self._presence.listen()
        outlook = await self._sight.look()
        if self._orders.leaving:
            return
        deaf = self._presence.listen_problem is not None or not self._presence.certified
        if self._own.deposed and not deaf:
            # What it gave up as a leader may stand in its databases all the same (docs/reference/libdqlite.md).
            log.warning("this node leads no longer; it starts anew from its log")
            await self._executor.stop_node()
            outlook = await self._sight.look()
        action = policy.decide(self._sight.view(outlook))
        self._account(action, outlook)
        if isinstance(action, actions.Wait | actions.Serve):
            return
        if deaf and not isinstance(action, actions.PutAside | actions.Supersede):
            return
        log.info("%s: %s", type(action).__name__.lower(), action.reason)
        with self.metrics.action(type(action).__name__):
            await self._executor.carry_out(action)
        self._sight.tell()
        self._wake.set()

    def _read_conf(self) -> None:
        now = self._loop.time()
        if now < self._conf_due:
            return
        self._conf_due = now + _CONF_SECONDS
        if not self._sight.reader.read():
            return
        if self._sight.reader.problem is not None:
            log.error("%s", self._sight.reader.problem)
        conf = self.conf
        if conf is None:
            return
        log.info("configuration generation %d: %s", conf.generation, conf.db_bind_addresses)
        earlier = self._registrar.members.addresses
        self._registrar.save(generation=conf.generation, addresses={**earlier, **conf.db_bind_addresses})
        self._update_addresses()
        self._peers.hurry()

    def _account(self, action: actions.Action, outlook: Outlook) -> None:
        self._accounts.decided(
            action,
            self._sight.troubles(),
            leader=bool(outlook.leader),
            running=self._own.running,
            announced=self._sight.announced,
        )

    # What the parts ask of each other

    def _leading(self) -> Leading | None:
        return None if self._orders.stopping else self._sight.leading()

    def _leads(self) -> bool | None:
        """Whether the own node leads, by its last word; None: it runs and does not answer."""
        return None if self._own.running and self._own.probe is None else self._sight.outlook().leading

    async def _restart_node(self) -> None:
        await self._orders.restart_node()
        self._wake.set()

    async def _membership_request(self, request: MembershipRequest) -> Outcome:
        """Called on the proxy's loop; the work belongs to this worker's."""
        future = asyncio.run_coroutine_threadsafe(self._membership.handle(request), self._loop)
        return await asyncio.wrap_future(future)

    def _changed(self) -> None:
        if self.identity is None:
            self.charm_news.db_state = None
        self._sight.tell()

    def _retime(self, changed: timing.Timing) -> None:
        self._dialer.timing = self._peers.timing = self._membership.timing = changed

    def _update_addresses(self) -> None:
        members = self._registrar.members
        earlier = {k.controller_id: k.address for k in members.known if k.address}
        self._presence.know(self.conf, {**earlier, **members.addresses})

    # What status shows

    def status(self) -> dict[str, Any]:
        """Return this moment's part of the status document (docs/reference/status.md). Call it on the worker's loop."""
        conf, identity, outlook = self.conf, self.identity, self._sight.outlook()
        section = None
        if identity is not None:
            section = report.cluster_section(
                identity,
                outlook.members,
                outlook.leader,
                outlook.alive,
                (k.name for k in self._registrar.dropped),
                self._dialer.book.everybody(),
                self._dialer.book.port,
                self._own.running,
                outlook.ailing,
            )
        return {
            "controller-id": conf.controller_id if conf is not None else "",
            **self._accounts.section(),
            "log-frames": self._logs.frames,
            "conf": report.conf_section(conf, self._sight.reader.problem),
            "cluster": section,
        }

    def report(self) -> dict[str, Any]:
        """Return this worker's part of an engine report. Call it on the worker's loop."""
        return report.engine_report(self.status(), self.metrics.databases())

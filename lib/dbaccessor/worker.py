"""Flow 1, hop 5 to 6: the worker that owns this controller's Dqlite node. It looks, decides, acts, and looks again.

One loop does everything that changes the node: read the configuration, look at disk, node and peers, ask `decide`,
carry out its one Action. Beside it run the peer watch (peers.py), the leader's duties (membership.py) and the proxy
(proxy.py, on its own thread). Nothing else ever starts, stops or reconfigures the node.

`run` ends only by cancellation; `stop` is the orderly way and hands leadership over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from dbaccessor import backup, errors, goodbye, rebuild, reconfigure, registry, report, timing, tlsfiles
from dbaccessor import decide as policy
from dbaccessor.charmnews import CharmNews
from dbaccessor.conf import FILE_NAME, ConfReader, ControllerConf
from dbaccessor.confirm import Confirmer
from dbaccessor.database import Database
from dbaccessor.disk import Disk
from dbaccessor.dqlite import cluster, nodedir
from dbaccessor.dqlite.connection import Connection, Role
from dbaccessor.executor import Executor
from dbaccessor.identity import Epoch, Identity, Store
from dbaccessor.leader import MemberConnector
from dbaccessor.membership import Leading, Membership
from dbaccessor.metrics import Metrics
from dbaccessor.outlook import Outlook
from dbaccessor.ownnode import OwnNode
from dbaccessor.peers import PeerWatch
from dbaccessor.pool import Gate
from dbaccessor.preamble import MembershipRequest, Outcome
from dbaccessor.presence import Presence
from dbaccessor.registrar import Registrar

log = logging.getLogger(__name__)

_TICK_SECONDS = 0.25
_CONF_SECONDS = 2.0
_DUTY_SECONDS = 0.5
_REGISTRY_SECONDS = 2.0
_RETRY_SECONDS = 1.0
_LEAVE_SECONDS = 25.0
# The library asks each member for five seconds before a handover comes back that nobody answers.
_FINISH_SECONDS = 30.0


class Worker:
    """Owns the node of one state directory. Create it inside the event loop that runs it.

    `application` is the version of the program around this package, which the controllers tell each other.
    """

    def __init__(self, state_dir: Path, application: int = 0) -> None:
        self._loop = asyncio.get_running_loop()
        self._store = Store(state_dir)
        self._reader = ConfReader(state_dir / FILE_NAME)
        first = timing.for_latency(timing.LATENCY_DEFAULT_MS)
        self._wake = asyncio.Event()
        self.metrics = Metrics()
        self._presence = Presence(
            first,
            self._membership_request,
            self._saw_refused,
            self._was_called,
            self._wake.set,
            credentials=state_dir / tlsfiles.DIRECTORY,
        )
        self._dialer, self._proxy = self._presence.dialer, self._presence.proxy
        self._own = OwnNode(self._store.data_dir, self._dialer.raft_connect)
        self._peers = PeerWatch(self._dialer, first, self._presence.targets, self._wake.set)
        self._connector = MemberConnector(self._dialer, lambda: self._own.local)
        self._confirmer = Confirmer(self._connector)
        self._proxy.on_refused = self.metrics.refused
        self._confirmer.on_round = self.metrics.confirmed
        self._databases: dict[str, Database] = {}
        controller_database = self.database(registry.DATABASE)
        self._registrar = Registrar(self._store, controller_database, application)
        self._membership = Membership(controller_database, first, self._leading)
        self._accounts = report.Accounts(state_dir)
        self.charm_news = CharmNews(self._store)
        self._executor = Executor(
            self._store,
            self._presence,
            self._own,
            self._registrar,
            self._peers,
            self._accounts,
            conf=lambda: self._reader.conf,
            on_change=self._changed,
            on_timing=self._retime,
        )
        self._disk = Disk(state_dir)
        self._last = nodedir.NO_ENTRY
        self._removed_since: float | None = None
        self._conf_due = self._retry_at = 0.0
        self._acting = asyncio.Lock()
        self._leaving = self._stopping = self._unfinished = False

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
        conf = self._reader.conf
        return timing.LATENCY_DEFAULT_MS if conf is None else conf.network_latency_ms

    @property
    def epoch(self) -> Epoch | None:
        """The epoch of the cluster that this node belongs to; None while it belongs to none."""
        return None if self._identity is None else self._identity.epoch

    async def databases(self) -> tuple[str, ...]:
        """Return the names of the cluster's databases, the controller's own first. Raises DbAccessorError."""
        return await backup.names(self.database(registry.DATABASE))

    def backup(self, wanted: Sequence[str], version: str, dqlite_version: str) -> AsyncIterator[bytes]:
        """Return an archive of these databases, part by part. Raises NotReady."""
        identity = self._identity
        if identity is None:
            raise errors.NotReady("this controller is in no cluster")
        index = nodedir.last_index_on_disk(self._store.data_dir)
        facts = backup.Facts(identity, index, version, dqlite_version)
        return backup.stream(self._connector, self._confirm, wanted, facts)

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
        return self._reader.conf

    @property
    def identity(self) -> Identity | None:
        """Who this node is in its cluster; None while it belongs to none."""
        return self._identity

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
                group.create_task(self._do_duties())
                group.create_task(self._keep_registry())
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
        self._stopping = True
        async with self._acting:
            self._accounts.set_state("stopped", "controllerd was told to stop")
            outlook = self._outlook()
            if outlook.leader and len(outlook.members) > 1:
                await self._hand_over(outlook)
            await self._own.stop()
            self._changed()

    async def finish(self) -> None:
        """Wait for a node that `stop` left behind as `stuck`. For a process that is to live on."""
        self._dialer.stop()
        await self._own.finish(_FINISH_SECONDS)

    async def _hand_over(self, outlook: Outlook) -> None:
        """Give away leadership, then the voting right. The first alone is what keeps the others writing.

        Without a vote there is nothing to give, and the library's handover must not be asked: it makes another member
        a voter all the same, and on a spare that knows no configuration yet it never comes back.
        """
        identity, local = self._identity, self._own.local
        if outlook.own_role != "voter":
            log.info("nothing to hand over: this node has no vote")
            return
        if outlook.leading and identity is not None and local is not None:
            try:
                await goodbye.hand_leadership_over(identity, local, outlook)
            except (errors.DbAccessorError, OSError) as error:
                log.warning("leadership could not be handed over: %s", error)
        limit = self._executor.timing.handover_seconds
        self._accounts.handed_over(await self._own.hand_over(limit, self._quorum_answers))

    def _quorum_answers(self) -> bool:
        outlook = self._outlook()
        return cluster.has_quorum(outlook.members, outlook.alive)

    async def leave(self) -> Outcome:
        """Say goodbye for good, so that the others need not wait for this node. Idempotent; the reason is inside."""
        identity, local = self._identity, self._own.local
        if identity is not None and identity.state == "left":
            return Outcome(True, "left already")
        if identity is None or local is None:
            return Outcome(False, "this node is no member, or does not run")
        if len(self._outlook().members) < 2:
            return Outcome(False, "this is the last controller")
        self._leaving = True
        try:
            self._accounts.set_state("leaving", "saying goodbye to the other members")
            outcome = await goodbye.say(identity, local, self._outlook, self._dialer, _LEAVE_SECONDS)
            async with self._acting:
                if outcome.done and self._identity is not None:
                    left = msgspec.structs.replace(self._identity, state="left")
                    self._store.save_identity(left)
                    self._executor.become(left)
                    await self._executor.stop_node()
        except TimeoutError:
            outcome = Outcome(False, f"no leader removed this node within {_LEAVE_SECONDS:g} s")
        except (errors.DbAccessorError, OSError) as error:
            outcome = Outcome(False, f"{type(error).__name__}: {error}")
        finally:
            self._leaving = False
        log.info("leaving: %s", outcome.reason)
        return outcome

    async def rebuild(self, force: bool) -> Outcome:
        """Make this node the only member on an operator's word; the others join again. The reason is in the outcome."""
        async with self._acting:
            outlook = await self._look()
            voters = frozenset(m.name for m in outlook.members if m.role == Role.VOTER)
            planned = rebuild.plan(self._view(outlook), voters, force=force)
            if isinstance(planned, str):
                outcome = Outcome(False, planned)
            else:
                try:
                    await self._executor.go_on_alone(planned)
                    left = ", ".join(sorted(planned.dropping)) or "nobody"
                    outcome = Outcome(True, f"this node is the only member now, left behind: {left}")
                except (errors.DbAccessorError, OSError) as error:
                    outcome = Outcome(False, f"{type(error).__name__}: {error}")
            self._wake.set()
        log.warning("rebuild-cluster%s: %s", " with force" if force else "", outcome.reason)
        return outcome

    # Looking

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
        self._reader = ConfReader(self._reader.path, floor=self._registrar.members.generation)
        self._executor.become(self._store.identity())
        self._update_addresses()

    async def _keep_deciding(self) -> None:
        while True:
            self._wake.clear()
            async with self._acting:
                if not self._stopping:
                    await self._step_guarded()
            try:
                async with asyncio.timeout(_TICK_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _step_guarded(self) -> None:
        """One step. What the disk or the network refuses is shown and tried again; it never ends the node."""
        if self._loop.time() < self._retry_at:
            await self._look()
            return
        try:
            await self._step()
        except (errors.DbAccessorError, OSError, TimeoutError) as error:
            self._retry_at = self._loop.time() + _RETRY_SECONDS
            sentence = f"{self._accounts.state}: {str(error) or type(error).__name__}"
            self._accounts.show([("retry", sentence, f"it is tried again every {_RETRY_SECONDS:g} s")])

    async def _look(self) -> Outlook:
        await self._own.look()
        outlook = self._outlook()
        self._own.heed(outlook.leader)
        self._accounts.heed(outlook.leader)
        if not outlook.removed or self._identity is None or self._identity.state != "member":
            self._removed_since = None
        elif self._removed_since is None:
            self._removed_since = self._loop.time()
        # Reading segments is not for every tick: where the log ends matters only when nobody leads.
        leaderless = self._own.silent_seconds >= self._executor.timing.hold_seconds
        self._last = nodedir.last_entry_on_disk(self._store.data_dir) if leaderless else nodedir.NO_ENTRY
        self._update_facts()
        return outlook

    async def _step(self) -> None:
        if self._unfinished:
            self._load()
            if self._unfinished:
                raise errors.NotReady("an interrupted change on disk could not be completed; the log says why")
        self._read_conf()
        await self._presence.listen()
        outlook = await self._look()
        if self._leaving:
            return
        action = policy.decide(self._view(outlook))
        self._account(action, outlook)
        if isinstance(action, policy.Wait | policy.Serve):
            return
        deaf = self._presence.listen_problem is not None or not self._presence.certified
        if deaf and not isinstance(action, policy.PutAside | policy.Supersede):
            return
        log.info("%s: %s", type(action).__name__.lower(), action.reason)
        with self.metrics.action(type(action).__name__):
            await self._executor.carry_out(action)
        self._update_facts()
        self._wake.set()

    def _read_conf(self) -> None:
        now = self._loop.time()
        if now < self._conf_due:
            return
        self._conf_due = now + _CONF_SECONDS
        if not self._reader.read():
            return
        if self._reader.problem is not None:
            log.error("%s", self._reader.problem)
        conf = self._reader.conf
        if conf is None:
            return
        log.info("configuration generation %d: %s", conf.generation, conf.db_bind_addresses)
        earlier = self._registrar.members.addresses
        self._registrar.save(generation=conf.generation, addresses={**earlier, **conf.db_bind_addresses})
        self._update_addresses()
        self._peers.hurry()

    def _outlook(self) -> Outlook:
        return Outlook(
            self._identity,
            self._own.probe,
            self._peers.answers(),
            self._registrar.members.role,
            self._disk.problem,
        )

    def _view(self, outlook: Outlook) -> policy.View:
        members = self._registrar.members
        known = {k.name for k in members.known if not k.dropped} | {m.name for m in outlook.members}
        return policy.View(
            conf=self._reader.conf,
            conf_problem=self._reader.problem,
            disk=policy.Disk(
                identity=self._identity,
                marked_id=self._store.marked_id(),
                has_files=self._store.has_files(),
                fingerprint=self._store.fingerprint(),
                damage=self._executor.damage,
                held=members.held,
            ),
            running=self._running(outlook) if self._own.running else None,
            peers=self._peers.peers(self._cluster_uuid()),
            members=tuple(sorted(known)),
            heard_epoch=self._presence.heard_epoch,
            recorded_generation=members.recorded,
            peers_asked=self._peers.asked(self._presence.targets()),
            hold_seconds=self._executor.timing.hold_seconds,
        )

    def _running(self, outlook: Outlook) -> policy.Running:
        now = self._loop.time()
        removed = self._removed_since is not None and now - self._removed_since >= self._executor.timing.hold_seconds
        return policy.Running(
            outlook.own_role,
            outlook.leader,
            self._own.silent_seconds,
            self._last,
            answers=self._own.probe is not None,
            removed=removed,
        )

    # Beside the loop

    async def _do_duties(self) -> None:
        """The leader's duties, and keeping the charm informed."""
        while True:
            await asyncio.sleep(_DUTY_SECONDS)
            self._disk.look()
            try:
                await self._membership.look()
                identity, outlook = self._identity, self._outlook()
                if identity is not None and outlook.leader and self._announced():
                    self.charm_news.update(identity, outlook)
            except (errors.DbAccessorError, OSError, TimeoutError) as error:
                log.log(logging.DEBUG if self._disk.problem else logging.WARNING, "duties: %s", error)
            self.charm_news.ask_for_a_newer_map(self._reader.conf, self._outlook())

    async def _keep_registry(self) -> None:
        """Write the own row once per start, then keep what the rows say in members.json."""
        while True:
            await asyncio.sleep(_REGISTRY_SECONDS if self._announced() else _TICK_SECONDS)
            identity, conf, outlook = self._identity, self._reader.conf, self._outlook()
            if identity is None or conf is None or not outlook.leader or identity.state != "member":
                continue
            try:
                if not self._announced():
                    await self._registrar.announce(
                        identity, conf.own_address or "", self._executor.founded_at_generation
                    )
                    self._wake.set()
                await self._registrar.remember(identity, outlook, conf, self._dialer.book)
                self._update_addresses()
            except (errors.DbAccessorError, OSError) as error:
                log.info("registry: %s", error)

    def _announced(self) -> bool:
        return self._identity is not None and self._registrar.announced_as == self._identity

    def _leading(self) -> Leading | None:
        identity, conf, local, outlook = self._identity, self._reader.conf, self._own.local, self._outlook()
        if identity is None or conf is None or local is None or self._stopping or not outlook.leading:
            return None
        return Leading(identity.dqlite_id, local, conf, outlook.alive)

    async def _membership_request(self, request: MembershipRequest) -> Outcome:
        """Called on the proxy's loop; the work belongs to this worker's."""
        future = asyncio.run_coroutine_threadsafe(self._membership.handle(request), self._loop)
        return await asyncio.wrap_future(future)

    # Who this node is

    @property
    def _identity(self) -> Identity | None:
        return self._presence.identity

    def _changed(self) -> None:
        if self._identity is None:
            self.charm_news.db_state = None
        self._update_facts()

    def _retime(self, changed: timing.Timing) -> None:
        self._dialer.timing = self._peers.timing = self._membership.timing = changed

    def _update_facts(self) -> None:
        running = self._own.running
        leader = self._outlook().leader if running else ""
        self._presence.tell(running=running, leader=leader, last=self._last, ailing=self._disk.problem)

    def _update_addresses(self) -> None:
        members = self._registrar.members
        earlier = {k.controller_id: k.address for k in members.known if k.address}
        self._presence.know(self._reader.conf, {**earlier, **members.addresses})

    def _saw_refused(self, name: str) -> None:
        self._registrar.saw_refused(name)

    def _was_called(self, controller_id: str) -> None:
        self._peers.heard(controller_id)

    def _cluster_uuid(self) -> str:
        if self._identity is not None:
            return self._identity.cluster_uuid
        return self._reader.conf.cluster_uuid if self._reader.conf is not None else ""

    # What status shows

    def _account(self, action: policy.Action, outlook: Outlook) -> None:
        accounts = self._accounts
        wait = action if isinstance(action, policy.Wait) else getattr(action, "notice", None)
        waits = [] if wait is None else [(wait.topic, wait.reason, wait.remedy)]
        if self._presence.listen_problem is not None:
            waits.append(
                ("listen", self._presence.listen_problem, "see the unit's addresses; it is tried again by itself")
            )
        if self._disk.problem:
            waits.append(("disk", self._disk.problem, "free space there; it goes on by itself"))
        certificate = self._presence.certificate_problem()
        if certificate is not None:
            waits.append(("certificate", str(certificate), certificate.remedy))
        for controller_id, problem in self._peers.distrusted().items():
            remedy = "compare the clocks, and the authorities in ca.pem, of the two machines"
            waits.append((f"certificate of {controller_id}", f"controller {controller_id}: {problem}", remedy))
        accounts.show(waits)
        if certificate is not None and not self._own.running:
            accounts.set_state("waiting", str(certificate))
        elif isinstance(action, policy.Wait):
            if not self._own.running or not outlook.leader:
                accounts.set_state("waiting", action.reason)
            elif self._announced():
                accounts.set_state("serving", action.reason)
        elif isinstance(action, policy.Serve):
            if not outlook.leader:
                accounts.set_state("starting" if not self._announced() else "serving", action.reason)
            elif self._announced():
                accounts.set_state("serving", action.reason)
            else:
                accounts.set_state("starting", "writes its row into the database")

    def status(self) -> dict[str, Any]:
        """Return this moment's part of the status document (docs/reference/status.md). Call it on the worker's loop."""
        conf, identity, outlook = self._reader.conf, self._identity, self._outlook()
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
            "conf": report.conf_section(conf, self._reader.problem),
            "cluster": section,
        }

    def report(self) -> dict[str, Any]:
        """Return this worker's part of an engine report. Call it on the worker's loop."""
        return report.engine_report(self.status(), self.metrics.databases())

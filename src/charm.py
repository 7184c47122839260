#!/usr/bin/env python3
"""Flow 1, first half, wired up: every event -> reconcile(): read all, publish, render, run controllerd.

Handlers have no logic of their own, nothing is stored between hooks, and running any hook twice changes
nothing.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
import time
import uuid
from collections.abc import Mapping

import ops
from charmlibs import systemd

import bindaddress
import certificatefiles
import certificates
import controllerconf
import controlsocket
import dbcluster
import facts
import paths
import restarts
import topology
import unitstatus
import workload
from dbaccessor import confsocket
from facts import Facts
from topology import Rendered

logger = logging.getLogger(__name__)

# Each record is a process of its own (juju-log). What these two tell at DEBUG cost more than the hook's own work, and
# an operator reads one line a decision.
for chatty in ("ops", "charmlibs.systemd"):
    logging.getLogger(chatty).setLevel(logging.INFO)

REGISTRATION = "registration"
PORTS = (ops.Port("tcp", 17666), ops.Port("tcp", 17070))
LATENCY = "network-latency-ms"
LATENCY_RANGE = range(5, 1001)
LATENCY_DEFAULT = 10
RESTART_POLL_SECONDS = 0.2


class ControllerEvents(ops.CharmEvents):
    """Juju's events, and the one that controllerd asks for when its cluster changed."""

    db_state_changed = ops.EventSource(ops.EventBase)


class ControllerCharm(ops.CharmBase):
    """The controller charm: one controllerd a unit, all of them one Dqlite cluster."""

    on = ControllerEvents()

    def __init__(self, framework: ops.Framework) -> None:
        super().__init__(framework)
        # What the operator is to know, in the order it was found. None: this hook has nothing to say (an action).
        self._statuses: list[ops.StatusBase] | None = None
        self._node: controlsocket.Status | None = None
        self._hole = ""
        self._certified = False
        self._reconciled = False
        cluster = self.on[dbcluster.ENDPOINT]
        for event in (
            self.on.install,
            self.on.config_changed,
            self.on.start,
            self.on.update_status,
            self.on.upgrade_charm,
            self.on.leader_elected,
            self.on.db_state_changed,
            cluster.relation_created,
            cluster.relation_joined,
            cluster.relation_changed,
            cluster.relation_departed,
            cluster.relation_broken,
        ):
            framework.observe(event, self._on_event)
        framework.observe(self.on.secret_changed, self._on_secret_changed)
        framework.observe(self.on.secret_remove, self._on_secret_remove)
        framework.observe(self.on.stop, self._on_stop)
        framework.observe(self.on.remove, self._on_remove)
        framework.observe(self.on.get_cluster_action, self._on_get_cluster)
        framework.observe(self.on.get_client_config_action, self._on_get_client_config)
        framework.observe(self.on.rebuild_cluster_action, self._on_rebuild_cluster)
        framework.observe(self.on.collect_unit_status, self._on_collect_unit_status)
        framework.observe(self.on.collect_app_status, self._on_collect_app_status)

    def _on_event(self, event: ops.EventBase) -> None:
        self.reconcile(event)

    def reconcile(self, event: ops.EventBase) -> None:
        """Bring databags, controller.conf and service to where all the facts together say they belong."""
        self._statuses = []
        now = facts.read(self, event)
        if now.leaving:
            logger.info("this unit is leaving: nothing is published or rendered")
            self._say(ops.MaintenanceStatus("leaving the cluster"))
            self._revive(now.disk_uuid)
            return
        restart_due = workload.install(self.charm_dir, self.unit.name)
        self.unit.set_ports(*PORTS)
        shared = self._shared(now)
        self._tell_of_management(now)
        rewritten = self._publish_and_render(now, shared)
        # Before the start hook a node without an address could only wait; from then on its waiting is worth showing.
        due = isinstance(event, ops.StartEvent | ops.UpdateStatusEvent) or self._is_named() or restart_due
        started = False
        if due and not isinstance(event, ops.InstallEvent):
            started = self._run(restart=restart_due and workload.is_running() and self._is_its_turn(now))
        if (rewritten or started) and self._is_named() and self._certified:
            self._node = controlsocket.wait_until_serving(paths.STATE_DIR)
            self._publish_state(now)
        else:
            self._node = controlsocket.status(paths.STATE_DIR)
        self._publish_code(now)
        if not isinstance(event, ops.InstallEvent):
            self._say(unitstatus.of_node(self._node))
            self._reconciled = True
        if self._node is not None and self._node.dqlite_version:
            self.unit.set_workload_version(self._node.dqlite_version)

    def _shared(self, now: Facts) -> str:
        """Return the address to share, and tell the operator what is wrong with the binding."""
        match now.network.choice:
            case bindaddress.Ambiguous() | bindaddress.NoneLocal() as choice:
                self._say(ops.BlockedStatus(choice.reason(self.app.name)))
            case bindaddress.Missing() as choice:
                self._say(ops.WaitingStatus(choice.reason))
            case None:
                self._say(ops.WaitingStatus(now.network.failure))
            case bindaddress.Unique():
                pass
        return bindaddress.share(now.network.choice, now.own.address)

    def _tell_of_management(self, now: Facts) -> None:
        if now.management.blocked:
            self._say(ops.BlockedStatus(now.management.blocked))
        if now.management.waiting:
            self._say(ops.WaitingStatus(now.management.waiting))

    def _publish_and_render(self, now: Facts, address: str) -> bool:
        """Write this unit's bag, the leader's decisions and the files. Return whether the node has work to do."""
        if now.relation is None:
            self._say(ops.WaitingStatus("waiting for the db-cluster peer relation"))
            return False
        code = workload.installed_code()
        # While a restart is due it is not known what this unit will serve with, even if it once served with this code.
        is_kept = now.own.serves_with == code and workload.due_seconds() is None
        own = dataclasses.replace(
            now.own,
            schema=dbcluster.SCHEMA,
            code=code,
            serves_with=code if is_kept else "",
            controller_id=now.controller_id,
            address=address,
            cluster_uuid=now.disk_uuid or now.own.cluster_uuid,
            db_state=now.node_state or now.own.db_state,
            request=certificatefiles.request(paths.STATE_DIR),
            management=self._subnets(now),
        )
        installed = self._certify(now)
        own = dataclasses.replace(own, certificate=installed.uses)
        app = self._decide(now, own)
        changed = app is not None and self._render(now, app)
        if installed.changed and not changed:
            confsocket.reload(paths.STATE_DIR)
        if on_disk := controllerconf.read(paths.STATE_DIR):
            own = dataclasses.replace(own, rendered=on_disk.generation, digest=dbcluster.digest(on_disk))
        self._write(now.relation.data[self.unit], own.dump())
        # A renewed certificate is no reason to wait for the node: it may have lost its quorum, and only a later hook
        # brings the configuration that helps. The first one is what the node has been waiting for.
        return changed or (installed.changed and not now.own.certificate)

    def _subnets(self, now: Facts) -> tuple[str, ...] | None:
        """Return what this unit says of the management space; None: nothing, since none is wanted."""
        wish = now.management
        if wish.name is None:
            return now.own.management
        return wish.subnets if wish.name else None

    def _certify(self, now: Facts) -> certificatefiles.Installed:
        """Put the certificates in place that were published for this unit. Done before anything is rendered."""
        installed = certificatefiles.install(
            paths.STATE_DIR, now.app.papers, now.controller_id, datetime.datetime.now(datetime.UTC)
        )
        if installed.waiting:
            self._say(ops.WaitingStatus(installed.waiting))
        self._certified = bool(installed.uses)
        return installed

    def _decide(self, now: Facts, own: dbcluster.UnitBag) -> dbcluster.AppBag | None:
        """Return the bag to render: the published one, or what the leader publishes now. None: nothing yet."""
        if now.problem:
            self._say(ops.BlockedStatus(now.problem))
            return None
        app = self._lead(now, own) if self.unit.is_leader() else now.app
        if app is None:
            self._say(ops.WaitingStatus("the new cluster's founder is published, and not yet read back"))
            return None
        if not app.generation:
            whom = self._hole or "the leader has not published the controllers yet"
            self._say(ops.WaitingStatus(f"waiting: {whom}"))
            return None
        if now.controller_id in app.departed:
            self._say(
                ops.BlockedStatus(
                    f"controller {now.controller_id} has departed for good: remove this unit, add another"
                )
            )
        elif own.address and now.controller_id not in app.addresses:
            self._say(ops.WaitingStatus("waiting for the leader to publish this unit's address"))
        return app

    def _lead(self, now: Facts, own: dbcluster.UnitBag) -> dbcluster.AppBag | None:
        """Publish what the leader decides. Return it, or None while it must be read back before anybody acts on it."""
        assert now.relation is not None
        on_disk = Rendered(now.on_disk.generation, dbcluster.digest(now.on_disk)) if now.on_disk else Rendered()
        view = topology.View(now.app, {**now.peers, now.unit: own}, now.goal, on_disk, now.management.name)
        proposal = topology.propose(view, lambda: str(uuid.uuid4()))
        app = dataclasses.replace(proposal.app, papers=self._papers(view, proposal.app))
        self._hole = proposal.hole
        if proposal.hole:
            logger.info("leader: the map stays as it is: %s", proposal.hole)
        if proposal.app != now.app:
            for reason in proposal.reasons:
                logger.info("leader: %s", reason)
        self._write(now.relation.data[self.app], app.dump())
        acts = proposal.acts_on(now.app)
        if not acts or app.papers.in_use(now.controller_id) != now.app.papers.in_use(now.controller_id):
            workload.ask_for_hook(self.charm_dir, self.unit.name)
        return app if acts else None

    def _papers(self, view: topology.View, app: dbcluster.AppBag) -> certificates.Papers:
        """Return what the leader publishes about certificates. Only what is due needs the authority's key."""
        dying = view.goal.dying if view.goal is not None else frozenset[str]()
        units = {
            i: certificates.Applicant(bag.request, bag.certificate) if (bag := view.units.get(unit)) else None
            for i, unit in app.units.items()
            if unit not in dying and i not in app.departed
        }
        clock = datetime.datetime.now(datetime.UTC)
        papers = certificates.settle(view.app.papers, units)
        reasons = certificates.due(papers, units, app.departed, clock)
        if not reasons:
            return papers
        for reason in reasons:
            logger.info("leader: %s", reason)
        # Only here, because it loads the cryptography package, which most hooks can do without.
        import certificatesecret

        papers, problems = certificatesecret.Vault(self.model).issue(papers, units, app.departed, clock)
        for problem in problems:
            logger.warning("leader: %s", problem)
            self._say(ops.WaitingStatus(problem))
        return papers

    def _render(self, now: Facts, app: dbcluster.AppBag) -> bool:
        """Write controller.conf and nudge its reader. Return whether it changed."""
        view = app.conf(
            now.controller_id,
            network_latency_ms=self._latency(now),
            extra=now.on_disk.extra if now.on_disk else {},
            application=self.app.name,
        )
        try:
            changed = controllerconf.write(view, paths.STATE_DIR)
        except controllerconf.NotRendered as error:
            logger.warning("controller.conf stays as it is: %s", error)
            self._say(ops.WaitingStatus(f"controller.conf not written: {error}"))
            return False
        if changed:
            heard = confsocket.reload(paths.STATE_DIR)
            logger.info(
                "generation %s rendered, controllerd %s",
                view.generation,
                "told" if heard else "not there yet",
            )
        return changed

    def _latency(self, now: Facts) -> int:
        """Return the latency setting; one out of range is reported, and the one in force stays."""
        wanted = self.config.get(LATENCY, LATENCY_DEFAULT)
        if isinstance(wanted, int) and wanted in LATENCY_RANGE:
            return wanted
        self._say(ops.BlockedStatus(f"option {LATENCY} is {wanted}: set it to 5...1000"))
        return now.on_disk.network_latency_ms if now.on_disk else LATENCY_DEFAULT

    def _run(self, *, restart: bool) -> bool:
        try:
            return workload.ensure_running(restart=restart)
        except systemd.SystemdError as error:
            logger.error("%s", error)
            self._say(ops.BlockedStatus(f"{workload.SERVICE} does not start: see `journalctl -u {workload.SERVICE}`"))
            return False

    def _is_its_turn(self, now: Facts) -> bool:
        """Whether the restart that is due may be done in this hook. What may change within seconds is watched for."""
        leaving = (now.goal.dying if now.goal else frozenset[str]()) | {
            unit for i, unit in now.app.units.items() if i in now.app.departed
        }
        peers = facts.peers(now.relation, self.unit) if now.relation else {}
        view = restarts.View(
            now.controller_id,
            workload.installed_code(),
            workload.due_seconds() or 0.0,
            None,
            peers={unit: bag for unit, bag in peers.items() if unit not in leaving},
        )
        begin = unwell_since = time.monotonic()
        while True:
            status, clock = controlsocket.status(paths.STATE_DIR), time.monotonic()
            if status is not None and status.cluster is not None and status.cluster.leader is not None:
                unwell_since = clock
            match restarts.decide(dataclasses.replace(view, status=status, unwell_seconds=clock - unwell_since)):
                case restarts.Restart(reason):
                    logger.info("restarting after a refresh: %s", reason)
                    return True
                case restarts.Wait(reason, soon):
                    if not soon or clock - begin >= restarts.PATIENCE_SECONDS:
                        self._say(ops.WaitingStatus(f"restart after refresh: {reason}"))
                        return False
            time.sleep(RESTART_POLL_SECONDS)

    def _revive(self, disk_uuid: str) -> bool:
        """Start a member that is not up, on its way out: no start hook comes for it after a reboot.

        Without its vote the others may have no quorum, and without a quorum nobody can remove it. Return whether
        that was done.
        """
        return bool(disk_uuid) and paths.UNIT_FILE.exists() and self._run(restart=False)

    def _is_named(self) -> bool:
        on_disk = controllerconf.read(paths.STATE_DIR)
        return on_disk is not None and on_disk.own_address is not None

    def _publish_state(self, now: Facts) -> None:
        """Publish what the node became in this hook, so that the others need not wait for the next one."""
        state = controlsocket.db_state(paths.STATE_DIR)
        if state and now.relation is not None:
            self._write(now.relation.data[self.unit], {"db-state": state})

    def _publish_code(self, now: Facts) -> None:
        """Publish what the node serves with, which carries the turn to restart on to the next unit."""
        if now.relation is None or self._node is None or not self._node.serves or workload.due_seconds() is not None:
            return
        self._write(now.relation.data[self.unit], {dbcluster.SERVES_WITH: workload.installed_code()})

    def _write(self, bag: ops.RelationDataContent, wanted: Mapping[str, str]) -> None:
        for key, value in wanted.items():
            if bag.get(key, "") != value:
                bag[key] = value

    def _say(self, status: ops.StatusBase) -> None:
        if self._statuses is not None:
            self._statuses.append(status)

    def _on_secret_changed(self, event: ops.SecretChangedEvent) -> None:
        import certificatesecret

        certificatesecret.follow_newest_revision(event)

    def _on_secret_remove(self, event: ops.SecretRemoveEvent) -> None:
        import certificatesecret

        certificatesecret.forget_old_revision(event)

    def _on_stop(self, _: ops.StopEvent) -> None:
        if self._revive(facts.disk_uuid()):
            controlsocket.wait_until_serving(paths.STATE_DIR)
        logger.info("this unit %s", controlsocket.leave(paths.STATE_DIR))
        workload.stop()
        self._statuses = [ops.MaintenanceStatus("controllerd stopped")]

    def _on_remove(self, _: ops.RemoveEvent) -> None:
        aside = workload.remove()
        logger.info("service removed; %s", f"data kept in {aside}" if aside else "there was no data")
        self._statuses = [ops.MaintenanceStatus(f"data kept in {aside}" if aside else "removed")]

    def _on_get_cluster(self, event: ops.ActionEvent) -> None:
        status = controlsocket.status(paths.STATE_DIR)
        if status is None:
            event.fail("controllerd does not answer on this unit: see `journalctl -u ha-controller`")
        else:
            event.set_results(unitstatus.action_results(status))

    def _on_get_client_config(self, event: ops.ActionEvent) -> None:
        try:
            text = controlsocket.open_registration(paths.STATE_DIR, str(event.params.get("user", "admin")))
        except controlsocket.NotOpened as error:
            event.fail(str(error))
            return
        # What an action returns is kept by Juju, and read by whoever may see the model.
        path = paths.STATE_DIR / REGISTRATION
        controllerconf.replace(path, f"{text}\n", mode=0o600)
        event.set_results({"file": str(path), "next": f"juju ssh {self.unit.name} sudo cat {path}"})

    def _on_rebuild_cluster(self, event: ops.ActionEvent) -> None:
        try:
            event.set_results(
                {"result": controlsocket.rebuild(paths.STATE_DIR, force=bool(event.params.get("force", False)))}
            )
        except controlsocket.NotRebuilt as error:
            event.fail(str(error))

    def _on_collect_unit_status(self, event: ops.CollectStatusEvent) -> None:
        for status in self._statuses or ():
            event.add_status(status)

    def _on_collect_app_status(self, event: ops.CollectStatusEvent) -> None:
        if self._reconciled:
            event.add_status(unitstatus.of_cluster(self._node, self._hole))


if __name__ == "__main__":  # pragma: no cover
    ops.main(ControllerCharm)

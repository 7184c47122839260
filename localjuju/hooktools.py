"""The hook commands, as the daemon answers them: (context, arguments) -> output. Forms and words are Juju's."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import yaml

from localjuju import config as configs
from localjuju import secretstore, secrettools, spaces, toolwire
from localjuju.debuglog import DebugLog
from localjuju.hookcontext import ActionRun, HookContext, ToolError
from localjuju.model import Status
from localjuju.toolargs import Options, pairs, show, take_apart


def _from_stdin(stdin: bytes) -> dict[str, str]:
    loaded = yaml.safe_load(stdin.decode()) or {}
    if not isinstance(loaded, dict):
        raise ToolError("expected a map of keys to values")
    return {str(k): "" if v is None else str(v) for k, v in loaded.items()}


Tool = Callable[["Tools", HookContext, Options, bytes], str | None]


class Tools:
    """The commands by name. `log` takes what juju-log says."""

    def __init__(self, log: DebugLog) -> None:
        self.log = log

    def run(self, context: HookContext, call: toolwire.Call) -> toolwire.Answer:
        tool = _TABLE.get(call.name)
        if tool is None:
            return toolwire.Answer(1, "", f"ERROR {call.name} is not supported by localjuju\n")
        try:
            return toolwire.Answer(0, tool(self, context, take_apart(call.arguments), call.stdin) or "")
        except (ToolError, secretstore.SecretProblem) as error:
            return toolwire.Answer(1, "", f"ERROR {error}\n")

    # Relations

    def relation_ids(self, c: HookContext, o: Options, _: bytes) -> str:
        endpoint = o.rest[0] if o.rest else (c.hook.endpoint if c.hook else "")
        return show(o, [r.key for r in c.relations(endpoint)])

    def relation_list(self, c: HookContext, o: Options, _: bytes) -> str:
        relation = c.relation(o.get("-r", "--relation"))
        return show(o, relation.app if "--app" in o.switches else sorted(c.members[relation.id]))

    def relation_get(self, c: HookContext, o: Options, _: bytes) -> str:
        relation = c.relation(o.get("-r", "--relation"))
        key, member = (*o.rest, "-", "")[0], (o.rest[1] if len(o.rest) > 1 else "")
        if not member:
            member = (c.hook.remote_unit if c.hook else "") or c.unit.name
        bag = c.read_bag(relation, member, app="--app" in o.switches)
        return show(o, bag if key == "-" else bag.get(key))

    def relation_set(self, c: HookContext, o: Options, stdin: bytes) -> None:
        relation = c.relation(o.get("-r", "--relation"))
        changes = _from_stdin(stdin) if o.get("--file") else {}
        c.write_bag(relation, changes | pairs(o.rest), app="--app" in o.switches)

    def relation_model_get(self, c: HookContext, o: Options, _: bytes) -> str:
        c.relation(o.get("-r", "--relation"))
        return show(o, {"uuid": c.model.uuid})

    def network_get(self, c: HookContext, o: Options, _: bytes) -> str:
        app = c.model.apps[c.unit.app]
        endpoint = o.rest[0] if o.rest else ""
        if o.get("-r", "--relation"):
            c.relation(o.get("-r", "--relation"))
        if endpoint not in (*app.charm.endpoints, "juju-info"):
            raise ToolError(f'no network config found for binding "{endpoint}"')
        space, machine = app.space(endpoint), c.unit.machine
        devices = c.model.topology.bound(machine, space)
        problem = c.model.topology.missing(machine, space)
        if problem:
            raise ToolError(problem)
        return show(o, spaces.network_info(devices))

    # The unit and its application

    def is_leader(self, c: HookContext, o: Options, _: bytes) -> str:
        return show(o, c.is_leader())

    def config_get(self, c: HookContext, o: Options, _: bytes) -> str:
        app = c.model.apps[c.unit.app]
        values = configs.effective(app.charm.options, app.settings)
        return show(o, values.get(o.rest[0]) if o.rest else values)

    def status_set(self, c: HookContext, o: Options, _: bytes) -> None:
        if not o.rest or o.rest[0] not in ("active", "blocked", "maintenance", "waiting", "error"):
            raise ToolError(
                f'invalid status "{(*o.rest, "")[0]}", expected one of [maintenance blocked waiting active]'
            )
        app = c.model.apps[c.unit.app]
        for_app = o.get("--application").lower() == "true"
        if for_app and not c.is_leader():
            raise ToolError("this unit is not the leader")
        before = app.status if for_app else c.unit.workload
        message = o.rest[1] if len(o.rest) > 1 else ""
        if (before.current, before.message) == (o.rest[0], message):
            return
        status = c.model.status(o.rest[0], message)
        if for_app:
            app.status = status
        else:
            c.unit.workload = status
        c.model.touch()

    def status_get(self, c: HookContext, o: Options, _: bytes) -> str:
        def shape(s: Status) -> dict[str, Any]:
            return {"status": s.current, "message": s.message, "status-data": {}}

        app = c.model.apps[c.unit.app]
        if o.get("--application").lower() == "true":
            if not c.is_leader():
                raise ToolError("this unit is not the leader")
            units = {u.name: shape(u.workload) for u in app.units.values()}
            return show(o, {"application-status": shape(app.status) | {"units": units}, "units": units})
        return show(o, shape(c.unit.workload) if "--include-data" in o.switches else c.unit.workload.current)

    def juju_log(self, c: HookContext, o: Options, _: bytes) -> None:
        place = f"{c.hook.endpoint}:{c.hook.relation_id}: " if c.hook and c.hook.relation_id is not None else ""
        self.log.add(c.unit.name, o.get("--log-level", "-l") or "INFO", "juju-log", place + " ".join(o.rest))

    def application_version_set(self, c: HookContext, o: Options, _: bytes) -> None:
        c.model.apps[c.unit.app].version = o.rest[0] if o.rest else ""
        c.model.touch()

    def goal_state(self, c: HookContext, o: Options, _: bytes) -> str:
        def shape(name: str) -> dict[str, str]:
            unit = c.model.apps[c.unit.app].units[name]
            since = datetime.fromtimestamp(unit.workload.since, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
            return {"status": "dying" if unit.dying else unit.workload.current, "since": since}

        app = c.model.apps[c.unit.app]
        return show(o, {"units": {name: shape(name) for name in sorted(app.units)}, "relations": {}})

    def open_port(self, c: HookContext, o: Options, _: bytes) -> None:
        c.open_port(_port(o))

    def close_port(self, c: HookContext, o: Options, _: bytes) -> None:
        c.close_port(_port(o))

    def opened_ports(self, c: HookContext, o: Options, _: bytes) -> str:
        return show(o, sorted(c.ports()))

    def state_get(self, c: HookContext, o: Options, _: bytes) -> str:
        state = c.state()
        return show(o, state.get(o.rest[0], "") if o.rest and o.rest[0] != "-" else state)

    def state_set(self, c: HookContext, o: Options, stdin: bytes) -> None:
        changes: dict[str, str | None] = dict(_from_stdin(stdin)) if o.get("--file") else {}
        changes.update(pairs(o.rest))
        c.set_state(changes)

    def state_delete(self, c: HookContext, o: Options, _: bytes) -> None:
        c.set_state(dict.fromkeys(o.rest))

    def juju_reboot(self, c: HookContext, o: Options, _: bytes) -> None:
        if c.action:
            raise ToolError("juju-reboot is not supported when running an action.")
        c.reboot = "now" if "--now" in o.switches else "after"

    # Actions

    def action_get(self, c: HookContext, o: Options, _: bytes) -> str:
        value: Any = _action(c).parameters
        for key in o.rest[0].split(".") if o.rest else ():
            value = value.get(key) if isinstance(value, dict) else None
        return show(o, value)

    def action_set(self, c: HookContext, o: Options, _: bytes) -> None:
        results = _action(c).results
        for key, value in pairs(o.rest).items():
            *path, last = key.split(".")
            inner = results
            for step in path:
                inner = inner.setdefault(step, {})
            inner[last] = value

    def action_fail(self, c: HookContext, o: Options, _: bytes) -> None:
        _action(c).failure = o.rest[0] if o.rest else "action failed without reason given, check action for errors"

    def action_log(self, c: HookContext, o: Options, _: bytes) -> None:
        _action(c).log.append(" ".join(o.rest))
        self.log.add(c.unit.name, "INFO", "action-log", " ".join(o.rest))

    # What this stand-in does not have, in Juju's words

    def credential_get(self, c: HookContext, o: Options, _: bytes) -> str:
        raise ToolError("cannot access cloud credentials")

    def resource_get(self, c: HookContext, o: Options, _: bytes) -> str:
        raise ToolError(f'could not download resource: resource "{(*o.rest, "")[0]}" not found')

    def storage_list(self, c: HookContext, o: Options, _: bytes) -> str:
        return show(o, [])


def _port(options: Options) -> str:
    text = (*options.rest, "")[0]
    number, _, protocol = text.partition("/")
    first, _, last = number.partition("-")
    if text == "icmp":
        return text
    if not all(n.isdigit() and 0 < int(n) < 65536 for n in (first, last or first)) or protocol not in (
        "",
        "tcp",
        "udp",
    ):
        raise ToolError(f'invalid port "{text}"')
    return f"{number}/{protocol or 'tcp'}"


def _action(context: HookContext) -> ActionRun:
    if context.action is None:
        raise ToolError("not running an action")
    return context.action


def _plain(tool: Callable[[HookContext, Options, bytes], str | None]) -> Tool:
    return lambda _, context, options, stdin: tool(context, options, stdin)


# Known to Juju, refused here: `run` says so.
_NOT_HERE = (
    "storage-get",
    "storage-add",
    "unit-get",
    "payload-register",
    "payload-status-set",
    "payload-unregister",
)

_TABLE: dict[str, Tool] = {
    "relation-ids": Tools.relation_ids,
    "relation-list": Tools.relation_list,
    "relation-get": Tools.relation_get,
    "relation-set": Tools.relation_set,
    "relation-model-get": Tools.relation_model_get,
    "network-get": Tools.network_get,
    "is-leader": Tools.is_leader,
    "config-get": Tools.config_get,
    "status-set": Tools.status_set,
    "status-get": Tools.status_get,
    "juju-log": Tools.juju_log,
    "application-version-set": Tools.application_version_set,
    "goal-state": Tools.goal_state,
    "open-port": Tools.open_port,
    "close-port": Tools.close_port,
    "opened-ports": Tools.opened_ports,
    "state-get": Tools.state_get,
    "state-set": Tools.state_set,
    "state-delete": Tools.state_delete,
    "juju-reboot": Tools.juju_reboot,
    "action-get": Tools.action_get,
    "action-set": Tools.action_set,
    "action-fail": Tools.action_fail,
    "action-log": Tools.action_log,
    "credential-get": Tools.credential_get,
    "resource-get": Tools.resource_get,
    "storage-list": Tools.storage_list,
    "secret-add": _plain(secrettools.secret_add),
    "secret-set": _plain(secrettools.secret_set),
    "secret-get": _plain(secrettools.secret_get),
    "secret-info-get": _plain(secrettools.secret_info_get),
    "secret-ids": _plain(secrettools.secret_ids),
    "secret-remove": _plain(secrettools.secret_remove),
    "secret-grant": _plain(secrettools.secret_grant),
    "secret-revoke": _plain(secrettools.secret_revoke),
}


def names() -> list[str]:
    """Every hook command there is."""
    return [*_TABLE, *_NOT_HERE]

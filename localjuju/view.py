"""The model in Juju's output shapes: status as JSON and text, show-unit, action results. Pure."""

from __future__ import annotations

import time
from typing import Any

from localjuju import hookrun
from localjuju.model import Application, Model, Status, Unit


def _when(moment: float) -> str:
    return time.strftime("%d %b %Y %H:%M:%SZ", time.gmtime(moment))


def _status(status: Status) -> dict[str, str]:
    shape = {"current": status.current, "since": _when(status.since)}
    return shape | ({"message": status.message} if status.message else {})


def workload(unit: Unit) -> Status:
    """A failed hook hides what the charm said last, as in Juju."""
    return Status("error", unit.hook_error, unit.error_since) if unit.hook_error else unit.workload


def status(model: Model) -> dict[str, Any]:
    """What `juju status --format json` prints."""
    return {
        "model": {
            "name": model.name,
            "type": "iaas",
            "controller": "localjuju",
            "cloud": "localjuju",
            "version": hookrun.JUJU_VERSION,
            "model-status": {"current": "available", "since": ""},
            "sla": "unsupported",
        },
        "machines": {str(u.machine): _machine(model, u) for u in model.units()},
        "applications": {name: _application(model, app) for name, app in model.apps.items()},
        "storage": {},
        "controller": {"timestamp": time.strftime("%H:%M:%SZ", time.gmtime(model.clock()))},
    }


def _machine(model: Model, unit: Unit) -> dict[str, Any]:
    cards = model.topology.devices.get(unit.machine, [])
    addresses = [str(a.ip) for d in cards for a in d.addresses]
    state = Status("started", "", unit.agent.since) if unit.alive else Status("pending", "", unit.agent.since)
    return {
        "juju-status": _status(state) | {"version": hookrun.JUJU_VERSION},
        "hostname": f"juju-{unit.name.replace('/', '-')}",
        "dns-name": (*addresses, "")[0],
        "ip-addresses": addresses,
        "instance-id": f"localjuju-{unit.machine}",
        "machine-status": _status(Status("running" if unit.alive else "down", "", unit.agent.since)),
        "base": {"name": "ubuntu", "channel": "24.04"},
        "network-interfaces": {
            d.name: {
                "ip-addresses": [str(a.ip) for a in d.addresses],
                "mac-address": d.mac,
                "space": d.subnet.space,
                "is-up": unit.alive,
            }
            for d in cards
        },
    }


def _application(model: Model, app: Application) -> dict[str, Any]:
    peers = {
        r.endpoint: [{"related-application": app.name, "interface": r.interface, "scope": "global"}]
        for r in model.peers_of(app.name)
    }
    return {
        "charm": app.charm.name,
        "base": {"name": "ubuntu", "channel": "24.04"},
        "charm-origin": "local",
        "charm-name": app.charm.name,
        "charm-rev": app.charm.revision,
        "exposed": False,
        "application-status": _status(_app_status(app)),
        "relations": peers,
        "units": {u.name: _unit(model, u) for u in app.units.values()},
        "version": app.version,
        "endpoint-bindings": {"": app.default_space} | {e: app.space(e) for e in app.charm.endpoints},
    }


_WORST_FIRST = ("error", "blocked", "maintenance", "waiting", "active", "unknown")


def _app_status(app: Application) -> Status:
    """As set by the leader; if it never was, the worst of the units'."""
    if app.status.current != "unknown" or not app.units:
        return app.status
    return min(map(workload, app.units.values()), key=lambda s: _rank(s.current))


def _rank(current: str) -> int:
    return _WORST_FIRST.index(current) if current in _WORST_FIRST else len(_WORST_FIRST)


def _unit(model: Model, unit: Unit) -> dict[str, Any]:
    address = model.topology.first_address(unit.machine)
    shape: dict[str, Any] = {
        "workload-status": _status(workload(unit)),
        "juju-status": _status(unit.agent) | {"version": hookrun.JUJU_VERSION},
        "machine": str(unit.machine),
        "open-ports": sorted(unit.ports),
        "public-address": address,
        "address": address,
    }
    if unit.dying:
        shape["juju-status"]["life"] = "dying"
    if model.is_leader(unit.name):
        shape["leader"] = True
    return shape


def show_unit(model: Model, unit: Unit) -> dict[str, Any]:
    """What `juju show-unit` prints: with both databags of every relation."""
    relations = [
        {
            "relation-id": relation.id,
            "endpoint": relation.endpoint,
            "related-endpoint": relation.endpoint,
            "application-data": dict(relation.app_bag.content),
            "local-unit": {
                "in-scope": unit.name in relation.scope,
                "data": dict(relation.bag(unit.name).content),
            },
            "related-units": {
                other: {"in-scope": True, "data": dict(relation.bag(other).content)}
                for other in sorted(relation.scope)
                if other != unit.name
            },
        }
        for relation in model.peers_of(unit.app)
    ]
    return {
        unit.name: {
            "opened-ports": sorted(unit.ports),
            "charm": f"local:{model.apps[unit.app].charm.name}-{model.apps[unit.app].charm.revision}",
            "leader": model.is_leader(unit.name),
            "life": "dying" if unit.dying else "alive",
            "relation-info": relations,
            "provider-id": "",
            "address": model.topology.first_address(unit.machine),
        }
    }


def text(shape: dict[str, Any]) -> str:
    """`juju status` for people, from the JSON shape, so that both always agree."""
    model = shape["model"]
    parts = [
        _table(
            [
                ("Model", "Controller", "Cloud/Region", "Version", "SLA", "Timestamp"),
                (
                    model["name"],
                    model["controller"],
                    model["cloud"],
                    model["version"],
                    model["sla"],
                    shape["controller"]["timestamp"],
                ),
            ]
        )
    ]
    apps = [("App", "Version", "Status", "Scale", "Charm", "Channel", "Rev", "Exposed", "Message")]
    units = [("Unit", "Workload", "Agent", "Machine", "Public address", "Ports", "Message")]
    for name, app in shape["applications"].items():
        state = app["application-status"]
        exposed = "yes" if app["exposed"] else "no"
        apps.append(
            (
                name,
                app["version"],
                state["current"],
                str(len(app["units"])),
                app["charm-name"],
                "",
                str(app["charm-rev"]),
                exposed,
                state.get("message", ""),
            )
        )
        for unit, u in app["units"].items():
            doing = u["juju-status"].get("message", "")
            message = u["workload-status"].get("message", "") or ""
            if doing and u["juju-status"]["current"] == "executing":
                message = f"({doing.removeprefix('running ')}) {message}".rstrip()
            agent = "dying" if u["juju-status"].get("life") == "dying" else u["juju-status"]["current"]
            units.append(
                (
                    unit + ("*" if u.get("leader") else ""),
                    u["workload-status"]["current"],
                    agent,
                    u["machine"],
                    u["public-address"],
                    ",".join(u["open-ports"]),
                    message,
                )
            )
    machines = [("Machine", "State", "Address", "Inst id", "Base", "Message")]
    for number, m in shape["machines"].items():
        machines.append(
            (
                number,
                m["juju-status"]["current"],
                " ".join(m["ip-addresses"]),
                m["instance-id"],
                "ubuntu@24.04",
                m["machine-status"]["current"],
            )
        )
    tables: list[list[tuple[str, ...]]] = [[*apps], [*units], [*machines]]
    parts += [_table(rows) for rows in tables if len(rows) > 1]
    return "\n".join(parts)


def cloud_text(shape: dict[str, Any]) -> str:
    """What `localjuju cloud` prints."""
    rows: list[tuple[str, ...]] = [("Instance", "State", "Address", "Hostname", "Uuid")]
    rows += [(i["instance"], i["state"], i["address"], i["hostname"], i["uuid"]) for i in shape["instances"]]
    return f"{shape['endpoint']}\n" + (f"\n{_table(rows)}" if len(rows) > 1 else "")


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "".join(f"{line}\n" for line in lines)

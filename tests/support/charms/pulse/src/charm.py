"""Writes down every hook it is told of, keeps both bags filled, and runs a small service."""

import json
import os
import pathlib
import subprocess
import sys
import time

import ops

HOOKS = pathlib.Path("/var/lib/pulse/hooks")
SERVICE = """[Unit]
Description=Pulse
StartLimitIntervalSec=0
[Service]
ExecStart={python} {program}
Restart=always
RestartSec=0.1
[Install]
WantedBy=multi-user.target
"""


class Pulse(ops.CharmBase):
    def __init__(self, framework: ops.Framework) -> None:
        super().__init__(framework)
        for name, event in self.on.events().items():
            if name.endswith("_action") or name.startswith(("collect_", "pre_", "commit")):
                continue
            framework.observe(event, self._on_any)
        framework.observe(self.on.echo_action, self._on_echo)
        framework.observe(self.on.dawdle_action, self._on_dawdle)
        framework.observe(self.on.refuse_action, self._on_refuse)
        framework.observe(self.on.secret_action, self._on_secret)
        framework.observe(self.on.collect_unit_status, self._on_status)

    def _on_any(self, event: ops.EventBase) -> None:
        name = os.environ.get("JUJU_DISPATCH_PATH", "").partition("/")[2]
        relation = self.model.get_relation("db-cluster")
        HOOKS.parent.mkdir(parents=True, exist_ok=True)
        environment = {k: v for k, v in os.environ.items() if k.startswith(("JUJU_", "OPERATOR_"))}
        line = {
            "hook": name,
            "remote": environment.get("JUJU_REMOTE_UNIT", ""),
            "departing": environment.get("JUJU_DEPARTING_UNIT", ""),
            "leader": self.unit.is_leader(),
            "planned": self.app.planned_units(),
            "members": sorted(u.name for u in relation.units) if relation else None,
            "environment": environment,
        }
        with HOOKS.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if name == "install":
            self._install()
        if name in ("start", "upgrade-charm"):
            subprocess.run(["systemctl", "restart", "pulse"], check=True)
            self.unit.set_ports(9000)
        if name == "stop":
            subprocess.run(["systemctl", "stop", "pulse"], check=True)
        if relation is not None and name != "db-cluster-relation-broken":
            relation.data[self.unit]["greeting"] = str(self.config["greeting"])
            if self.unit.is_leader():
                names = sorted([self.unit.name, *(u.name for u in relation.units)])
                relation.data[self.app]["members"] = json.dumps(names)
        hold = pathlib.Path("/var/lib/pulse/hold")  # A test may hold a hook here, its writes made but not committed.
        if hold.exists() and hold.read_text().strip() == name:
            hold.with_name("held").write_text(str(os.getpid()))
            deadline = time.monotonic() + 60
            while hold.exists() and time.monotonic() < deadline:
                time.sleep(0.02)
        if self.config["fail-hook"] == name:
            raise RuntimeError(f"{name} was told to fail")

    def _install(self) -> None:
        self.unit.status = ops.MaintenanceStatus("installing pulse")
        program = self.charm_dir / "src" / "service.py"
        unit = pathlib.Path("/etc/systemd/system/pulse.service")
        unit.write_text(SERVICE.format(python=sys.executable, program=program))
        subprocess.run(["systemctl", "daemon-reload"], check=True)

    def _on_status(self, event: ops.CollectStatusEvent) -> None:
        try:
            binding = self.model.get_binding("db-cluster")
            addresses = [str(i.address) for i in binding.network.interfaces] if binding else []
        except ops.ModelError as error:
            event.add_status(ops.WaitingStatus(str(error)))
            return
        event.add_status(ops.ActiveStatus(" ".join(addresses)))

    def _on_echo(self, event: ops.ActionEvent) -> None:
        event.log("echoing")
        event.set_results({"said": " ".join([event.params["words"]] * event.params["times"]), "deep": {"er": "yes"}})

    def _on_dawdle(self, _: ops.ActionEvent) -> None:
        time.sleep(60)  # Longer than its host is to live.

    def _on_refuse(self, event: ops.ActionEvent) -> None:
        event.fail("as always")

    def _on_secret(self, event: ops.ActionEvent) -> None:
        value = event.params["value"]
        match event.params["do"]:
            case "add":
                secret = self.app.add_secret({"value": value}, label="mine")
                event.set_results({"id": secret.id or ""})
            case "set":
                self.model.get_secret(label="mine").set_content({"value": value})
            case how:
                secret = self.model.get_secret(label="mine")
                content = secret.get_content(refresh=how == "refresh")
                event.set_results({"value": content["value"]})


if __name__ == "__main__":
    ops.main(Pulse)

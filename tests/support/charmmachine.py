"""A machine for the charm under ops.testing: its paths in a temporary folder, a fake systemd, a fake controllerd.

The fakes stand at the process boundary only: systemd's commands, Juju's goal-state, and controllerd behind its real
sockets. Everything of the charm itself runs as it is.
"""

import dataclasses
import datetime
import ipaddress
import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from charmlibs import systemd
from ops import testing

import certificates
import certificatesecret
import charm
import controlsocket
import facts
import paths
import restarts
import signing
import workload
from dbaccessor import conf, confsocket
from dbcluster import AppBag, UnitBag
from topology import Goal

APP = "control"


class FakeSystemd:
    """What systemctl does, as far as the charm asks for it."""

    SystemdError = systemd.SystemdError

    def __init__(self) -> None:
        self.running = False
        self.refuses = False
        self.calls: list[str] = []

    def daemon_reload(self) -> bool:
        self.calls.append("daemon-reload")
        return True

    def service_running(self, _: str) -> bool:
        return self.running

    def service_start(self, name: str) -> bool:
        self._do("start", name)
        self.running = True
        return True

    def service_restart(self, name: str) -> bool:
        self._do("restart", name)
        self.running = True
        return True

    def service_stop(self, name: str) -> bool:
        self._do("stop", name)
        self.running = False
        return True

    def _do(self, verb: str, name: str) -> None:
        if self.refuses:
            raise systemd.SystemdError(f"{verb} failed")
        self.calls.append(f"{verb} {name}")


class FakeControllerd:
    """What controllerd answers on its two sockets. `with` it, and it listens."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self.status: dict[str, object] = {"state": "waiting", "reason": "no address yet"}
        self.db_state: dict[str, object] | None = None
        self.leave: tuple[int, dict[str, object]] = (200, {"left": True, "reason": "removed by the leader"})
        self.rebuilt: dict[str, object] = {"done": False, "reason": "a quorum lives"}
        self.asked_to_rebuild: list[object] = []
        self.registration: tuple[int, dict[str, object]] = (200, {"registration": "hac1_secret", "user": "admin"})
        self.requests: list[str] = []
        self.serves_after = 0  # So many questions for the status; 0: it becomes nothing by itself.
        self._servers: list[confsocket.Server] = []

    def serve(self, *, leader: str | None = "0", members: int = 1, here: int = 0) -> None:
        """Become one of so many members of a healthy cluster, the first unless said otherwise."""
        self.status = {
            "state": "serving",
            "dqlite-version": "1.18.7",
            "conf": {"generation": 1, "problem": None},
            "cluster": {
                "uuid": "u-1",
                "epoch": {"number": 1, "tag": "9f"},
                "leader": leader,
                "health": "healthy",
                "ha": members > 2,
                "may-lose": (members - 1) // 2,
                "members": [
                    {
                        "controller-id": str(n),
                        "role": "voter",
                        "leader": str(n) == leader,
                        "answers": True,
                        "here": n == here,
                    }
                    for n in range(members)
                ],
            },
        }
        self.db_state = {
            "cluster-uuid": "u-1",
            "epoch": {"number": 1, "tag": "9f"},
            "controller-id": str(here),
            "role": "voter",
            "last-index": 17,
            "voters": [str(n) for n in range(members)],
        }

    def __enter__(self) -> "FakeControllerd":
        control = {
            ("GET", "/status"): self._handler("GET /status", lambda: (200, self.status)),
            ("GET", "/db-state"): self._handler(
                "GET /db-state", lambda: (404, {}) if self.db_state is None else (200, self.db_state)
            ),
            ("POST", "/leave"): self._handler("POST /leave", lambda: self.leave),
            ("POST", "/rebuild"): self._rebuild,
            ("POST", "/registration"): self._handler("POST /registration", lambda: self.registration),
        }
        nudge = {("POST", "/reload"): self._handler("POST /reload", lambda: (204, {}))}
        for name, routes in ((confsocket.CONTROL, control), (confsocket.CONFIG_CHANGE, nudge)):
            server = confsocket.Server(self._state_dir / name, routes)
            server.__enter__()
            self._servers.append(server)
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.__exit__(None, None, None)
        self._servers.clear()

    def _rebuild(self, body: bytes) -> confsocket.Response:
        self.asked_to_rebuild.append(json.loads(body))
        return 200, "application/json", json.dumps(self.rebuilt).encode()

    def _handler(self, name: str, answer: Callable[[], tuple[int, object]]) -> confsocket.Handler:
        def handle(_: bytes) -> confsocket.Response:
            self.requests.append(name)
            if self.requests.count("GET /status") == self.serves_after > 0:
                self.serve()
            code, body = answer()
            return code, "application/json", b"" if code == 204 else json.dumps(body).encode()

        return handle


class Machine:
    """One unit of the charm on its machine, and all that stands around it."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.state_dir = root / "state"
        self.state_dir.mkdir(mode=0o700)
        self._given: dict[str, str] = {}
        self.systemd = FakeSystemd()
        self.controllerd = FakeControllerd(self.state_dir)
        self.goal: Goal | None = Goal(frozenset({f"{APP}/0"}))
        self.asked_for_hooks = 0
        self.charm_dir = root / "charm"
        self.keep_key(KEY, REQUEST)
        (self.charm_dir / "lib" / "controller").mkdir(parents=True)
        (self.charm_dir / "lib" / "controller" / "daemon.py").write_text("version = 1\n")
        self.be_unit(0)
        monkeypatch.setattr(paths, "STATE_DIR", self.state_dir)
        monkeypatch.setattr(paths, "UNIT_FILE", root / "system" / "ha-controller.service")
        monkeypatch.setattr(paths, "HACTL", root / "bin" / "hactl")
        monkeypatch.setattr(workload, "systemd", self.systemd)
        monkeypatch.setattr(facts, "goal_state", lambda: self.goal)
        monkeypatch.setattr(workload, "ask_for_hook", self._ask_for_hook)
        monkeypatch.setattr(controlsocket, "SERVING_TIMEOUT_SECONDS", 0.0)
        monkeypatch.setattr(restarts, "UNWELL_SECONDS", 0.0)
        monkeypatch.setattr(restarts, "PATIENCE_SECONDS", 0.0)

    @property
    def conf(self) -> Path:
        return self.state_dir / "controller.conf"

    @property
    def tls(self) -> Path:
        return self.state_dir / "tls"

    def keep_key(self, key: str, request: str) -> None:
        """Put a key and its request where the charm keeps them."""
        self.tls.mkdir(mode=0o700, exist_ok=True)
        (self.tls / "key.pem").write_text(key)
        (self.tls / "key.pem").chmod(0o600)
        (self.tls / "request.pem").write_text(f"# for the key {sha256(key.encode()).hexdigest()}\n{request}")
        self._given = self.content()

    def settle(self, event: object, state: testing.State) -> testing.State:
        """Run the hook until it changes nothing any more in the relation."""
        for _ in range(5):
            before, state = state, self.run(event, state)
            if relation_of(before) == relation_of(state):
                return state
        raise AssertionError("the hook changes something every time")

    def be_unit(self, number: int) -> None:
        """Run hooks as this unit from now on."""
        self.context = testing.Context(charm.ControllerCharm, app_name=APP, unit_id=number, charm_root=self.charm_dir)

    def units(self, *alive: int, dying: tuple[int, ...] = ()) -> None:
        """Make Juju's goal these units."""
        self.goal = Goal(frozenset(f"{APP}/{n}" for n in alive), frozenset(f"{APP}/{n}" for n in dying))

    def content(self) -> dict[str, str]:
        """Every file that the charm wrote, and its text (sockets left out)."""
        files = (p for p in sorted(self.root.rglob("*")) if p.is_file() and self.charm_dir not in p.parents)
        texts = {str(p.relative_to(self.root)): p.read_text() for p in files}
        return {name: text for name, text in texts.items() if self._given.get(name) != text}

    def run(self, event: object, state: testing.State) -> testing.State:
        return self.context.run(event, state)  # type: ignore[arg-type]  # One of Context.on's private event types.

    def _ask_for_hook(self, *_: object) -> None:
        self.asked_for_hooks += 1


def network(*addresses: str) -> testing.Network:
    """The db-cluster binding with these addresses, each "IP/prefix" on an interface of its own."""
    return testing.Network(
        "db-cluster",
        bind_addresses=[
            testing.BindAddress(
                [testing.Address(a.partition("/")[0], cidr=_subnet(a))],
                interface_name=f"eth{n}",
            )
            for n, a in enumerate(addresses)
        ],
    )


def state(
    relation: testing.PeerRelation | None,
    *addresses: str,
    leader: bool = True,
    config: dict[str, str | int | float | bool] | None = None,
) -> testing.State:
    return testing.State(
        leader=leader,
        relations={relation} if relation else set(),
        networks={network(*addresses)},
        config=config or {},
    )


def relation_of(state: testing.State) -> testing.PeerRelation:
    (relation,) = state.get_relations("db-cluster")
    assert isinstance(relation, testing.PeerRelation)
    return relation


def with_relation(state: testing.State, **changes: object) -> testing.State:
    """The same state with other peer data."""
    relation = dataclasses.replace(relation_of(state), **changes)  # type: ignore[arg-type]
    return dataclasses.replace(state, relations={relation})


def _subnet(address: str) -> str:
    return str(ipaddress.ip_network(address, strict=False))


# What the tests of single hooks start from.

KEY = signing.new_key()
REQUEST = signing.request(KEY)
PAPERS, AUTHORITY, _ = certificates.issue(
    certificates.Papers(),
    None,
    {"0": certificates.Applicant(REQUEST), "1": certificates.Applicant(signing.request(signing.new_key()))},
    (),
    datetime.datetime.now(datetime.UTC),
)
FOUNDED = AppBag(
    generation=4,
    cluster_uuid="u-1",
    bootstrap_controller="0",
    bootstrapped=True,
    addresses={"0": "10.0.0.4", "1": "10.0.0.5"},
    units={"0": f"{APP}/0", "1": f"{APP}/1"},
    papers=PAPERS,
)
OWN = UnitBag("0", "10.0.0.4")
# What is in the application's secret when FOUNDED is what was published.
SECRET = testing.Secret(AUTHORITY.dump(), label=certificatesecret.LABEL, owner="app")


def relation(app: AppBag | None = None, own: UnitBag | None = None, **peers: UnitBag) -> testing.PeerRelation:
    """The peer relation: the app bag, this unit's bag, and `unit1=…` for controller/1."""
    return testing.PeerRelation(
        "db-cluster",
        local_app_data=_filled(app.dump()) if app else {},
        local_unit_data=_filled(own.dump()) if own else {},
        peers_data={int(name.removeprefix("unit")): _filled(bag.dump()) for name, bag in peers.items()},
    )


def _filled(raw: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in raw.items() if value}


def app_bag(out: testing.State) -> AppBag:
    return AppBag.parse(relation_of(out).local_app_data)


def own_bag(out: testing.State) -> UnitBag:
    return UnitBag.parse(relation_of(out).local_unit_data)


def on_disk(machine: Machine) -> conf.ControllerConf:
    return conf.parse(machine.conf.read_text())

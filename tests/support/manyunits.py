"""Several units of the real charm over shared databags, with Juju and controllerd as small models.

What makes a model of Juju worth having is what goes wrong in it: every unit sees its peers come and go at its own time,
goal-state is ahead of the events, leadership moves at any moment (to a unit that sees nobody yet), and a hook may fail
at its very end: then its databag writes are gone, while the file it wrote and what controllerd did by it stay.
"""

import dataclasses
import json
import shutil
import tempfile
from pathlib import Path

import pytest
from ops import testing

import charm
import controllerconf
import controlsocket
import facts
import paths
import workload
from charmmachine import network
from dbaccessor import conf, confsocket
from dbcluster import AppBag, UnitBag
from topology import Goal

APP = "control"


class HookFailed(Exception):
    """A hook that does all its work on the machine and then fails."""


@dataclasses.dataclass
class Node:
    """controllerd as decide() makes it act, as far as identities go."""

    cluster: str = ""
    founded: bool = False


class Host:
    """One unit: its machine, its databag as committed, and which peers it has been told of."""

    def __init__(self, number: int, root: Path) -> None:
        self.number = number
        self.name = f"{APP}/{number}"
        self.root = root / str(number)
        (self.root / "charm").mkdir(parents=True)
        self.state_dir = self.root / "state"
        self.state_dir.mkdir()
        self.addresses = [f"10.0.0.{number + 10}/24"]
        self.bag: dict[str, str] = {}
        self.sees: set[int] = set()
        self.entered = False
        self.node = Node()
        self.seen_confs: list[conf.ControllerConf] = []
        self.context = testing.Context(
            charm.ControllerCharm, app_name=APP, unit_id=number, charm_root=self.root / "charm"
        )

    @property
    def conf(self) -> conf.ControllerConf | None:
        return controllerconf.read(self.state_dir)


class Model:
    """The application: its units, what Juju means them to be, and the app bag."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="hm-"))
        self.patch = pytest.MonkeyPatch()
        self.hosts: dict[int, Host] = {}
        self.dying: set[int] = set()
        self.left: set[int] = set()  # Those of the dying whose own relation-broken has run.
        self.app_bag: dict[str, str] = {}
        self.published: list[AppBag] = []
        self.secrets: frozenset[testing.Secret] = frozenset()
        self.space = ""
        self.leader: int | None = None
        self.next_number = 0
        self.foundings: list[tuple[int, str]] = []
        self.raft_index = 0
        self._now: Host | None = None
        self._fail = False
        # What a node does stands on the machine whether or not the hook that nudged it succeeds.
        self._act_on_reload = False
        self._patch_edges()

    def close(self) -> None:
        self.patch.undo()
        shutil.rmtree(self.root)

    # Juju

    def add_unit(self) -> int:
        number = self.next_number
        self.next_number += 1
        self.hosts[number] = Host(number, self.root)
        return number

    def force_remove(self, number: int) -> None:
        """The unit is gone at once; its peers hear of it one by one."""
        del self.hosts[number]
        self.dying.discard(number)
        self.left.discard(number)
        if self.leader == number:
            self.leader = None

    def goal(self) -> Goal:
        names = {host.name for n, host in self.hosts.items() if n not in self.dying}
        return Goal(frozenset(names), frozenset(f"{APP}/{n}" for n in self.dying))

    def in_scope(self, number: int) -> bool:
        return number in self.hosts and self.hosts[number].entered and number not in self.left

    def tell(self, observer: int, peer: int) -> bool:
        """Deliver joined or departed of one peer to one unit. Return whether there was anything to tell."""
        sees = self.hosts[observer].sees
        if peer == observer or (peer in sees) == self.in_scope(peer):
            return False
        sees.symmetric_difference_update({peer})
        return True

    # Hooks

    def hook(self, number: int, *, fails: bool = False, node_acts: bool = True) -> None:
        """Run one hook of one unit. Its writes are committed unless it fails."""
        host = self.hosts[number]
        host.entered = host.entered or number not in self.dying
        self._now, self._fail, self._act_on_reload = host, fails, node_acts
        for name, path in (("STATE_DIR", "state"), ("UNIT_FILE", "unit"), ("HACTL", "hactl")):
            self.patch.setattr(paths, name, host.root / path)
        relation = testing.PeerRelation(
            "db-cluster",
            local_app_data=dict(self.app_bag),
            local_unit_data=dict(host.bag),
            peers_data={n: dict(self.hosts[n].bag) if n in self.hosts else {} for n in host.sees},
        )
        cards = network(*host.addresses)
        given = testing.State(
            leader=self.leader == number,
            relations={relation},
            networks={cards, dataclasses.replace(cards, binding_name="management")},
            config={"juju-mgmt-space": self.space},
            secrets=self.secrets,
        )
        try:
            state = host.context.run(host.context.on.update_status(), given)
        except testing.errors.UncaughtCharmError as error:
            if not isinstance(error.__cause__, HookFailed):
                raise
            return
        finally:
            self._notice(host)
        out = state.get_relation(relation.id)
        assert isinstance(out, testing.PeerRelation)
        self.secrets = frozenset(state.secrets)
        host.bag = dict(out.local_unit_data)
        if dict(out.local_app_data) != self.app_bag:
            assert self.leader == number
            self.app_bag = dict(out.local_app_data)
            self.published.append(AppBag.parse(self.app_bag))

    def own_bag(self, number: int) -> UnitBag:
        return UnitBag.parse(self.hosts[number].bag)

    # controllerd

    def node_acts(self, number: int) -> None:
        """Do what decide() does for a node without an identity: found the cluster, join it, or wait."""
        host = self.hosts[number]
        now = host.conf
        if host.node.cluster or now is None or now.own_address is None:
            return
        if not now.cluster_uuid or not now.bootstrap_controller:
            return
        members = [h for h in self.hosts.values() if h.node.cluster == now.cluster_uuid]
        if now.bootstrap_controller == now.controller_id and not now.bootstrapped and not members:
            self.foundings.append((number, now.cluster_uuid))
            host.node = Node(now.cluster_uuid, founded=True)
        elif any(h.conf is not None and h.name != host.name for h in members):
            host.node = Node(now.cluster_uuid)
        else:
            return
        self.raft_index += 1
        (host.state_dir / "identity.json").write_text(json.dumps({"cluster-uuid": host.node.cluster}))

    def _db_state(self, host: Host) -> str | None:
        if not host.node.cluster:
            return None
        members = sorted(str(h.number) for h in self.hosts.values() if h.node.cluster == host.node.cluster)
        return json.dumps(
            {
                "cluster-uuid": host.node.cluster,
                "epoch": {"number": 1, "tag": "9f"},
                "controller-id": str(host.number),
                "role": "voter",
                "last-index": 10 + len(members),
                "voters": members[:3],
            }
        )

    def _notice(self, host: Host) -> None:
        now = host.conf
        if now is not None and (not host.seen_confs or host.seen_confs[-1] != now):
            host.seen_confs.append(now)

    def _patch_edges(self) -> None:
        def running() -> Host:
            assert self._now is not None
            return self._now

        def reload(_: Path) -> bool:
            if self._act_on_reload:
                self.node_acts(running().number)
            return True

        def ensure_running(*, restart: bool) -> bool:
            if self._fail:
                raise HookFailed
            return restart

        self.patch.setattr(facts, "goal_state", self.goal)
        self.patch.setattr(confsocket, "reload", reload)
        self.patch.setattr(controlsocket, "db_state", lambda _: self._db_state(running()))
        self.patch.setattr(controlsocket, "status", lambda _: None)
        self.patch.setattr(controlsocket, "wait_until_serving", lambda _: None)
        self.patch.setattr(workload, "install", lambda *_: False)
        self.patch.setattr(workload, "ensure_running", ensure_running)
        self.patch.setattr(workload, "ask_for_hook", lambda *_: None)

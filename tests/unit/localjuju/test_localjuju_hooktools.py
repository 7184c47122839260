"""The hook commands in the exact forms that ops uses, against a model without any process."""

import json
from pathlib import Path

import pytest
from localjuju import toolargs, toolwire
from localjuju.debuglog import DebugLog
from localjuju.events import SeenRelation
from localjuju.hookcontext import ActionRun, HookContext
from localjuju.hooktools import Tools
from localjuju.model import Model, ModelSettings

import localjujumodel as models


class Asker:
    """Two units, the first of them the leader, and a hook on one."""

    def __init__(self, folder: Path) -> None:
        self.model = Model("test", ModelSettings())
        self.model.add_app("app", models.CHARM, {}, {})
        self.units = [models.add(self.model), models.add(self.model)]
        self.model.tick_leases(0)
        for unit, other in (self.units, self.units[::-1]):
            unit.seen.relations[0] = SeenRelation(members={other.name: 1})
        self.log = DebugLog(folder / "log")
        self.tools = Tools(self.log)
        self.enter(0)

    def enter(self, number: int, action: ActionRun | None = None) -> HookContext:
        unit = self.units[number]
        self.context = HookContext("c", self.model, unit, self.model.facts(unit), action=action)
        return self.context

    def __call__(self, line: str, stdin: str = "") -> toolwire.Answer:
        name, *words = line.split(" ")
        return self.tools.run(self.context, toolwire.Call("c", "/", stdin.encode(), name, tuple(words)))

    def ok(self, line: str, stdin: str = ""):
        answer = self(line, stdin)
        assert answer.code == 0, answer
        return json.loads(answer.out) if answer.out and "--format=json" in line else answer.out


@pytest.fixture
def ask(tmp_path):
    asker = Asker(tmp_path)
    yield asker
    asker.log.close()


def test_relations_are_listed_and_read(ask):
    assert ask.ok("relation-ids peer --format=json") == ["peer:0"]
    assert ask.ok("relation-ids other --format=json") == []
    assert ask.ok("relation-list --format=json -r peer:0") == ["app/1"]
    assert ask.ok("relation-list --format=json --app -r peer:0") == "app"
    assert ask.ok("relation-get --format=json -r peer:0 - app/1")["ingress-address"] == "10.77.0.11"
    assert ask.ok("relation-get --format=json -r peer:0 nothing app/1") is None
    assert set(ask.ok("relation-model-get --format=json -r peer:0")) == {"uuid"}


def test_a_relation_or_unit_that_is_not_there_is_not_found_in_jujus_words(ask):
    for line in ("relation-list --format=json -r peer:7", "relation-get --format=json -r peer:7 - app/1"):
        assert "relation not found" in ask(line).err
    answer = ask("relation-get --format=json -r peer:0 - app/9")
    assert (answer.code, answer.err.startswith("ERROR ")) == (1, True)


def test_relation_set_reads_a_file_and_deletes_with_the_empty_text(ask):
    ask.ok("relation-set -r peer:0 --file -", '{"a": "1", "ingress-address": ""}')
    ask.ok("relation-set -r peer:0 --app --file -", '{"b": "2"}')
    ask.context.commit()

    assert ask.model.relations[0].bag("app/0").content["a"] == "1"
    assert "ingress-address" not in ask.model.relations[0].bag("app/0").content
    assert ask.model.relations[0].app_bag.content == {"b": "2"}
    ask.enter(1)
    assert ask("relation-set -r peer:0 --app --file -", '{"b": "3"}').err == "ERROR cannot write relation settings\n"


def test_leadership_config_and_network(ask):
    assert ask.ok("is-leader --format=json") is True
    assert ask.ok("config-get --format=json") == {"level": 1}
    assert ask.ok("config-get --format=json name") is None
    assert ask.ok("network-get --format=json peer")["ingress-addresses"] == ["10.77.0.10"]
    assert "no network config found" in ask("network-get --format=json unknown").err
    ask.enter(1)
    assert ask.ok("is-leader --format=json") is False


def test_an_extra_binding_has_its_space_s_addresses_and_no_relation(ask):
    app = ask.model.app("app")
    ask.model.topology.add_subnet("10.88.0.0/24", "mgmt")
    ask.model.topology.add_address(ask.units[0].machine, "10.88.0.5/24")

    before = ask.model.facts(ask.units[0]).config
    ask.model.bind(app, {"management": "mgmt"}, force=True)

    found = ask.ok("network-get --format=json management")
    (card,) = found["bind-addresses"]
    assert [(a["value"], a["cidr"]) for a in card["addresses"]] == [("10.88.0.5", "10.88.0.0/24")]
    assert found["ingress-addresses"] == ["10.88.0.5"]
    assert ask.ok("relation-ids management --format=json") == []
    assert ask.model.facts(ask.units[0]).config != before, "a binding that changed is config-changed"
    ask.enter(1)
    assert 'has no devices in space "mgmt"' in ask("network-get --format=json management").err


def test_statuses_take_effect_at_once_and_the_applications_only_by_its_leader(ask):
    ask("status-set --application=False blocked -- do this")
    ask("status-set --application=True active -- fine")

    assert (ask.units[0].workload.current, ask.units[0].workload.message) == ("blocked", "do")
    assert ask.model.app("app").status.current == "active"
    assert ask.ok("status-get --include-data --format=json --application=false")["status"] == "blocked"
    assert "app/1" in ask.ok("status-get --include-data --format=json --application=true")["units"]
    ask.enter(1)
    assert ask("status-set --application=True active -- mine").code == 1
    assert ask("status-set --application=False splendid -- x").code == 1


def test_goal_state_shows_who_is_leaving_and_forgets_who_is_gone(ask):
    ask.model.start_dying(ask.units[1])
    assert ask.ok("goal-state --format=json")["units"]["app/1"]["status"] == "dying"

    ask.model.remove_unit(ask.units[1], orderly=False)
    assert list(ask.ok("goal-state --format=json")["units"]) == ["app/0"]


def test_ports_and_state_wait_for_the_commit(ask):
    ask.ok("open-port 17666/tcp")
    ask.ok("open-port 80/tcp")
    ask.ok("close-port 80/tcp")
    ask.ok("state-set --file -", "a: b")

    assert ask.ok("opened-ports --format=json") == ["17666/tcp"]
    assert ask.ok("state-get --format=json") == {"a": "b"}
    assert (ask.units[0].ports, ask.units[0].state) == (set(), {})
    ask.context.commit()
    assert (ask.units[0].ports, ask.units[0].state) == ({"17666/tcp"}, {"a": "b"})
    assert ask("open-port 99999/tcp").code == 1


def test_a_secret_can_be_read_by_the_hook_that_adds_it_and_is_gone_if_that_fails(ask):
    secret = ask.ok("secret-add --label ca --owner application key=value").strip()

    assert ask.ok(f"secret-get --format=json {secret}") == {"key": "value"}
    assert ask.ok("secret-get --format=json --label ca") == {"key": "value"}
    assert ask.model.secrets.secrets == {}
    ask.enter(0)  # The first hook failed; a new one begins.
    assert "not found" in ask(f"secret-get --format=json {secret}").err


def test_secrets_have_revisions_labels_and_owners(ask):
    secret = ask.ok("secret-add --label ca --owner application key=one").strip()
    ask.context.commit()
    ask.enter(1)
    assert ask.ok("secret-get --format=json --label ca") == {"key": "one"}, "all units of the owner know its label"
    assert (
        "not found" in ask(f"secret-info-get --format=json {secret}").err or ask(f"secret-set {secret} k=2").code == 1
    )
    ask.enter(0)
    ask.ok(f"secret-set --owner application {secret} key=two")
    ask.context.commit()

    ask.enter(1)
    assert ask.ok(f"secret-get --format=json {secret}") == {"key": "one"}
    assert ask.ok(f"secret-get --format=json --peek {secret}") == {"key": "two"}
    assert ask.model.facts(ask.units[1]).secret_revisions == {secret.removeprefix("secret:"): 2}
    assert ask.ok(f"secret-get --format=json --refresh {secret}") == {"key": "two"}
    assert ask.model.facts(ask.units[1]).secret_revisions == {}
    ask.enter(0)
    info = ask.ok(f"secret-info-get --format=json {secret}")[secret.removeprefix("secret:")]
    assert (info["revision"], info["label"], info["owner"], info["rotation"]) == (2, "ca", "application", "never")
    assert ask.ok("secret-ids --format=json") == [secret.removeprefix("secret:")]
    assert ask("secret-add --label ca --owner application key=x").code == 1
    ask.ok(f"secret-remove {secret} --revision 1")
    ask.context.commit()
    assert list(ask.model.secrets.get(secret).revisions) == [2]


def test_a_unit_of_another_application_needs_a_grant(ask):
    ask.model.add_app("other", models.CHARM, {}, {})
    stranger = ask.model.add_unit(ask.model.app("other"), [])
    secret = ask.ok("secret-add --owner unit key=value").strip()
    ask.context.commit()

    def read():
        context = HookContext("c", ask.model, stranger, ask.model.facts(stranger))
        return ask.tools.run(context, toolwire.Call("c", "/", b"", "secret-get", ("--format=json", secret)))

    assert "permission denied" in read().err
    ask.enter(0)
    ask.ok(f"secret-grant --relation 0 --unit other/0 {secret}")
    ask.context.commit()
    assert read().code == 0


def test_actions_collect_results_until_they_end(ask):
    run = ActionRun("1", "do", {"a": {"b": 1}, "c": "d"})
    ask.enter(0, run)

    assert ask.ok("action-get --format=json") == {"a": {"b": 1}, "c": "d"}
    assert ask.ok("action-get --format=json a.b") == 1
    ask.ok("action-set x.y=1 z=2")
    ask.ok("action-log -- halfway")
    ask.ok("action-fail -- broken")

    assert run.results == {"x": {"y": "1"}, "z": "2"}
    assert (run.log, run.failure) == (["halfway"], "broken")
    ask.enter(0)
    assert ask("action-get --format=json").err == "ERROR not running an action\n"


def test_what_is_not_supported_says_so(ask):
    assert "not supported" in ask("payload-register a b c").err
    assert ask("no-such-command").code == 1


def test_options_are_taken_apart_as_juju_does():
    taken = toolargs.take_apart(["-r", "peer:0", "--app", "--format=json", "--", "-", "--app"])

    assert taken.values == {"-r": "peer:0", "--format": "json"}
    assert taken.switches == {"--app"}
    assert taken.rest == ("-", "--app")


def test_a_cut_off_message_is_an_error_and_not_a_shorter_one():
    fields = [b"id", b"/", b"", b"relation-ids", b"peer"]
    message = b"".join(len(f).to_bytes(4, "big") + f for f in fields)

    assert toolwire.decode(message).arguments == ("peer",)
    with pytest.raises(ValueError, match="cut short"):
        toolwire.decode(message[:-1])

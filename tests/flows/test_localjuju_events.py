"""Which hooks run, in which order, with which environment; and that a failed one is as if it never was."""

import concurrent.futures
import os
import signal
import subprocess

import pytest
from localjuju.client import ClientError

import pulserun


@pytest.fixture
def run(tmp_path):
    with pulserun.pulse_run(tmp_path) as run:
        yield run


def _host_pid(run, number, inner):
    """A pid inside a unit, as this machine numbers it."""
    spaces = pulserun.namespaces_of(run.client).holders()
    for pid in spaces:
        with open(f"/proc/{pid}/status") as status:
            line = next(words.split()[1:] for words in status if words.startswith("NSpid:"))
        with open(f"/proc/{pid}/cmdline", "rb") as cmdline:
            if len(line) == 3 and line[-1] == str(inner) and b"charm.py" in cmdline.read():
                return pid
    raise AssertionError(f"no process {inner} on unit {number}")


def test_life_of_units_from_first_deploy_to_last_removal(run):
    # One unit alone.
    run.deploy()
    assert run.told(0) == ["install", "created", "leader-elected", "config-changed", "start"]
    first = run.hooks(0)[0]
    assert first["members"] is None, "a peer relation is not there before its -created"

    # A second one: both learn of each other, and the newcomer of what the leader wrote before.
    before = len(run.told(0))
    run.add_unit()
    assert run.told(0, before)[:2] == ["joined 1", "changed 1"]
    assert set(run.told(0, before)[2:]) <= {"changed 1"}, "once more, if the newcomer wrote its bag after that"
    newcomer = run.told(1)
    assert newcomer[:4] == ["install", "created", "config-changed", "start"]
    assert newcomer[4:6] == ["joined 0", "changed 0"]
    assert set(newcomer[6:]) == {"changed"}, "the leader's bag, without a remote unit"
    last = run.hooks(1)[-1]["environment"]
    assert (last["JUJU_REMOTE_UNIT"], last["JUJU_REMOTE_APP"]) == ("", "controller")
    assert run.bags(1)["app"]["members"] == '["controller/0", "controller/1"]'

    # The leader leaves in order: its own events, with itself departing; its peer's; then its host goes.
    after_0, after_1 = len(run.told(0)), len(run.told(1))
    hold = run.disk(0) / "var/lib/pulse/hold"
    hold.write_text("remove")
    run.client.call("remove-unit", units=["controller/0"])
    run.wait_held(0)
    leaving = run.told(0, after_0)
    goodbye = run.hooks(0)[after_0:]
    hold.unlink()
    assert leaving == ["departed 1", "broken", "stop", "remove"]
    assert goodbye[0]["departing"] == "controller/0"
    assert goodbye[0]["planned"] == 1, "goal-state shows the leaver as dying"
    assert goodbye[0]["leader"] is True, "it keeps its lease until it is gone"
    run.client.wait(lambda s: "controller/0" not in s["applications"]["controller"]["units"], 30, "unit 0 to be gone")
    assert not run.disk(0).exists()
    run.client.wait(lambda s: run.leader() == "controller/1", 30, "the other to lead")
    run.settle()
    told = run.told(1, after_1)
    assert [t for t in told if t != "changed"] == ["departed 0", "leader-elected"]
    departed = next(h for h in run.hooks(1)[after_1:] if h["hook"].endswith("departed"))
    assert (departed["departing"], departed["members"]) == ("controller/0", [])

    # Down to none and up again: a number never comes back.
    run.client.call("remove-unit", units=["controller/1"])
    run.client.wait(lambda s: not s["applications"]["controller"]["units"], 30, "no unit to be left")
    run.add_unit()
    assert list(run.client.units("controller")) == ["controller/2"]
    assert run.leader() == "controller/2"
    assert run.told(2) == ["install", "created", "leader-elected", "config-changed", "start"]


def test_forced_removal_tells_the_leaver_nothing_and_kills_its_host_at_once(run):
    run.deploy(units=2)
    leader = int(run.leader().partition("/")[2])
    other = 1 - leader
    run.hold(leader, "update-status")
    run.client.call("update-status", unit=f"controller/{leader}")
    run.wait_held(leader)  # Even in the middle of a hook.
    since = len(run.told(other))

    run.client.call("remove-unit", units=[f"controller/{leader}"], force=True)

    assert list(run.client.units("controller")) == [f"controller/{other}"]
    assert not run.disk(leader).exists()
    assert run.leader() == "", "the lease of a dead leader has to run out first"
    run.client.wait(lambda s: run.leader() != "", 10, "a new leader")
    run.settle()
    assert run.told(other, since) == [f"departed {leader}", "leader-elected"]
    departed = run.hooks(other)[since]
    assert departed["departing"] == f"controller/{leader}"
    assert departed["planned"] == 1, "goal-state forgot it at once"


def test_a_failed_hook_writes_nothing_is_shown_and_is_retried(run):
    run.deploy(units=2)
    run.client.call("model-config", changes={"retry-most": "1"})
    follower = 1 - int(run.leader().partition("/")[2])

    run.client.call("config", app="controller", changes={"greeting": "hi", "fail-hook": "config-changed"})
    run.client.wait(lambda s: run.workload(follower)[0] == "error", 30, "the unit to show the failed hook")
    assert run.workload(follower) == ("error", 'hook failed: "config-changed"')
    assert run.bags(follower)["unit"]["greeting"] == "hello", "what a failed hook wrote is dropped"
    failures = run.told(follower).count("config-changed")
    pulserun.until(lambda: run.told(follower).count("config-changed") > failures, 30, "a retry")

    run.client.call("config", app="controller", changes={"fail-hook": ""})
    run.client.wait(lambda s: run.workload(follower)[0] == "active", 30, "the retry to succeed")
    run.settle()
    assert run.bags(follower)["unit"]["greeting"] == "hi"


def test_resolve_retries_now_and_with_no_retry_takes_the_hook_as_done(run):
    run.client.call("model-config", changes={"retry-most": "1000"})
    run.client.call("deploy", path=str(pulserun.CHARM), name="controller", config={"fail-hook": "start"})
    run.client.wait(lambda s: run.workload(0)[0] == "error", 30, "start to fail")
    with pytest.raises(ClientError, match="not found"):
        run.client.call("resolve", unit="controller/9")

    tries = run.told(0).count("start")
    run.client.call("resolve", unit="controller/0")
    pulserun.until(lambda: run.told(0).count("start") > tries, 30, "another start")
    run.client.wait(lambda s: run.workload(0)[0] == "error", 30, "it to fail again")
    pulserun.until(lambda: not _resolve(run, retry=False), 10, "the hook to be given up")
    run.settle()

    assert run.workload(0)[0] == "active"
    with pytest.raises(ClientError, match="not in error"):
        run.client.call("resolve", unit="controller/0")


def _resolve(run, *, retry):
    """Whether it was refused: the unit may be in the middle of a try just now."""
    try:
        run.client.call("resolve", unit="controller/0", retry=retry)
    except ClientError:
        return True
    return False


def test_a_killed_hook_is_a_failed_hook_and_the_same_event_comes_again(run):
    run.deploy(units=2)
    follower = 1 - int(run.leader().partition("/")[2])
    run.hold(follower, "config-changed")
    run.client.call("config", app="controller", changes={"greeting": "killed"})
    pid = run.wait_held(follower)
    assert run.bags(follower)["unit"]["greeting"] == "hello"

    os.kill(_host_pid(run, follower, pid), signal.SIGKILL)
    run.client.wait(lambda s: run.workload(follower)[0] == "error", 10, "the killed hook to show as failed")
    assert run.bags(follower)["unit"]["greeting"] == "hello"
    run.let_go(follower)

    run.settle()
    assert run.told(follower).count("config-changed") >= 3, "at deploy, killed, again"
    assert run.bags(follower)["unit"]["greeting"] == "killed"


def test_a_leader_that_is_killed_in_a_hook_leaves_no_trace_of_its_writes(run):
    run.deploy(units=3)
    leader = int(run.leader().partition("/")[2])
    rest = [n for n in range(3) if n != leader]
    run.client.call("remove-unit", units=[f"controller/{rest[0]}"])
    run.hold(leader, "db-cluster-relation-departed")
    run.wait_held(leader)
    before = run.bags(rest[1])["app"]

    run.client.call("remove-unit", units=[f"controller/{leader}"], force=True)
    run.client.wait(lambda s: run.leader() == f"controller/{rest[1]}", 30, "the last one to lead")
    run.settle()

    assert before["members"] == '["controller/0", "controller/1", "controller/2"]'
    assert run.bags(rest[1])["app"]["members"] == f'["controller/{rest[1]}"]'


def test_a_model_whose_leader_is_gone_has_not_settled_before_somebody_else_leads(run):
    run.client.call("model-config", changes={"leadership-lease": "8"})
    run.deploy(units=2)
    leader = int(run.leader().partition("/")[2])

    run.client.call("remove-unit", units=[f"controller/{leader}"], force=True)
    waits_for = run.client.call("busy")["controller"]
    before = run.bags(1 - leader)["app"]["members"]
    run.add_unit()

    assert before == '["controller/0", "controller/1"]'
    assert f"controller/{leader}" in waits_for
    assert run.leader() == f"controller/{1 - leader}"
    assert run.bags(2)["app"]["members"] == f'["controller/{1 - leader}", "controller/2"]'


def test_many_changes_of_a_bag_become_one_event(run):
    run.deploy(units=2)
    leader = int(run.leader().partition("/")[2])
    follower = 1 - leader
    run.hold(leader, "update-status")
    run.client.call("update-status", unit=f"controller/{leader}")
    run.wait_held(leader)  # While the leader is busy, the follower's bag changes twice.
    since = len(run.told(leader))
    for greeting in ("one", "two"):
        run.client.call("config", app="controller", changes={"greeting": greeting})
        run.client.wait(
            lambda s, g=greeting: run.bags(follower)["unit"]["greeting"] == g, 30, "the follower to write its bag"
        )

    run.let_go(leader)
    run.settle()

    assert run.told(leader, since) == ["config-changed", f"changed {follower}"]


def test_a_power_cut_brings_config_changed_and_start_and_keeps_the_data(run):
    run.client.call("model-config", changes={"leadership-lease": "60"})
    run.deploy(units=2)
    run.exec(0, "sh", "-c", "echo kept > /var/lib/pulse/data; echo gone > /run/data")
    since = [len(run.told(n)) for n in (0, 1)]
    boots = [_boot_id(run, n) for n in (0, 1)]

    run.client.call("restart-all")
    pulserun.until(lambda: all(_boot_id(run, n) not in ("", boots[n]) for n in (0, 1)), 30, "both hosts to boot")
    pulserun.until(lambda: all(len(run.told(n)) >= since[n] + 2 for n in (0, 1)), 30, "their hooks")
    run.settle()

    assert [run.told(n, since[n])[:2] for n in (0, 1)] == [["config-changed", "start"]] * 2
    assert run.exec(0, "cat", "/var/lib/pulse/data") == "kept\n"
    assert run.exec(0, "ls", "/run") == "systemd\n"
    assert "active" in run.exec(0, "systemctl", "is-active", "pulse")


def _boot_id(run, number):
    """Differs from boot to boot; "" while the host is down."""
    try:
        pid = run.client.call("enter", unit=f"controller/{number}")["pid"]
    except ClientError:
        return ""
    return str(pid)


def test_a_hook_cut_off_by_a_power_cut_is_the_first_one_after_it(run):
    run.client.call("model-config", changes={"leadership-lease": "60"})  # Its leader is to stay leader.
    run.deploy()
    run.hold(0, "update-status")
    run.client.call("update-status", unit="controller/0")
    run.wait_held(0)
    since = len(run.told(0))

    run.client.call("restart-all")
    run.wait_held(0)
    run.let_go(0)
    pulserun.until(lambda: len(run.told(0)) >= since + 3, 30, "the hooks after the boot")
    run.settle()

    assert run.told(0, since) == ["update-status", "config-changed", "start"]


def test_the_environment_of_a_hook_is_jujus_and_nothing_of_ours_leaks(tmp_path, monkeypatch):
    monkeypatch.setenv("JUJU_OF_OURS", "1")
    monkeypatch.setenv("OPERATOR_DISPATCH", "1")  # With this in its environment, ops runs no hook at all.
    with pulserun.pulse_run(tmp_path) as run:
        run.deploy(units=2)
        environment = next(h for h in run.hooks(0) if h["hook"].endswith("joined"))["environment"]

        assert "JUJU_OF_OURS" not in environment
        expected = {
            "JUJU_DISPATCH_PATH": "hooks/db-cluster-relation-joined",
            "JUJU_HOOK_NAME": "db-cluster-relation-joined",
            "JUJU_UNIT_NAME": "controller/0",
            "JUJU_RELATION": "db-cluster",
            "JUJU_RELATION_ID": "db-cluster:0",
            "JUJU_REMOTE_APP": "controller",
            "JUJU_REMOTE_UNIT": "controller/1",
            "JUJU_MACHINE_ID": "0",
            "JUJU_CHARM_DIR": "/var/lib/juju/agents/unit-controller-0/charm",
        }
        assert {k: environment.get(k) for k in expected} == expected


def test_update_status_comes_by_interval_and_on_demand(tmp_path):
    with pulserun.pulse_run(tmp_path, update_status_interval=1.0) as run:
        run.deploy()
        pulserun.until(lambda: run.told(0).count("update-status") >= 2, 30, "two update-status hooks")

        run.client.call("model-config", changes={"update-status-hook-interval": "3600"})
        run.settle()
        since = len(run.told(0))
        run.client.call("update-status", unit="controller/0")
        pulserun.until(lambda: run.told(0, since) == ["update-status"], 30, "the one that was asked for")


def test_juju_exec_runs_in_a_context_of_its_unit_one_at_a_time_with_the_hooks(run):
    run.deploy()
    run.hold(0, "update-status")
    run.client.call("update-status", unit="controller/0")
    run.wait_held(0)
    line = run.client.on_unit("controller/0", ["juju-exec", "-u", "controller/0", "is-leader; echo $JUJU_UNIT_NAME"])
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as command:
        with pytest.raises(subprocess.TimeoutExpired):
            command.wait(timeout=1)  # The held hook is first.
        run.let_go(0)
        out, _ = command.communicate(timeout=30)
    assert out == "True\ncontroller/0\n"

    # The form that a workload uses to ask for a hook of its own, writes included.
    since = len(run.told(0))
    run.exec(0, "juju-exec", "-u", "controller/0", "JUJU_DISPATCH_PATH=hooks/update-status", "$JUJU_CHARM_DIR/dispatch")
    assert run.told(0, since) == ["update-status"]

    written = ["juju-exec", "-u", "controller/0", "relation-set -r db-cluster:0 note=yes; exit 3"]
    assert run.client.exec("controller/0", written).returncode == 3
    assert "note" not in run.bags(0)["unit"]
    run.exec(0, "juju-exec", "-u", "controller/0", "relation-set -r db-cluster:0 note=yes")
    assert run.bags(0)["unit"]["note"] == "yes"


def test_hook_commands_answer_only_to_the_hook_that_runs(run):
    run.deploy()
    tools = "/var/lib/juju/tools/unit-controller-0"

    stale = run.client.exec("controller/0", ["env", "JUJU_CONTEXT_ID=old", f"{tools}/config-get"])

    assert stale.returncode == 1
    assert "unknown context" in stale.stderr


def test_secrets_have_revisions_and_their_readers_learn_of_new_ones(run):
    run.deploy(units=2)
    leader = int(run.leader().partition("/")[2])
    follower = 1 - leader

    def secret(number, **params):
        result = run.client.call("run", unit=f"controller/{number}", action="secret", params=params)
        return result[f"controller/{number}"]["results"]

    assert secret(leader, do="add")["id"].startswith("secret:")
    assert secret(follower, do="get")["value"] == "one"
    since = len(run.told(follower))
    secret(leader, do="set", value="two")
    pulserun.until(lambda: "secret-changed" in run.told(follower, since), 30, "secret-changed")
    assert secret(follower, do="get")["value"] == "one", "the old revision is tracked until it is refreshed"
    assert secret(follower, do="refresh")["value"] == "two"
    assert secret(follower, do="get")["value"] == "two"


def test_actions_return_results_failures_and_reasons(run):
    run.deploy()

    def act(action, **params):
        return run.client.call("run", unit="controller/leader", action=action, params=params)["controller/0"]

    done = act("echo", words="hi", times="2")
    assert (done["status"], done["results"]["said"], done["results"]["deep"]) == ("completed", "hi hi", {"er": "yes"})
    assert done["log"] == ["echoing"]
    failed = act("refuse")
    assert (failed["status"], failed["message"]) == ("failed", "as always")
    for action, params, reason in (
        ("nothing", {}, "not defined"),
        ("echo", {"loud": "yes"}, "does not take"),
        ("echo", {"times": "often"}, "must be integer"),
        ("secret", {}, "needs do"),
    ):
        with pytest.raises(ClientError, match=reason):
            act(action, **params)


def test_an_action_whose_host_goes_down_fails_with_that_reason_and_a_waiting_one_runs_after_the_boot(run):
    run.deploy()

    def act(action):
        return run.client.call("run", unit="controller/0", action=action, wait_seconds=50, deadline_seconds=55)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        running = pool.submit(act, "dawdle")
        run.client.wait(lambda s: "dawdle" in _doing(s), 20, "the action to run")
        waiting = pool.submit(act, "echo")
        run.client.call("reboot", unit="controller/0")

        assert running.result(30)["controller/0"]["message"] == "ERROR controller/0 went down"
        assert waiting.result(60)["controller/0"]["status"] == "completed"


def _doing(status):
    return status["applications"]["controller"]["units"]["controller/0"]["juju-status"].get("message", "")

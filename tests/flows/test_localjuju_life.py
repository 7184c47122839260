"""A run ends with the death of any process that keeps it, and nothing of it is left on the machine."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from localjuju.client import Client, ClientError, NotRunning

import pulserun


@pytest.fixture
def deployed(tmp_path):
    with pulserun.pulse_run(tmp_path) as run:
        _deploy(run.client)  # Not settled: the run ends in the middle of hooks.
        yield run


def _deploy(client):
    client.call("deploy", path=str(pulserun.CHARM), name="controller", units=2)
    client.wait(_hosts_are_up, 60, "both hosts to be up")


def _hosts_are_up(status):
    return all(m["machine-status"]["current"] == "running" for m in status["machines"].values())


def _daemon_of(client):
    init = client.home.read_run().init
    children = Path(f"/proc/{init}/task/{init}/children").read_text().split()
    return next(int(p) for p in children if b"localjuju" in Path(f"/proc/{p}/cmdline").read_bytes())


def _assert_gone(client, spaces):
    pulserun.until(lambda: not spaces.holders(), 10, "all processes of the run to end")
    pulserun.until(lambda: not client.home.path.exists(), 10, "the run's files to be removed")
    pulserun.assert_nothing_left(client, spaces)


def test_a_run_has_namespaces_of_its_own_for_itself_and_for_each_unit(deployed):
    spaces = pulserun.namespaces_of(deployed.client)

    # Net, pid, uts and ipc: of the run, and of two units. The other tests' checks would be empty without them.
    assert len(spaces) >= 12
    assert spaces.holders()


def test_destroy_leaves_nothing(deployed):
    spaces = pulserun.namespaces_of(deployed.client)

    assert deployed.client.destroy() is True

    pulserun.assert_nothing_left(deployed.client, spaces)
    with pytest.raises(NotRunning):
        deployed.client.status()


def test_a_killed_daemon_leaves_nothing(deployed):
    spaces = pulserun.namespaces_of(deployed.client)

    os.kill(_daemon_of(deployed.client), signal.SIGKILL)

    _assert_gone(deployed.client, spaces)


def test_a_killed_first_process_leaves_nothing(deployed):
    spaces = pulserun.namespaces_of(deployed.client)

    os.kill(deployed.client.home.read_run().init, signal.SIGKILL)

    _assert_gone(deployed.client, spaces)


def test_a_killed_watcher_takes_all_processes_along_and_destroy_removes_the_files(deployed):
    spaces = pulserun.namespaces_of(deployed.client)

    os.kill(deployed.client.home.read_run().watcher, signal.SIGKILL)

    pulserun.until(lambda: not spaces.holders(), 10, "all processes of the run to end")
    deployed.client.destroy()
    pulserun.assert_nothing_left(deployed.client, spaces)


def test_a_home_that_a_killed_watcher_left_serves_the_next_bootstrap(tmp_path):
    with pulserun.pulse_run(tmp_path) as run:
        spaces = pulserun.namespaces_of(run.client)
        os.kill(run.client.home.read_run().watcher, signal.SIGKILL)
        pulserun.until(lambda: not spaces.holders(), 10, "all processes of the run to end")

        run.client.bootstrap()

        assert run.client.status()["applications"] == {}


def test_a_daemon_that_hangs_is_destroyed_all_the_same(deployed):
    spaces = pulserun.namespaces_of(deployed.client)
    os.kill(_daemon_of(deployed.client), signal.SIGSTOP)

    deployed.client.destroy()

    pulserun.assert_nothing_left(deployed.client, spaces)


def test_the_run_ends_with_the_process_it_was_to_die_with(tmp_path):
    client = Client(tmp_path / "home")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as companion:
        client.bootstrap(die_with=companion.pid)
        _deploy(client)
        spaces = pulserun.namespaces_of(client)
        assert spaces

        companion.kill()

    _assert_gone(client, spaces)


def test_a_killed_exec_takes_its_command_along(deployed):
    line = deployed.client.on_unit("controller/0", ["sleep", "4711"])
    with subprocess.Popen(line) as runner:
        seen = lambda: "sleep 4711" in deployed.exec(0, "ps", "axo", "args")  # noqa: E731
        pulserun.until(seen, 10, "the command to run on the unit")

        runner.kill()
        runner.wait()

    pulserun.until(lambda: not seen(), 10, "the command to be gone")


def test_a_second_bootstrap_is_refused_and_harms_nothing(deployed):
    with pytest.raises(ClientError, match="already lives"):
        deployed.client.bootstrap()

    assert len(deployed.client.units("controller")) == 2


def test_a_folder_with_other_things_in_it_is_no_home(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")

    with pytest.raises(ClientError, match="not empty"):
        Client(tmp_path).bootstrap()
    Client(tmp_path).destroy()

    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_home_below_a_folder_that_units_replace_is_refused():
    with pytest.raises(ClientError, match="choose another"):
        Client("/etc/localjuju-test").bootstrap()


def test_the_namespace_has_no_route_out(deployed):
    routes = subprocess.run(
        deployed.client.inside(["ip", "route", "show", "default"]), capture_output=True, text=True, check=True
    )
    assert routes.stdout == ""
    assert deployed.exec(0, "ip", "route", "show", "default") == ""

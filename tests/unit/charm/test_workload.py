"""controllerd as a service: what stands in its unit file, when it is restarted, what removal leaves."""

import configparser
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import controllerconf
import paths
import workload
from charmmachine import Machine

UNIT = "control/0"


def service(machine: Machine) -> configparser.RawConfigParser:
    """The unit file as an INI reader sees it; of repeated keys, the environment alone matters and is read apart."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(paths.UNIT_FILE.read_text())
    return parser


def environment(text: str) -> dict[str, str]:
    lines = [line.removeprefix("Environment=") for line in text.splitlines() if line.startswith("Environment=")]
    return dict(shlex.split(line)[0].split("=", 1) for line in lines)


def test_the_service_runs_controllerd_with_the_charm_s_own_python_and_code(machine: Machine):
    workload.install(machine.charm_dir, UNIT)

    command = service(machine)["Service"]["ExecStart"]
    variables = environment(paths.UNIT_FILE.read_text())
    assert command == f"{sys.executable} -m controller.daemon --state-dir {paths.STATE_DIR}"
    assert variables["PYTHONPATH"] == f"{machine.charm_dir}/lib"
    assert "LD_LIBRARY_PATH" not in variables  # A source tree brings no library along.


def test_the_service_comes_back_at_once_and_for_ever_but_not_at_boot(machine: Machine):
    workload.install(machine.charm_dir, UNIT)

    parsed = service(machine)
    assert parsed["Service"]["Restart"] == "always"
    assert 0.1 <= float(parsed["Service"]["RestartSec"]) <= 0.5
    assert parsed["Unit"]["StartLimitIntervalSec"] == "0"
    assert "Install" not in parsed


def test_the_service_has_time_to_hand_over_and_only_its_main_process_is_asked_to(machine: Machine):
    workload.install(machine.charm_dir, UNIT)

    parsed = service(machine)
    assert (parsed["Service"]["TimeoutStopSec"], parsed["Service"]["KillMode"]) == ("40", "mixed")
    assert int(parsed["Service"]["LimitNOFILE"]) >= 65536


def test_heartbeats_come_before_other_work_on_the_machine(machine: Machine):
    workload.install(machine.charm_dir, UNIT)

    parsed = service(machine)
    assert int(parsed["Service"]["Nice"]) < 0
    assert int(parsed["Service"]["CPUWeight"]) > 100


def test_controllerd_can_ask_for_a_hook(machine: Machine):
    workload.install(machine.charm_dir, UNIT)

    command = shlex.split(environment(paths.UNIT_FILE.read_text())["HA_CONTROLLER_NOTIFY"])
    assert command[:3] == ["juju-exec", "-u", UNIT]
    assert command[3:] == ["JUJU_DISPATCH_PATH=hooks/db-state-changed", f"{machine.charm_dir}/dispatch"]


def test_a_staged_library_is_found_by_service_and_hactl(machine: Machine):
    folder = machine.charm_dir / "usr" / "lib" / "x86_64-linux-gnu"
    folder.mkdir(parents=True)
    (folder / "libdqlite.so.0").write_text("")

    workload.install(machine.charm_dir, UNIT)

    assert environment(paths.UNIT_FILE.read_text())["LD_LIBRARY_PATH"] == str(folder)
    assert f"LD_LIBRARY_PATH='{folder}'" in paths.HACTL.read_text()


def test_hactl_on_the_path_runs_the_charm_s_client_with_all_arguments(machine: Machine):
    cli = machine.charm_dir / "lib" / "controller" / "cli.py"
    cli.write_text("import sys; print(sys.argv[1:])")
    (cli.parent / "__init__.py").write_text("")
    workload.install(machine.charm_dir, UNIT)

    ran = subprocess.run([paths.HACTL, "status", "--format", "two words"], capture_output=True, text=True, check=True)

    assert ran.stdout.strip() == "['status', '--format', 'two words']"


def test_installing_again_changes_nothing(machine: Machine):
    workload.install(machine.charm_dir, UNIT)

    assert not workload.install(machine.charm_dir, UNIT)

    assert machine.systemd.calls == ["daemon-reload"]


def test_a_restart_stays_due_until_it_was_done(machine: Machine):
    workload.install(machine.charm_dir, UNIT)
    machine.systemd.running = True
    (machine.charm_dir / "lib" / "controller" / "daemon.py").write_text("version = 2\n")

    assert [workload.install(machine.charm_dir, UNIT) for _ in range(2)] == [True, True]
    machine.systemd.refuses = True
    with pytest.raises(machine.systemd.SystemdError):
        workload.ensure_running(restart=True)
    assert workload.install(machine.charm_dir, UNIT)
    machine.systemd.refuses = False
    workload.ensure_running(restart=True)

    assert not workload.install(machine.charm_dir, UNIT)


def test_that_a_restart_is_due_is_written_down_before_the_unit_file_changes(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
):
    workload.install(machine.charm_dir, UNIT)
    (machine.charm_dir / "lib" / "controller" / "daemon.py").write_text("version = 2\n")
    written: list[str] = []
    replace = controllerconf.replace

    def watched(path: Path, text: str, *, mode: int) -> bool:
        changed = replace(path, text, mode=mode)
        written.extend([path.name] if changed else [])
        return changed

    monkeypatch.setattr(controllerconf, "replace", watched)
    workload.install(machine.charm_dir, UNIT)

    assert written == ["restart-due", "ha-controller.service"]


@pytest.mark.parametrize("change", ["module", "new module", "schema", "library"])
def test_the_service_must_be_restarted_when_what_it_runs_changed(machine: Machine, change: str):
    workload.install(machine.charm_dir, UNIT)
    lib = machine.charm_dir / "lib" / "controller"

    match change:
        case "module":
            (lib / "daemon.py").write_text("version = 2\n")
        case "new module":
            (lib / "extra.py").write_text("")
        case "schema":
            (lib / "0002.sql").write_text("")
        case _:
            folder = machine.charm_dir / "usr" / "lib" / "x86_64-linux-gnu"
            folder.mkdir(parents=True)
            (folder / "libdqlite.so.0").write_text("")

    assert workload.install(machine.charm_dir, UNIT)


def test_what_the_service_does_not_run_is_no_reason_to_restart_it(machine: Machine):
    workload.install(machine.charm_dir, UNIT)
    (machine.charm_dir / "README.md").write_text("new")
    (machine.charm_dir / "lib" / "controller" / "daemon.cpython-311.pyc").write_text("")

    assert not workload.install(machine.charm_dir, UNIT)


@pytest.mark.parametrize(
    ("running", "restart", "calls"),
    [
        (False, False, ["start ha-controller.service"]),
        (False, True, ["start ha-controller.service"]),
        (True, False, []),
        (True, True, ["restart ha-controller.service"]),
    ],
)
def test_the_service_is_started_or_restarted_only_when_it_must(
    machine: Machine, running: bool, restart: bool, calls: list[str]
):
    machine.systemd.running = running

    assert workload.ensure_running(restart=restart) is bool(calls)

    assert machine.systemd.calls == calls


def test_two_removals_in_one_second_lose_no_data(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workload.time, "strftime", lambda *_: "20260101T000000Z")
    moved = []
    for n in range(3):
        machine.state_dir.mkdir(exist_ok=True)
        (machine.state_dir / "data").write_text(str(n))
        moved.append(workload.remove())

    assert [path.joinpath("data").read_text() for path in moved if path] == ["0", "1", "2"]


def test_removing_what_was_never_installed_is_fine(machine: Machine):
    shutil.rmtree(machine.state_dir)

    assert workload.remove() is None
    assert machine.systemd.calls == []


# Asking Juju for one more hook.


@pytest.fixture
def real_asking(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_a_hook_is_asked_for_outside_of_this_hook_s_context(real_asking: Path, monkeypatch: pytest.MonkeyPatch):
    told = real_asking / "told"
    os.mkfifo(told)
    program = real_asking / "juju-exec"
    program.write_text(f'#!/bin/sh\necho "context=$JUJU_CONTEXT_ID $*" >{told}\n')
    program.chmod(0o755)
    monkeypatch.setenv("JUJU_CONTEXT_ID", "control/0-update-status-1")

    workload.ask_for_hook(Path("/charm"), UNIT)

    assert told.read_text() == "context= -u control/0 JUJU_DISPATCH_PATH=hooks/db-state-changed /charm/dispatch\n"


def test_where_there_is_no_juju_exec_the_hook_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))

    workload.ask_for_hook(Path("/charm"), UNIT)

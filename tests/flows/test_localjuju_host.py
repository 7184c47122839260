"""Each unit is a host of its own: its root, its service manager, its packaging; the machine is never touched."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from localjuju import charmfiles

import pulserun


@pytest.fixture
def run(tmp_path):
    with pulserun.pulse_run(tmp_path) as run:
        yield run


def _service(run, number, properties="MainPID,NRestarts,ActiveState,FreezerState"):
    lines = run.exec(number, "systemctl", "show", "pulse", "-p", properties).splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_services_are_supervised_as_systemd_does(run):
    run.deploy()
    first = _service(run, 0)
    assert (first["ActiveState"], first["NRestarts"]) == ("active", "0")

    # Killed: another process of it comes up by itself. Paused: it is there and does not answer.
    run.client.call("kill", unit="controller/0")
    pulserun.until(lambda: _service(run, 0)["ActiveState"] == "active", 10, "the service to be back")
    second = _service(run, 0)
    assert (second["NRestarts"], second["MainPID"] != first["MainPID"]) == ("1", True)
    run.client.call("pause", unit="controller/0")
    assert _service(run, 0)["FreezerState"] == "frozen"
    assert run.exec(0, "cut", "-d ", "-f3", f"/proc/{second['MainPID']}/stat") == "T\n"
    run.client.call("resume", unit="controller/0")
    assert run.exec(0, "cut", "-d ", "-f3", f"/proc/{second['MainPID']}/stat") in ("S\n", "R\n")

    # Stopped means stopped; exit codes are systemctl's.
    ask = lambda *words: run.client.exec("controller/0", ["systemctl", *words])  # noqa: E731
    assert ask("stop", "pulse").returncode == 0
    assert (ask("is-active", "pulse").returncode, ask("is-active", "pulse").stdout) == (3, "inactive\n")
    assert ask("is-failed", "pulse").returncode == 1
    assert ask("start", "nothing").returncode == 5
    assert ask("is-enabled", "pulse").stdout == "disabled\n"
    assert ask("enable", "--now", "pulse").returncode == 0
    assert (ask("is-enabled", "pulse").stdout, ask("is-active", "pulse").stdout) == ("enabled\n", "active\n")
    assert ask("mask", "other").returncode == 0
    assert "masked" in ask("start", "other").stderr
    assert ask("unmask", "other").returncode == 0

    # A service that fails at once, again and again, ends as failed with the reason.
    unit = "[Service]\nExecStart=/bin/false\nRestart=always\nRestartSec=10ms\n"
    (run.disk(0) / "etc/systemd/system/bad.service").write_text(unit)
    ask("start", "bad")
    pulserun.until(lambda: ask("is-failed", "bad").returncode == 0, 20, "systemd to give up")
    assert ask("show", "bad", "-p", "Result", "--value").stdout == "start-limit-hit\n"
    assert ask("reset-failed", "bad").returncode == 0
    assert ask("is-failed", "bad").returncode == 1

    # TimeoutStopSec: a process that will not go is killed, with all it started.
    stubborn = (
        "[Service]\nExecStart=/bin/bash -c \"trap '' TERM; sleep 4712 & wait; wait; sleep 4712\"\n"
        "TimeoutStopSec=1\nNice=-3\n"
    )
    (run.disk(0) / "etc/systemd/system/stubborn.service").write_text(stubborn)
    assert ask("start", "stubborn").returncode == 0
    pid = ask("show", "stubborn", "-p", "MainPID", "--value").stdout.strip()
    assert run.exec(0, "ps", "-o", "ni=", "-p", pid).strip() == "-3"
    assert ask("stop", "stubborn").returncode == 0
    assert "4712" not in run.exec(0, "ps", "axo", "args")


def test_a_boot_starts_what_is_enabled_and_nothing_else(run):
    run.deploy()
    folder = run.disk(0) / "etc/systemd/system"
    for name in ("enabled", "disabled"):
        text = "[Service]\nExecStart=/bin/sleep 4713\n[Install]\nWantedBy=multi-user.target\n"
        (folder / f"{name}.service").write_text(text)
    run.exec(0, "systemctl", "enable", "enabled")
    run.hold(0, "config-changed")  # Before the charm's own start hook does anything.

    run.client.call("reboot", unit="controller/0")
    run.wait_held(0)

    states = [run.client.exec("controller/0", ["systemctl", "is-active", n]).stdout for n in ("enabled", "disabled")]
    assert states == ["active\n", "inactive\n"]
    assert run.client.exec("controller/0", ["systemctl", "is-active", "pulse"]).stdout == "inactive\n"
    run.let_go(0)
    run.settle()
    assert run.client.exec("controller/0", ["systemctl", "is-active", "pulse"]).stdout == "active\n"


def test_the_machine_is_read_only_to_a_unit_and_its_own_folders_are_its_own(run):
    run.deploy(units=2)
    script = """
        for f in /root /usr/bin /boot /var/cache /var/lib/dpkg; do
            [ ! -d $f ] || ! touch $f/localjuju-probe 2>/dev/null || echo "$f is writable"
        done
        for f in /etc /usr/local/bin /opt /var/log /var/lib /run /tmp /var/tmp /dev/shm; do
            touch $f/localjuju-probe || echo "$f is not writable"
        done
        hostname
    """
    assert run.exec(0, "sh", "-c", script) == "juju-controller-0\n"

    places = ["/etc", "/usr/local/bin", "/opt", "/var/log", "/var/lib", "/run", "/tmp", "/var/tmp", "/dev/shm"]
    assert [p for p in places if Path(p, "localjuju-probe").exists()] == []
    assert run.client.exec("controller/1", ["sh", "-c", "ls /*/localjuju-probe /var/*/localjuju-probe"]).stdout == ""
    assert run.exec(0, "sh", "-c", "ps axo args | grep -c '[c]ontroller-1'; true") == "0\n"
    data = run.disk(0) / "var/lib/localjuju-probe"
    assert os.stat(data).st_dev == os.stat(run.client.home.path).st_dev, "data are on the home's disk: fsync is real"


def test_a_renamed_data_folder_is_an_ordinary_rename(run):
    run.deploy()

    run.exec(0, "sh", "-c", "mkdir /var/lib/ha-controller && mv /var/lib/ha-controller /var/lib/ha-controller.aside")

    assert (run.disk(0) / "var/lib/ha-controller.aside").is_dir()


def test_a_packed_charm_runs_its_own_dispatch_and_refresh_replaces_it(run, tmp_path):
    staged = tmp_path / "staged"
    charmfiles.stage(pulserun.CHARM, staged, 0)
    (staged / "dispatch").write_text((staged / "dispatch").read_text() + "# packed\n")
    packed = tmp_path / "pulse.charm"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(p for p in staged.rglob("*") if p.is_file() and "venv" not in p.parts):
            archive.write(path, path.relative_to(staged))
        link = zipfile.ZipInfo("venv")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, sys.prefix)

    run.client.call("deploy", path=str(packed), name="controller")
    run.settle()
    charm = run.disk(0) / "var/lib/juju/agents/unit-controller-0/charm"
    assert "# packed" in (charm / "dispatch").read_text()
    since = len(run.told(0))

    source = tmp_path / "source"
    shutil.copytree(pulserun.CHARM, source)
    (source / "version").write_text("2")
    run.client.call("refresh", app="controller", path=str(source))
    pulserun.until(lambda: "upgrade-charm" in run.told(0, since), 30, "upgrade-charm")
    run.settle()

    assert run.told(0, since) == ["upgrade-charm", "config-changed"]
    assert (charm / "version").read_text() == "2"


def test_a_project_below_tmp_works_though_units_have_a_tmp_of_their_own(tmp_path):
    # As somebody has it who clones into /tmp; on this machine pytest's folder usually is there, too.
    root = Path(charmfiles.__file__).parent.parent
    clone = tmp_path / "clone"
    shutil.copytree(root / "localjuju", clone / "localjuju", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(pulserun.CHARM, clone / "charm")
    (clone / "venv/bin").mkdir(parents=True)
    (clone / "venv/bin/python").symlink_to(Path(sys.executable).resolve())
    (clone / "venv/pyvenv.cfg").write_text(f"home = {Path(sys.executable).resolve().parent}\n")
    site = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    shutil.copytree(Path(sys.prefix, site, "yaml"), clone / "venv" / site / "yaml")
    for name in ("ops", "websocket", "opentelemetry", "importlib_metadata", "zipp", "typing_extensions.py"):
        found = Path(sys.prefix, site, name)
        if found.is_dir():
            shutil.copytree(found, clone / "venv" / site / name)
        elif found.exists():
            shutil.copy(found, clone / "venv" / site / name)
    program = (
        "from localjuju.client import Client\n"
        f"c = Client({str(tmp_path / 'home')!r})\n"
        "c.bootstrap()\n"
        "try:\n"
        f"    c.call('deploy', path={str(clone / 'charm')!r}, name='controller')\n"
        "    c.wait_settled(60)\n"
        "    print(c.units('controller')['controller/0']['workload-status']['current'])\n"
        "finally:\n"
        "    c.destroy()\n"
    )
    done = subprocess.run(
        [clone / "venv/bin/python", "-c", program],
        env={"PYTHONPATH": str(clone), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=110,
    )

    assert (done.stdout, done.returncode) == ("active\n", 0), done.stderr

"""agentd as a process: it says which machine it is, lives until it is told to stop, and starts nowhere else."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from localjuju import unitfile

from controller.workers import agentfiles, machines

LIB = Path(__file__).parents[3] / "lib"
ABOUT = {"schema": 1, "uuid": "0b64", "number": 7, "model": "5e1f"}


def agentd(folder: Path, paths: Path = LIB) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "controller.agentd", "--state-dir", str(folder)],
        env={**os.environ, "PYTHONPATH": str(paths)},
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    )


def until_there(path: Path, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.02)


def test_it_identifies_itself_and_ends_when_told_to(tmp_path: Path):
    (tmp_path / "machine.json").write_text(json.dumps(ABOUT | {"from-the-future": 1}))

    process = agentd(tmp_path)
    until_there(tmp_path / "agentd.json")
    told = json.loads((tmp_path / "agentd.json").read_text())
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=20)

    assert (told["uuid"], told["hostname"], told["pid"]) == ("0b64", socket.gethostname(), process.pid)
    assert process.returncode == 0
    assert "machine 7 of model 5e1f (0b64)" in log
    assert (tmp_path / "agentd.json").stat().st_mode & 0o777 == 0o600


def test_without_knowing_which_machine_it_is_it_does_not_run(tmp_path: Path):
    for content, reason in (
        (None, "No such file"),
        ("{", "machine.json"),
        (json.dumps(ABOUT | {"schema": 2}), "newer"),
    ):
        if content is not None:
            (tmp_path / "machine.json").write_text(content)
        process = agentd(tmp_path)
        _, log = process.communicate(timeout=20)

        assert process.returncode == 1
        assert reason in log
        assert not (tmp_path / "agentd.json").exists()


def test_what_a_new_machine_gets_is_all_that_an_agent_needs(tmp_path: Path):
    machine = machines.new("0b64", 7)

    spec = agentfiles.spec(machine, "5e1f", "/var/lib/cloud/python3")

    files = {file.path: file.text for file in spec.files}
    assert json.loads(files["/var/lib/ha-agent/machine.json"]) == ABOUT
    service = unitfile.parse(agentfiles.SERVICE, files["/etc/systemd/system/ha-agentd.service"])
    assert service.start[0].argv[0] == "/var/lib/cloud/python3"
    assert (service.restart, service.wanted_by, spec.services) == ("always", ("multi-user.target",), (service.name,))
    (archive,) = spec.archives
    assert service.environment["PYTHONPATH"] == archive.folder
    assert len(archive.content) < 1 << 20
    with tarfile.open(fileobj=io.BytesIO(archive.content)) as packed:
        packed.extractall(tmp_path / "lib")
    (tmp_path / "machine.json").write_text(files["/var/lib/ha-agent/machine.json"])
    process = agentd(tmp_path, tmp_path / "lib")
    until_there(tmp_path / "agentd.json")
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 0

"""The demo, stopped in the middle: nothing of it is left, whoever stopped it."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A demo whose run lives below tmp_path, told to a pipe."""
    process = subprocess.Popen(
        # Whoever runs the tests in the background ignores the signal, and so would all that is started here.
        ["env", "--default-signal=INT", sys.executable, "-m", "demo", "--json", str(tmp_path / "out.json")],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    yield process
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def read_until(demo: subprocess.Popen[str], wanted: str, seconds: float) -> str:
    assert demo.stdout is not None
    told = ""
    deadline = time.monotonic() + seconds
    while not re.search(wanted, told):
        readable, _, _ = select.select([demo.stdout], [], [], max(0.0, deadline - time.monotonic()))
        line = demo.stdout.readline() if readable else ""
        assert line, f"the demo did not get to {wanted!r}:\n{told}"
        told += line
    return told


def remains(folder: Path) -> list[str]:
    """Processes and mounts that name the folder, and what is in it but the demo's own result."""
    found = [f"file {path.name}" for path in folder.iterdir() if path.name != "out.json"]
    found += [
        f"mount {line.split()[1]}" for line in Path("/proc/mounts").read_text().splitlines() if str(folder) in line
    ]
    for pid in (int(name) for name in os.listdir("/proc") if name.isdecimal()):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in command:
            found.append(f"process {pid}: {command}")
    return found


def until_nothing_remains(folder: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while left := remains(folder):
        assert time.monotonic() < deadline, f"left behind: {left}"
        select.select([], [], [], 0.05)


def test_something_is_there_while_it_runs_and_nothing_after_sigint(demo: subprocess.Popen[str], tmp_path: Path):
    read_until(demo, r"ok .*a lone unit is active", 120)
    assert len(remains(tmp_path)) > 3, "the test looks in the wrong place"

    demo.send_signal(signal.SIGINT)

    assert demo.wait(timeout=60) == 130
    until_nothing_remains(tmp_path, 1)
    assert '"ok": false' in (tmp_path / "out.json").read_text()


@pytest.mark.parametrize("seconds", [0.3, 1.5, 4.0])
def test_nothing_remains_after_sigkill_at_any_moment(demo: subprocess.Popen[str], tmp_path: Path, seconds: float):
    read_until(demo, "bootstrap", 30)
    select.select([], [], [], seconds)

    demo.kill()

    demo.wait()
    until_nothing_remains(tmp_path, 20)

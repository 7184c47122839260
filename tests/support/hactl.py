"""hactl as a person runs it: a process of its own, beside a controller of a loopback cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

LIB = Path(__file__).parents[2] / "lib"


def start(state_dir: Path, *words: str) -> subprocess.Popen[str]:
    """Begin `hactl WORDS` on the controller of this state directory."""
    return subprocess.Popen(
        [sys.executable, "-m", "controller.cli", "--state-dir", str(state_dir), *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(LIB)},
    )


def finish(process: subprocess.Popen[str], timeout_seconds: float = 150) -> subprocess.CompletedProcess[str]:
    """Return what it came to."""
    out, err = process.communicate(timeout=timeout_seconds)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def run(state_dir: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return finish(start(state_dir, *words))


def ask(state_dir: Path, *words: str) -> Any:
    """Return the JSON that it prints. Fails unless it exits with 0."""
    done = run(state_dir, *words, "--format", "json")
    assert done.returncode == 0, done
    return json.loads(done.stdout)

"""agentd as a process, and what it shows."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

LIB = Path(__file__).parents[2] / "lib"


def until(ask: Callable[[], Any], what: str, seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := ask()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)
    return found


class Agentd:
    """The process. `around`: the beginning of a command line that runs it elsewhere, as in a run of localjuju."""

    def __init__(self, conf: Path, around: Sequence[str] = ()) -> None:
        self.conf = conf
        self.environment = {**os.environ, "PYTHONPATH": str(LIB)}
        self.process = subprocess.Popen(
            [*around, sys.executable, "-m", "controller.agentd", "--agent-conf", str(conf)], env=self.environment
        )

    def __enter__(self) -> Agentd:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def status(self) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "controller.agentd", "--agent-conf", str(self.conf), "--status"]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=30)

    def state(self) -> dict[str, Any]:
        with contextlib.suppress(FileNotFoundError):
            found: dict[str, Any] = json.loads(self.conf.with_name("agentd-state.json").read_text())
            return found
        return {"caller": {"connected": False}}

    def controller(self) -> str:
        return str(self.state()["caller"].get("controller-id", ""))

"""Those who only visit: agents and a client, as programs of their own in the run's network, and none of them a unit.

An agent is agentd over an agent.conf of its own, a client is hactl with a store of its own. What they are connected to
is read from what they themselves say.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_LIB = Path(__file__).parents[1] / "lib"
_COMMAND_SECONDS = 60.0


class Visitors:
    """Its processes live until `end`. `inside`: the command line that runs another one in the run's namespaces."""

    def __init__(self, folder: Path, inside: Callable[[Sequence[str]], list[str]]) -> None:
        self._folder = folder
        self._inside = inside
        self._agents: list[tuple[Path, subprocess.Popen[bytes]]] = []
        self._environment = {**os.environ, "PYTHONPATH": str(_LIB), "HA_CONTROLLER_DATA": str(folder / "client")}

    def add_agent(self, agent_conf: str) -> None:
        """Start the agent that this file enrols."""
        home = self._folder / f"agent-{len(self._agents)}"
        home.mkdir(parents=True, mode=0o700)
        conf = home / "agent.conf"
        conf.touch(mode=0o600)
        conf.write_text(agent_conf)
        command = self._inside(
            [sys.executable, "-m", "controller.agentd", "--log-level", "error", "--agent-conf", str(conf)]
        )
        self._agents.append((home, subprocess.Popen(command, env=self._environment, start_new_session=True)))

    def agents(self) -> list[tuple[str, int]]:
        """Return of each agent the controller it is connected to, "" for none, and which of its connections that is."""
        return [_connection(home / "agentd-state.json") for home, _ in self._agents]

    def register(self, text: str, password: str) -> str:
        """Let the client register. Return "" or what it said instead."""
        done = self._hactl(["register", "--name", "demo"], f"{text.strip()}\n{password}\n")
        return "" if done.returncode == 0 else done.stderr.strip()

    def client(self) -> str:
        """Let the client log in, and return the controller that let it in, "" for none."""
        done = self._hactl(["show-controller", "--format", "json"])
        return str(json.loads(done.stdout)["controller-id"]) if done.returncode == 0 else ""

    def end(self) -> None:
        """End all agents."""
        for _, process in self._agents:
            process.kill()
            process.wait()
        self._agents.clear()

    def _hactl(self, words: Sequence[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._inside([sys.executable, "-m", "controller.cli", *words]),
            input=stdin,
            capture_output=True,
            text=True,
            env=self._environment,
            timeout=_COMMAND_SECONDS,
            check=False,
        )


def _connection(path: Path) -> tuple[str, int]:
    try:
        told: dict[str, Any] = json.loads(path.read_bytes())["caller"]
    except (OSError, ValueError):
        return "", 0
    return str(told.get("controller-id", "")), int(told["connections"])

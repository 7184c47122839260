"""Somebody at a machine of her own, who can reach the units of a localjuju run: hactl with a data folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from localjuju.client import Client

LIB = Path(__file__).parents[2] / "lib"


class Outsider:
    """She is in the run's own namespace: no unit, no controller beside her, and no root's files of theirs."""

    def __init__(self, client: Client, data: Path) -> None:
        self._client = client
        self._environment = {**os.environ, "PYTHONPATH": str(LIB), "HA_CONTROLLER_DATA": str(data)}

    def hactl(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run `hactl WORDS` to its end."""
        return self._run([sys.executable, "-m", "controller.cli", *words], stdin)

    def ask(self, *words: str) -> Any:
        """Return the JSON that hactl prints. Fails unless it exits with 0."""
        done = self.hactl(*words, "--format", "json")
        assert done.returncode == 0, done
        return json.loads(done.stdout)

    def call(self, facade: str, version: int, method: str, params: dict[str, Any]) -> str:
        """Call a method of the API as the user who is logged in. Return "", or how it was refused."""
        code = (
            "import asyncio, json, sys\n"
            "from controller.api.client.client import Client\n"
            "from controller.api.client.store import Store, default_directory\n"
            "from controller.api.messages import RPCError\n"
            "async def main(facade, version, method, params):\n"
            "    async with await Client.connect(Store(default_directory())) as client:\n"
            "        try:\n"
            "            await client.call(facade, int(version), method, json.loads(params), dict)\n"
            "        except RPCError as error:\n"
            "            print(error)\n"
            "asyncio.run(main(*sys.argv[1:]))\n"
        )
        done = self._run([sys.executable, "-c", code, facade, str(version), method, json.dumps(params)])
        assert done.returncode == 0, done
        return done.stdout.strip()

    def _run(self, argv: list[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._client.inside(argv),
            input=stdin,
            capture_output=True,
            text=True,
            env=self._environment,
            timeout=60,
            check=False,
        )

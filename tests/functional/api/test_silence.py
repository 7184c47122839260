"""A controller whose address is taken away says no goodbye, and nobody sends an error for it: the kernel notices."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PATHS = [ROOT / "lib", ROOT / "src", ROOT / "tests" / "support"]

# Pings come far too late here, so that they cannot be what notices.
STORY = """
import asyncio, contextlib, subprocess, sys, time
from pathlib import Path
from apiserver import Served
from controller.api.connection import Over

def ip(*words):
    subprocess.run(["ip", *words, "dev", "lo"], check=True)

async def play(folder, asks):
    ip("address", "add", "10.99.0.2/32")
    served = Served(Path(folder), host="10.99.0.2")
    await served.start()
    connection = await served.connect(ping_seconds=300)
    ip("address", "del", "10.99.0.2/32")
    began = time.monotonic()
    if asks:
        with contextlib.suppress(Over):
            await connection.call("Admin", 3, "Login", deadline_seconds=60)
    await asyncio.wait_for(connection.until_over(), 60)
    print(f"over after {time.monotonic() - began:.1f} s")

asyncio.run(play(sys.argv[1], sys.argv[2] == "asks"))
"""


@pytest.mark.parametrize("how", ["asks", "idle"])
def test_a_controller_that_is_cut_off_is_noticed_long_before_a_ping(tmp_path: Path, how: str):
    line = f'ip link set lo up && exec "{sys.executable}" - "{tmp_path}" {how}'
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", line],
        input=STORY,
        env={**os.environ, "PYTHONPATH": ":".join(map(str, PATHS))},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("over after"), done.stdout
    print(done.stdout)

"""All disks lose what was not synced, at one moment, under clients: nothing acknowledged is among it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from faultrun.clients import PATHS

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@pytest.mark.timeout(240)
def test_a_power_cut_of_all_disks_loses_nothing_acknowledged(tmp_path: Path):
    # The mounts live in a namespace of their own, and end with it whatever happens here.
    done = subprocess.run(
        [
            *("unshare", "--mount", "--propagation", "private", "--kill-child", "--fork"),
            *(sys.executable, "-m", "faultrun.powerloss", str(tmp_path), "1", "3"),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, PATHS))},
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
    )

    assert done.returncode == 0, f"history in {tmp_path}\n{done.stdout}\n{done.stderr[-3000:]}"

"""The holder's host is cut off by DROP, both ways or one, from the hosts of all other controllers.

In a network of the test's own, with two wall clocks an hour off in opposite directions: tests/support/leasecuts.py
tells how it is judged. `-m long` has all other faults as well.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

STORY = Path(__file__).parents[2] / "support" / "leasecuts.py"
WAYS = ("both", "out", "in")
# The last one is for good.
OTHERS = ("pause", "kill", "leader", "restart", "both", "remove")
# What is asked of a lease of two seconds is asked of any: the bound is one second over it.
TWO = {"controllers": 3, "managers": 2, "keys": 4, "seconds": 2.0, "faults": WAYS}
FIVE = {"controllers": 5, "managers": 5, "keys": 4, "seconds": 2.0, "faults": WAYS}


def play(folder: Path, plan: dict[str, Any]) -> None:
    command = ["unshare", "--net", sys.executable, str(STORY), str(folder), json.dumps(plan)]

    done = subprocess.run(command, capture_output=True, text=True, timeout=800, check=False)

    print(done.stdout)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["told"]), done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("plan", [TWO, FIVE], ids=["two managers", "five managers"])
def test_one_acts_at_a_time_and_another_soon_when_the_holder_is_cut_off(tmp_path: Path, plan: dict[str, Any]):
    play(tmp_path, plan)


@pytest.mark.long
@pytest.mark.timeout(850)
@pytest.mark.parametrize("seconds", [2.0, 5.0, 15.0])
@pytest.mark.parametrize("plan", [TWO, FIVE], ids=["two managers", "five managers"])
def test_the_same_at_every_duration_under_every_fault(tmp_path: Path, plan: dict[str, Any], seconds: float):
    play(tmp_path, {**plan, "seconds": seconds, "faults": [*WAYS, *OTHERS]})

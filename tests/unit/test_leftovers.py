"""tests/functional/conftest.py: what a failed test leaves open is not found in the next."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FUNCTIONAL = Path(__file__).parents[1] / "functional"
TESTS = """
import gc, pytest, socket

def test_that_fails():
    left_open = socket.socket()
    {failure}

def test_after_it():
    gc.collect()
"""


@pytest.mark.parametrize(("freed", "outcome"), [(True, "1 failed, 1 passed"), (False, "2 failed")])
# pytest treats its own failures and other people's exceptions differently.
@pytest.mark.parametrize("failure", ["assert False", "pytest.fail('on its own word')"])
def test_a_failed_test_is_blamed_alone(tmp_path: Path, failure: str, freed: bool, outcome: str):
    (tmp_path / "test_two.py").write_text(TESTS.format(failure=failure))
    if freed:
        shutil.copy(FUNCTIONAL / "conftest.py", tmp_path)

    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-c", "/dev/null", "--rootdir", str(tmp_path)]
    ran = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, timeout=60, cwd=tmp_path)

    assert outcome in ran.stdout, ran.stdout + ran.stderr

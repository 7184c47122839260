"""Every script can be asked what it does, is executable and is valid shell."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# With a suffix it is a module that one of them runs.
SCRIPTS = sorted(path for path in (ROOT / "scripts").iterdir() if path.is_file() and not path.suffix)


def test_the_two_commands_of_the_readme_are_there():
    assert {"demo", "test", "setup", "localjuju"} <= {path.name for path in SCRIPTS}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_help_says_what_it_does_from_any_folder(script: Path, tmp_path: Path):
    done = subprocess.run(
        [script, "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
    )

    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", [*SCRIPTS, ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_scripts_are_executable_and_parse(script: Path):
    assert os.access(script, os.X_OK)
    if script.read_text().startswith("#!/usr/bin/env bash"):
        subprocess.run(["bash", "-n", script], check=True, timeout=10)


def test_demo_and_setup_refuse_what_they_do_not_know():
    for script in ("setup", "demo"):
        done = subprocess.run(
            [ROOT / "scripts" / script, "--no-such-option"], capture_output=True, timeout=60, check=False
        )
        assert done.returncode == 2

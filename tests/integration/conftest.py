"""What the two backends share: the charm to deploy, and honesty about what cannot run here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What the programs under test find by themselves, and what the other tests share.
sys.path[:0] = [str(ROOT / folder) for folder in ("lib", "src", "tests/support")]

_failed: dict[str, str] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without a Juju, ops_test would be an error; here it is a skip with its reason."""
    why = _no_juju()
    for item in items:
        if why and "ops_test" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.skip(reason=why))


def _no_juju() -> str | None:
    for program in ("juju", "charmcraft"):
        if shutil.which(program) is None:
            return f"no {program} on PATH: this needs a real Juju 3.6 controller (LXD) and charmcraft"
    try:
        asked = subprocess.run(["juju", "whoami"], capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return "`juju whoami` does not answer: no Juju controller can be reached"
    return None if asked.returncode == 0 else f"no Juju controller: {asked.stderr.strip()}"


# The steps build on each other: after a failed one the rest of its module would only fail for the same reason.


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item):  # type: ignore[no-untyped-def]  # A generator of pluggy's.
    report = (yield).get_result()
    if report.failed:
        _failed.setdefault(str(item.path), item.name)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if first := _failed.get(str(item.path)):
        pytest.skip(f"{first} failed before")


@pytest.fixture(scope="session")
def charm_file() -> Path:
    """The packed charm: CHARM_PATH, or what scripts/pack makes now."""
    if given := os.environ.get("CHARM_PATH"):
        return Path(given).absolute()
    packed = subprocess.run([ROOT / "scripts" / "pack"], check=True, stdout=subprocess.PIPE, text=True).stdout
    return Path(packed.strip().splitlines()[-1])

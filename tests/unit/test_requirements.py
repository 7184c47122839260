"""The frozen requirements: exact, complete for the ranges of pyproject.toml, and without anybody's address."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
FILES = ["requirements.txt", "requirements-dev.txt", "requirements-integration.txt"]


def lines(name: str) -> list[str]:
    text = (ROOT / name).read_text().splitlines()
    return [line.strip() for line in text if line.strip() and not line.startswith("#")]


def pins(name: str) -> dict[str, str]:
    """Distribution (normalized) -> exact version."""
    found = {}
    for line in lines(name):
        if not line.startswith("-r "):
            distribution, _, version = line.partition("==")
            found[re.sub(r"[-_.]+", "-", distribution).lower()] = version
    return found


@pytest.mark.parametrize("name", FILES)
def test_every_requirement_is_one_exact_version(name: str):
    odd = [line for line in lines(name) if not re.fullmatch(r"-r requirements\.txt|[\w.-]+==[\w.]+", line)]

    assert odd == []


def test_what_the_package_asks_for_is_frozen_within_its_range():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    frozen = pins("requirements.txt")

    for text in wanted:
        requirement = Requirement(text)
        assert requirement.specifier.contains(frozen[requirement.name]), text


@pytest.mark.parametrize("name", FILES[1:])
def test_the_test_environments_add_to_the_runtime_and_change_nothing_in_it(name: str):
    assert lines(name)[0] == "-r requirements.txt"
    assert pins("requirements.txt").keys() & pins(name).keys() == set()


def test_pytest_operator_and_what_it_breaks_stay_apart():
    assert "pytest-operator" not in pins("requirements-dev.txt")
    assert "pytest-asyncio" not in pins("requirements-dev.txt")
    assert tuple(map(int, pins("requirements-integration.txt")["pytest"].split(".")[:2])) < (9, 2)

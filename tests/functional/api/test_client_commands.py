"""hactl as a person uses it from another machine: register, log in and out, look, and find the controllers again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from loopback import LIB, Cluster

PORT = 17070


class Person:
    """Somebody with a store of her own, and no controller's state directory."""

    def __init__(self, data: Path) -> None:
        self.data = data

    def run(self, *words: str, types: str = "") -> subprocess.CompletedProcess[str]:
        """Run hactl; `types` is what stands on its stdin."""
        return subprocess.run(
            [sys.executable, "-m", "controller.cli", *words],
            input=types,
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": str(LIB), "HA_CONTROLLER_DATA": str(self.data)},
            check=False,
        )

    def says(self, *words: str, types: str = "") -> str:
        done = self.run(*words, types=types)
        assert done.returncode == 0, done
        return done.stdout

    def fails(self, code: int, *words: str, types: str = "") -> str:
        done = self.run(*words, types=types)
        assert done.returncode == code, done
        assert "Traceback" not in done.stderr
        return done.stderr

    def known(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = yaml.safe_load((self.data / "controllers.yaml").read_text())["controllers"][name]
        return found


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path / "cluster", 87, tls=True) as made:
        made.form(3)
        made.wait(lambda: all(_listens(made, n) for n in range(3)), "the API is served")
        yield made


def _listens(cluster: Cluster, n: int) -> bool:
    report = cluster.request(n, "GET", "/report")[1]["manifolds"]["api-server"].get("report") or {}
    return bool(report.get("listening"))


def registration(cluster: Cluster, n: int, *words: str) -> subprocess.CompletedProcess[str]:
    """`hactl registration` on a controller's machine."""
    return subprocess.run(
        [sys.executable, "-m", "controller.cli", "--state-dir", str(cluster.state_dir(n)), "registration", *words],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(LIB)},
        check=False,
    )


def test_a_person_registers_logs_in_and_out_and_finds_the_controllers_when_one_is_lost(
    cluster: Cluster, tmp_path: Path
):
    made = registration(cluster, 0)
    assert made.returncode == 0, made
    assert made.stdout.startswith("hac1_")
    assert "24 hours" in made.stderr
    person = Person(tmp_path / "person")

    assert "hactl register" in person.run("controllers").stderr
    assert "there is no new password on stdin" in person.fails(2, "register", made.stdout)
    assert "copy it again" in person.fails(1, "register", made.stdout.strip()[:-8], types="pw\n")
    out = person.says("register", "--name", "prod", types=f"{made.stdout.strip()}\nfirst\n")
    assert "logged in to prod" in out
    assert "not open" in person.fails(1, "register", made.stdout, "--name", "prod", types="other\n")

    listed = person.says("controllers").splitlines()
    assert listed[0].split() == ["CONTROLLER", "USER", "LAST", "GOOD", "ADDRESS", "ADDRESSES"]
    assert listed[1].split()[0:2] == ["prod*", "admin"]
    first = person.known("prod")["api-endpoints"][0]
    shown = json.loads(person.says("show-controller", "--format", "json"))
    assert shown["connected-to"] == first
    assert shown["access"] == "superuser"
    assert len(shown["servers"]) == 3
    assert "first" not in json.dumps(shown)
    assert f"connected-to: {first}" in person.says("show-controller", "prod")

    assert "3 voters" in person.says("status", "--controller", "prod")
    told = json.loads(person.says("--state-dir", str(tmp_path / "none"), "status", "--format", "json"))
    assert told["cluster"]["health"] == "healthy"

    lost = next(n for n in range(3) if f"{cluster.address(n)}:{PORT}" == first)
    cluster.kill(lost)
    shown = json.loads(person.says("show-controller", "--format", "json"))
    assert shown["connected-to"] != first
    assert person.known("prod")["api-endpoints"][0] == shown["connected-to"]

    assert "logged out" in person.says("logout")
    assert "hactl login" in person.fails(1, "show-controller")
    assert json.loads(person.says("show-controller", "--no-ask", "--format", "json"))["user"] == ""
    assert "does not let admin in" in person.fails(1, "login", types="wrong\n")
    assert "hactl login" in person.fails(1, "show-controller")
    assert "does not let nobody in" in person.fails(1, "login", "--user", "nobody", types="first\n")
    assert person.says("login", "prod", types="first\n") == "admin is logged in to prod\n"
    person.says("show-controller")

    cluster.kill(*(n for n in range(3) if n != lost))
    said = person.fails(5, "show-controller")
    for n in range(3):
        assert f"{cluster.address(n)}:{PORT}: connection refused" in said


def test_what_cannot_be_done_is_said_with_what_would_help(cluster: Cluster, tmp_path: Path):
    person = Person(tmp_path / "person")

    assert "there are: admin" in registration(cluster, 1, "nobody").stderr
    assert "hactl register one" in person.fails(1, "show-controller")
    assert "there are: none" in person.fails(1, "switch", "prod")
    assert "begins with" in person.fails(1, "register", "hello", types="pw\n")
    person.says("register", registration(cluster, 2).stdout, "--name", "one", types="pw\n")
    again = registration(cluster, 2).stdout
    assert "known here as one" in person.fails(1, "register", again, "--name", "two", types="pw\n")
    assert "no name" in person.fails(1, "register", again, "--name", "../two", types="pw\n")
    assert person.says("switch", "one") == "one\n"
    # None of these has used the string up.
    assert "logged in to one" in person.says("register", again, "--name", "one", types="pw\n")

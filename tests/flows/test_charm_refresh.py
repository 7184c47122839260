"""The real charm's units get new code at the same moment, and restart one by one."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from localjuju import charmfiles
from localjuju.client import Client

ROOT = Path(__file__).parents[2]
APP = "controller"
UNITS = [f"{APP}/{n}" for n in range(3)]
# Prints, at each change, the time (one clock for all hosts) and which process answers on control.socket; 0: none, or
# one that `systemctl restart` is stopping, which answers until it has handed over.
WATCH = """
import glob, socket, struct, time

def restarting():
    for name in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(name, "rb") as file:
                if b"restart" in file.read().split(b"\\0"):
                    return True
        except OSError:
            pass
    return False

last = None
while True:
    with socket.socket(socket.AF_UNIX) as s:
        try:
            s.settimeout(1)
            s.connect("/var/lib/ha-controller/control.socket")
            s.sendall(b"GET /status HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
            answer = s.recv(20)
            pid = struct.unpack("3i", s.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0] if answer else 0
        except OSError:
            pid = 0
    if restarting():
        pid = 0
    if pid != last:
        print(time.monotonic(), pid, flush=True)
        last = pid
    time.sleep(0.02)
"""


@contextmanager
def watched(client: Client, folder: Path) -> Iterator[dict[str, Path]]:
    """Watch every unit's controllerd, each into a file of its own."""
    files = {unit: folder / f"{unit.replace('/', '-')}.seen" for unit in UNITS}
    watchers = []
    try:
        for unit, file in files.items():
            with file.open("w") as out:
                watchers.append(subprocess.Popen(client.on_unit(unit, ["python3", "-c", WATCH]), stdout=out))
        client.wait(lambda _: all(seen(file) for file in files.values()), 20, "the watchers' first words")
        yield files
    finally:
        for watcher in watchers:
            watcher.kill()
            watcher.wait(10)


def seen(file: Path) -> list[tuple[float, int]]:
    """The changes, oldest first; a line that is still being written is left out."""
    lines = (line.split() for line in file.read_text().splitlines(keepends=True) if line.endswith("\n"))
    return [(float(at), int(pid)) for at, pid in lines]


def absences(changes: list[tuple[float, int]]) -> list[tuple[float, float]]:
    """The intervals in which nobody answered; the last one has no end when nobody does."""
    ends = [at for at, _ in changes[1:]] + [float("inf")]
    return [(at, end) for (at, pid), end in zip(changes, ends, strict=True) if pid == 0]


def bag(client: Client, unit: str) -> dict[str, str]:
    shown: dict[str, Any] = client.call("show-unit", unit=unit)[unit]
    (relation,) = shown["relation-info"]
    data: dict[str, str] = relation["local-unit"]["data"]
    return data


def all_serve(client: Client, status: dict[str, Any], code: str | None = None) -> bool:
    """Whether three voters serve with the code that they have, which is not `code`, and every unit is active."""
    app = status["applications"][APP]
    if not all(unit["workload-status"]["current"] == "active" for unit in app["units"].values()):
        return False
    bags = [bag(client, unit) for unit in UNITS]
    same = {(b.get("code"), b.get("serves-with")) for b in bags} == {(bags[0].get("code"), bags[0].get("code"))}
    return same and bags[0].get("code") != code and "3 voters" in app["application-status"]["message"]


def version(folder: Path, last_line: str) -> Path:
    """Make a charm of another version: this one, with a line more in a module that controllerd begins with."""
    charmfiles.stage(ROOT, folder, 0)
    module = folder / "lib" / "controller" / "manifolds.py"
    module.write_text(f"{module.read_text()}\n{last_line}")
    return folder


def message(status: dict[str, Any], unit: str) -> str:
    text: str = status["applications"][APP]["units"][unit]["workload-status"]["message"]
    return text


def deployed(client: Client) -> str:
    """Deploy three units; return the digest of the code that they serve with."""
    client.call("deploy", path=str(ROOT), name=APP, units=3)
    client.wait(lambda status: all_serve(client, status), 120, "three voters")
    client.wait_settled(60)
    return bag(client, UNITS[0])["code"]


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_three_units_that_are_refreshed_restart_one_by_one(client: Client, tmp_path: Path):
    old = deployed(client)
    new = version(tmp_path / "new", "# Another version.\n")

    with watched(client, tmp_path) as files:
        client.call("refresh", app=APP, path=str(new))
        client.wait(lambda status: all_serve(client, status, old), 180, "all to serve with the new code")
        client.wait_settled(60)
        changes = {unit: seen(file) for unit, file in files.items()}

    for unit in UNITS:
        before, after = changes[unit][0][1], changes[unit][-1][1]
        assert before and after and before != after, changes
        assert len({pid for _, pid in changes[unit]} - {0}) == 2, "one restart each"
    for one, other in combinations(UNITS, 2):
        together = [
            (a, b)
            for a in absences(changes[one])
            for b in absences(changes[other])
            if max(a[0], b[0]) < min(a[1], b[1])
        ]
        assert together == [], f"{one} and {other} were down at the same time"


@pytest.mark.long
@pytest.mark.timeout(280)
def test_a_version_that_does_not_start_takes_one_unit_down_and_the_next_one_heals_it(client: Client, tmp_path: Path):
    old = deployed(client)

    with watched(client, tmp_path) as files:
        client.call("refresh", app=APP, path=str(version(tmp_path / "broken", "raise SystemExit(1)\n")))
        waiting = f"restart after refresh: {UNITS[0]} first"
        client.wait(
            lambda status: all(message(status, unit) == waiting for unit in UNITS[1:]), 60, "the others to wait"
        )
        client.wait(lambda _: len(seen(files[UNITS[0]])) > 1, 30, "the first one to be down")
        for unit in UNITS[1:]:
            client.call("update-status", unit=unit)
        client.wait(lambda _: not set(UNITS[1:]) & set(client.call("busy")), 60, "hooks that are no reason to restart")
        assert [len(seen(files[unit])) for unit in UNITS[1:]] == [1, 1], "the others run on"
        assert message(client.status(), UNITS[1]) == waiting

        client.call("refresh", app=APP, path=str(version(tmp_path / "good", "# It starts.\n")))
        client.wait(lambda status: all_serve(client, status, old), 120, "all to serve with the code that starts")

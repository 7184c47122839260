"""controller.cli: hactl against a real unix socket that answers as controllerd does."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dbaccessor import confsocket

STATUS: dict[str, Any] = {
    "schema": 1,
    "controller-id": "0",
    "version": "0.1.0",
    "dqlite-version": "1.18.7",
    "dqlite-proven": True,
    "state": "serving",
    "reason": "",
    "since": "2026-11-22T10:00:00Z",
    "cluster": {
        "uuid": "8d0e",
        "epoch": {"number": 1, "tag": "9f"},
        "leader": "0",
        "health": "healthy",
        "ha": False,
        "may-lose": 0,
        "members": [],
    },
    "from-the-future": {"kept": True},
}


@pytest.fixture
def state_dir() -> Iterator[Path]:
    # Not tmp_path: a unix socket's path must fit in 108 bytes, and pytest's folders may not.
    with tempfile.TemporaryDirectory(prefix="hactl-") as folder:
        yield Path(folder)


@contextlib.contextmanager
def controllerd(state_dir: Path, body: bytes, code: int = 200) -> Iterator[list[str]]:
    """Answer every GET on control.socket with `body`; yield the list of targets that were asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def address_string(self) -> str:
            return "unix"

        def log_message(self, format: str, *args: object) -> None:
            pass

    with socketserver.ThreadingUnixStreamServer(str(state_dir / "control.socket"), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        try:
            yield asked
        finally:
            server.shutdown()


def hactl(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "controller.cli", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=os.environ | {"PYTHONPATH": "lib", "COLUMNS": "40"},
        cwd=Path(__file__).parents[3],
    )


def status_document(**changes: Any) -> bytes:
    return json.dumps(STATUS | changes).encode()


def with_health(health: str) -> bytes:
    return status_document(cluster=STATUS["cluster"] | {"health": health})


def test_status_asks_control_socket_once_and_prints_whole_lines(state_dir: Path):
    with controllerd(state_dir, status_document()) as asked:
        done = hactl("--state-dir", state_dir, "status")

    assert (done.returncode, done.stderr) == (0, "")
    assert asked == ["/status"]
    assert "cluster healthy, leader: controller 0, not HA: may lose 0 of 0 voters" in done.stdout
    assert "\x1b" not in done.stdout


def test_json_is_what_the_daemon_said_unknown_keys_included(state_dir: Path):
    with controllerd(state_dir, status_document()):
        done = hactl("--state-dir", state_dir, "status", "--format", "json")

    assert json.loads(done.stdout) == STATUS


@pytest.mark.parametrize(("health", "code"), [("degraded", 3), ("no-quorum", 4)])
def test_exit_code_tells_a_script_what_the_text_tells_a_person(state_dir: Path, health: str, code: int):
    with controllerd(state_dir, with_health(health)):
        assert hactl("--state-dir", state_dir, "status").returncode == code
        assert hactl("--state-dir", state_dir, "status", "--format", "json").returncode == code


def test_no_daemon_is_exit_5_and_names_the_socket(state_dir: Path):
    done = hactl("--state-dir", state_dir, "status")

    assert done.returncode == 5
    assert str(state_dir / "control.socket") in done.stderr
    assert done.stdout == ""


def test_a_backup_that_breaks_off_names_the_log_that_says_why(state_dir: Path):
    def parts() -> Iterator[bytes]:
        yield b"half"
        raise ValueError("as told")

    routes = {("POST", "/backup"): lambda _: (200, "application/x-tar", parts())}
    with confsocket.Server(state_dir / "control.socket", routes):
        done = hactl("--state-dir", state_dir, "backup", state_dir / "b.tar")

    assert done.returncode == 5
    assert "journalctl -u ha-controller may say why" in done.stderr
    assert "is the service running" not in done.stderr


@pytest.mark.parametrize(("body", "code"), [(b"not json", 200), (b"no such request", 404)])
def test_an_answer_that_is_no_status_is_exit_1(state_dir: Path, body: bytes, code: int):
    with controllerd(state_dir, body, code):
        done = hactl("--state-dir", state_dir, "status")

    assert done.returncode == 1
    assert done.stderr.startswith("hactl: controllerd answered")


def test_usage_errors_are_exit_2(state_dir: Path):
    assert hactl("status", "--format", "xml").returncode == 2
    assert hactl("no-such-verb").returncode == 2

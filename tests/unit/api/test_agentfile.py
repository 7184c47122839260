"""agent.conf, the file: never torn, never empty, never two writers, never rewritten for nothing."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from controller.api.agent import agentconf
from controller.api.agent.agentconf import BadAgentConf, NewerFormat, WouldStrand
from controller.api.agent.agentfile import AgentConfFile, Locked, Unreadable
from controller.api.scopes import HostPort

ROOT = Path(__file__).parents[3]
A, B = HostPort("10.0.0.1", 17070), HostPort("10.0.0.2", 17070)
TEXT = "# format 2.0\ntag: machine-0\nfuture: x\napiaddresses:\n- 10.0.0.1:17070\napipassword: secret\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "agent.conf"
    path.write_text(TEXT)
    path.chmod(0o600)
    return path


def names(path: Path) -> set[str]:
    return {entry.name for entry in path.parent.iterdir()}


def test_a_change_is_written_whole_and_for_its_owner_only(path: Path):
    conf, written = AgentConfFile(path).update(lambda c: agentconf.with_servers(c, [(A,), (B,)]))

    assert written
    assert path.read_text() == conf.text
    assert conf.apiaddresses == (A, B)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.with_name("agent.conf.lock").stat().st_mode) == 0o600
    assert names(path) == {"agent.conf", "agent.conf.lock"}


def test_an_equal_set_is_not_rewritten(path: Path):
    before = path.stat()

    conf, written = AgentConfFile(path).update(lambda c: agentconf.with_servers(c, [(A,)]))

    after = path.stat()
    assert not written
    assert conf.text == TEXT
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_file_that_others_may_read_is_narrowed_without_being_rewritten(path: Path):
    path.chmod(0o644)
    before = path.stat()

    AgentConfFile(path).update(lambda c: c)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def test_a_change_that_is_refused_leaves_the_file(path: Path):
    with pytest.raises(WouldStrand):
        AgentConfFile(path).update(lambda c: agentconf.with_servers(c, []))

    assert path.read_text() == TEXT


def test_a_newer_format_is_left_alone_and_the_file_is_named(path: Path):
    path.write_text(TEXT.replace("2.0", "3.0"))

    with pytest.raises(NewerFormat, match=r"agent\.conf: format 3\.0 is newer"):
        AgentConfFile(path).update(lambda c: agentconf.with_servers(c, [(B,)]))

    assert path.read_text() == TEXT.replace("2.0", "3.0")


def test_what_cannot_be_read_is_said_with_a_remedy(tmp_path: Path):
    file = AgentConfFile(tmp_path / "agent.conf")
    with pytest.raises(Unreadable, match="is not there: enrol this machine first"):
        file.read()
    file.path.mkdir()
    with pytest.raises(Unreadable, match="cannot be read"):
        file.read()
    file.path.rmdir()
    file.path.write_bytes(b"# format 2.0\ntag: \xff\n")
    with pytest.raises(BadAgentConf, match="is not text"):
        file.read()
    file.path.write_bytes(b"# format 2.0\n#" + b"x" * (1 << 20))
    with pytest.raises(BadAgentConf, match="larger than"):
        file.read()


def test_who_waits_too_long_for_the_lock_is_told_which(path: Path):
    lock = path.with_name("agent.conf.lock")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        with pytest.raises(Locked, match=r"another process has held .*agent\.conf\.lock for 0\.1 s"):
            AgentConfFile(path).update(lambda c: c, limit_seconds=0.1)

    AgentConfFile(path).update(lambda c: c, limit_seconds=0.1)


def test_a_temporary_file_that_was_left_behind_is_no_obstacle(path: Path):
    path.with_name(".agent.conf.new").write_text("half of")

    AgentConfFile(path).update(lambda c: agentconf.with_servers(c, [(B,)]))

    assert AgentConfFile(path).read().apiaddresses == (B,)
    assert names(path) == {"agent.conf", "agent.conf.lock"}


def test_a_disk_that_is_full_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(Unreadable, match="cannot be written: No space left on device"):
        AgentConfFile(path).update(lambda c: agentconf.with_servers(c, [(B,)]))

    assert path.read_text() == TEXT
    assert names(path) == {"agent.conf", "agent.conf.lock"}


def test_a_link_stays_a_link(path: Path, tmp_path: Path):
    link = tmp_path / "elsewhere" / "agent.conf"
    link.parent.mkdir()
    link.symlink_to(path)

    AgentConfFile(link).update(lambda c: agentconf.with_servers(c, [(B,)]))

    assert link.is_symlink()
    assert AgentConfFile(path).read().apiaddresses == (B,)


def test_the_content_reaches_the_disk_before_its_name_does(path: Path, monkeypatch: pytest.MonkeyPatch):
    done: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def spy_fsync(descriptor: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "content"
        done.append(kind)
        fsync(descriptor)

    def spy_rename(self: Path, target: Path) -> Path:
        done.append("name")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(Path, "rename", spy_rename)

    AgentConfFile(path).update(lambda c: agentconf.with_servers(c, [(B,)]))

    assert done == ["content", "name", "folder"]


def python(code: str, path: Path, *arguments: str) -> subprocess.Popen[bytes]:
    search = os.pathsep.join(str(ROOT / part) for part in ("lib", "src"))
    return subprocess.Popen(
        [sys.executable, "-c", code, str(path), *arguments], env={**os.environ, "PYTHONPATH": search}
    )


ADDS = """
import sys
from pathlib import Path
from controller.api.agent import agentconf
from controller.api.agent.agentfile import AgentConfFile
from controller.api.scopes import HostPort
file = AgentConfFile(Path(sys.argv[1]))
for n in range(5):
    more = HostPort(f"10.1.{sys.argv[2]}.{n}", 17070)
    file.update(lambda c: agentconf.with_servers(c, [*c.controllers, (more,)]), limit_seconds=30)
"""


def test_processes_that_write_at_once_lose_nothing(path: Path):
    running = [python(ADDS, path, str(n)) for n in range(6)]

    assert [process.wait(60) for process in running] == [0] * 6

    hosts = {address.host for address in AgentConfFile(path).read().apiaddresses}
    assert hosts == {"10.0.0.1"} | {f"10.1.{p}.{n}" for p in range(6) for n in range(5)}


REWRITES = """
import itertools, sys
from pathlib import Path
from controller.api.agent import agentconf
from controller.api.agent.agentfile import AgentConfFile
from controller.api.scopes import HostPort
file = AgentConfFile(Path(sys.argv[1]))
for n in itertools.count():
    many = [(HostPort(f"10.2.{n % 200}.{m}", 17070),) for m in range(1, 1 + n % 40)] or [(HostPort("10.0.0.1", 17070),)]
    file.update(lambda c: agentconf.with_servers(c, many))
"""


def test_a_reader_never_sees_less_than_a_whole_file_and_a_killed_writer_leaves_one(path: Path):
    file = AgentConfFile(path)
    for round_ in range(3):
        writer = python(REWRITES, path)
        try:
            seen: set[str] = set()
            deadline = time.monotonic() + 30
            while len(seen) < 20 + round_:
                assert time.monotonic() < deadline, f"only {len(seen)} different files"
                conf = file.read()
                assert conf.apiaddresses
                assert "future: x\n" in conf.text
                seen.add(conf.text)
        finally:
            writer.send_signal(signal.SIGKILL)
            writer.wait(10)
        assert file.read().apiaddresses
        _, written = file.update(lambda c, n=round_: agentconf.with_passwords(c, f"p{n}", ""), limit_seconds=1)
        assert written, "a killed writer's lock is nobody's"

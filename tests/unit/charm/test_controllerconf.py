"""Flow 1, hop 3: what stands in controller.conf, and that it is never torn."""

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import jinja2
import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import controllerconf
from dbaccessor import conf

VIEW = conf.ControllerConf(
    controller_id="0",
    generation=4,
    cluster_uuid="8d0e0000-0000-4000-8000-000000000000",
    bootstrap_controller="0",
    db_bind_addresses={"0": "10.6.6.6", "3": "fd00::6"},
    db_unresolved=("2",),
    departed=("1",),
    db_voters=("0", "3"),
    db_last_index=123,
)
_text = st.text(max_size=20)
_id = st.from_regex(r"[0-9a-z]{1,6}", fullmatch=True) | st.sampled_from(["null", "true", "no", "1e3", "~", "0x1"])


def test_every_text_is_quoted_so_that_an_id_stays_text():
    text = controllerconf.render(VIEW)

    document = yaml.safe_load(text)
    assert document["controller-id"] == "0"
    assert document["db-bind-addresses"] == {"0": "10.6.6.6", "3": "fd00::6"}
    assert document["db-unresolved"] == ["2"]
    assert '"0": "10.6.6.6"' in text


@settings(deadline=None)
@given(
    st.builds(
        conf.ControllerConf,
        controller_id=_id,
        generation=st.integers(0, 1 << 40),
        cluster_uuid=_text,
        bootstrap_controller=_text,
        bootstrapped=st.booleans(),
        db_bind_addresses=st.dictionaries(_id, st.ip_addresses().map(str), max_size=4).filter(
            lambda addresses: len(set(addresses.values())) == len(addresses)
        ),
        db_voters=st.lists(_id, max_size=3).map(tuple),
        db_last_index=st.integers(0, 1 << 60),
        network_latency_ms=st.integers(5, 1000),
        application=_text,
        management_space=st.none()
        | st.builds(
            conf.ManagementSpace,
            st.sampled_from(["mgmt", "no", "1e3", "a-b"]),
            st.lists(st.ip_addresses().map(str), max_size=3).map(tuple),
        ),
        extra=st.dictionaries(_id.map(lambda key: f"x-{key}"), _text | st.integers() | st.lists(_text), max_size=3),
    )
)
def test_what_was_rendered_comes_back_from_its_reader(view: conf.ControllerConf):
    assert conf.parse(controllerconf.render(view)) == view


def test_a_view_that_its_reader_would_refuse_is_not_rendered(tmp_path: Path):
    controllerconf.write(VIEW, tmp_path)
    before = (tmp_path / conf.FILE_NAME).read_text()
    twice = msgspec.structs.replace(VIEW, generation=5, db_bind_addresses={"0": "10.6.6.6", "3": "10.6.6.6"})

    with pytest.raises(controllerconf.NotRendered, match="both have"):
        controllerconf.write(twice, tmp_path)

    assert (tmp_path / conf.FILE_NAME).read_text() == before


def test_a_template_that_drops_a_value_is_noticed(monkeypatch: pytest.MonkeyPatch):
    templates = controllerconf.environment()
    assert templates.loader is not None
    source, _, _ = templates.loader.get_source(templates, "controller.conf.j2")
    lines = (line for line in source.splitlines(keepends=True) if not line.startswith("db-last-index"))
    broken = templates.overlay(loader=jinja2.DictLoader({"controller.conf.j2": "".join(lines)}))
    monkeypatch.setattr(controllerconf, "environment", lambda: broken)

    with pytest.raises(controllerconf.NotRendered, match="does not say what was meant"):
        controllerconf.render(VIEW)


def test_unknown_keys_pass_through(tmp_path: Path):
    view = msgspec.structs.replace(VIEW, extra={"later": {"on": ["0", 0]}})

    controllerconf.write(view, tmp_path)

    found = controllerconf.read(tmp_path)
    assert found is not None
    assert found.extra == {"later": {"on": ["0", 0]}}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"generation": 3}, "backwards"),
        ({"departed": ()}, "came again with other content"),
        ({"controller_id": "9"}, "controller-id changed"),
    ],
)
def test_what_its_reader_would_refuse_after_the_old_file_is_not_written(
    tmp_path: Path, change: dict[str, Any], problem: str
):
    controllerconf.write(VIEW, tmp_path)

    with pytest.raises(controllerconf.NotRendered, match=problem):
        controllerconf.write(msgspec.structs.replace(VIEW, **change), tmp_path)

    assert controllerconf.read(tmp_path) == VIEW


@pytest.mark.parametrize("garbage", [b"", b'schema: 1\ncontroller-id: "0', b"\xff\xfe\x00", b"- a list"])
def test_garbage_on_the_disk_counts_as_no_file_and_is_replaced(tmp_path: Path, garbage: bytes):
    (tmp_path / conf.FILE_NAME).write_bytes(garbage)

    assert controllerconf.read(tmp_path) is None
    assert controllerconf.write(VIEW, tmp_path)
    assert controllerconf.read(tmp_path) == VIEW


def test_writing_the_same_again_changes_nothing(tmp_path: Path):
    assert controllerconf.write(VIEW, tmp_path)
    before = (tmp_path / conf.FILE_NAME).stat()

    assert not controllerconf.write(VIEW, tmp_path)

    after = (tmp_path / conf.FILE_NAME).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_only_root_may_read_it_whatever_the_umask_or_the_old_mode(tmp_path: Path):
    (tmp_path / conf.FILE_NAME).write_text("old")
    (tmp_path / conf.FILE_NAME).chmod(0o644)
    previous = os.umask(0o022)
    try:
        controllerconf.write(VIEW, tmp_path)
    finally:
        os.umask(previous)

    assert stat.S_IMODE((tmp_path / conf.FILE_NAME).stat().st_mode) == 0o600


# The replace is one step and durable.


class Disk:
    """Watches what is done to the disk, and can fail at one step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fail_at: str = "") -> None:
        self.steps: list[str] = []
        self._fail_at = fail_at
        real_fsync, real_rename = os.fsync, Path.rename

        def fsync(descriptor: int) -> None:
            kind = "directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
            self._step(f"fsync {kind}")
            real_fsync(descriptor)

        def rename(source: Path, target: Path) -> Path:
            self._step("rename")
            # A whole and final file is what takes the name: nothing is written to it afterwards.
            self.renamed = source.read_bytes()
            return real_rename(source, target)

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(Path, "rename", rename)

    def _step(self, name: str) -> None:
        self.steps.append(name)
        if name == self._fail_at:
            raise OSError(28, "No space left on device")


def test_a_file_is_replaced_by_sync_then_rename_then_sync_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "file"
    path.write_text("old")
    with path.open() as reader:  # Who reads the old file reads all of it, however slowly.
        disk = Disk(monkeypatch)

        assert controllerconf.replace(path, "new", mode=0o600)

        assert reader.read() == "old"
    assert disk.steps == ["fsync file", "rename", "fsync directory"]
    assert disk.renamed == b"new"
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("step", ["fsync file", "rename"])
def test_a_write_that_fails_leaves_the_old_file_whole_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
):
    path = tmp_path / "file"
    path.write_text("old")
    Disk(monkeypatch, fail_at=step)

    with pytest.raises(OSError, match="No space"):
        controllerconf.replace(path, "new", mode=0o600)

    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


KILLED_WRITER = """
import os, pathlib, sys
import controllerconf
pathlib.Path.rename = lambda *_: os._exit(9)
controllerconf.replace(pathlib.Path(sys.argv[1]), sys.argv[2], mode=0o600)
"""


def test_a_writer_that_is_killed_in_the_middle_leaves_the_old_file_whole(tmp_path: Path):
    controllerconf.write(VIEW, tmp_path)
    newer = msgspec.structs.replace(VIEW, generation=5)
    path = tmp_path / conf.FILE_NAME

    # It ends, without any cleaning up, at the last moment before the new file takes the name.
    command = [sys.executable, "-c", KILLED_WRITER, str(path), controllerconf.render(newer)]
    ended = subprocess.run(command, env={"PYTHONPATH": os.pathsep.join(sys.path)}, check=False)

    assert ended.returncode == 9
    assert controllerconf.read(tmp_path) == VIEW
    assert controllerconf.write(newer, tmp_path)
    assert controllerconf.read(tmp_path) == newer

"""hactl backup and hactl restore: what is said, and what is left, when they end early."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from controller.cli import app
from dbaccessor import archive, confsocket
from dbaccessor.archive import Manifest
from dbaccessor.identity import JOURNAL, MEMBERS, Store
from situations import ME


@pytest.fixture
def short() -> Iterator[Path]:
    # Not tmp_path: a unix socket's path must fit in 108 bytes, and pytest's folders may not.
    with tempfile.TemporaryDirectory(prefix="hactl-") as folder:
        yield Path(folder)


@pytest.mark.parametrize("sent", [(), (512,), (512, 1 << 20)])
def test_a_backup_that_ends_early_says_where_the_reason_is_and_leaves_no_file(
    short: Path, tmp_path: Path, sent: tuple[int, ...]
):
    def torn(_: bytes) -> confsocket.Response:
        def parts() -> Iterator[bytes]:
            yield from (bytes(size) for size in sent)
            raise OSError("the leader has gone")

        return 200, "application/x-tar", parts()

    with confsocket.Server(short / confsocket.CONTROL, {("POST", "/backup"): torn}):
        done = CliRunner().invoke(app, ["--state-dir", str(short), "backup", str(tmp_path / "b.tar")])

    assert done.exit_code == 1
    assert "no backup was made: it ended early; journalctl -u ha-controller says why" in done.output
    assert list(tmp_path.iterdir()) == []


def test_a_backup_with_nobody_there_asks_whether_the_service_runs(short: Path, tmp_path: Path):
    done = CliRunner().invoke(app, ["--state-dir", str(short), "backup", str(tmp_path / "b.tar")])

    assert (done.exit_code, "is the service running?" in done.output) == (5, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [(".",), ("..",), ("/",), ("--check", "."), ("",)])
def test_a_directory_is_no_archive_and_nobody_is_asked_for_one(short: Path, words: tuple[str, ...]):
    done = CliRunner().invoke(app, ["--state-dir", str(short), "backup", *words])

    assert (done.exit_code, "is a directory" in done.output) == (2, True), done.output


def empty_archive(path: Path) -> Path:
    manifest = Manifest(
        made="t",
        version="1",
        dqlite_version="1",
        controller_id=ME.controller_id,
        cluster_uuid=ME.cluster_uuid,
        epoch=archive.Epoch(ME.epoch.number, ME.epoch.tag),
        index=1,
        databases=(),
    )
    path.write_bytes(archive.ending(manifest))
    return path


@pytest.mark.parametrize("force", [(), ("--force",)])
@pytest.mark.parametrize("content", [b"{", b'{"known": "\xff"}', b'{"schema": 99}'])
def test_a_restore_over_members_that_cannot_be_read_says_so_and_touches_nothing(
    tmp_path: Path, content: bytes, force: tuple[str, ...]
):
    file = empty_archive(tmp_path / "b.tar")
    store = Store(tmp_path / "state")
    store.save_identity(ME)
    store.make_data_dir(ME.dqlite_id)
    (store.state_dir / MEMBERS).write_bytes(content)

    done = CliRunner().invoke(app, ["restore", str(file), "--into", str(store.state_dir), "--put-aside", *force])

    assert (done.exit_code, f"{MEMBERS} " in done.output) == (1, True), done.output
    assert isinstance(done.exception, SystemExit)
    assert store.identity() == ME
    assert not (store.state_dir / JOURNAL).exists()
    assert not (store.state_dir / "aside").exists()

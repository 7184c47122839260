"""hactl backup and hactl restore: what is said, and what is left, when they end early."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from controller.cli import app
from dbaccessor import archive
from dbaccessor.archive import Manifest
from dbaccessor.identity import JOURNAL, MEMBERS, Store
from situations import ME


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

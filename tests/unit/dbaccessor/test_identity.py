"""The small files: atomic, durable, versioned; the marker; the copy that is told from the original."""

from __future__ import annotations

import os
import shutil
import stat

import pytest

from dbaccessor.identity import (
    MARKER,
    BrokenFile,
    Epoch,
    Identity,
    Journal,
    Known,
    Members,
    NewerFile,
    Store,
    controller_of,
    merge_known,
    node_name,
    replace_file,
)

IDENTITY = Identity(cluster_uuid="u", controller_id="0", dqlite_id=7, epoch=Epoch(1, "ab"))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "state")


def test_what_is_saved_comes_back(store):
    store.save_identity(IDENTITY)
    store.save_members(Members(generation=3, known=(Known("1", "controller-1-9", "10.0.0.1", "voter"),)))
    store.save_journal(Journal(operation="bootstrap", dqlite_id=7, epoch=Epoch(1, "ab")))

    assert store.identity() == IDENTITY
    assert store.members().known[0].address == "10.0.0.1"
    assert store.journal() is not None
    store.clear_journal()
    assert store.journal() is None
    assert stat.S_IMODE((store.state_dir / "identity.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(store.state_dir.stat().st_mode) == 0o700


def test_nothing_on_disk_is_nothing_and_not_an_error(store):
    assert store.identity() is None
    assert store.members() == Members()
    assert store.marked_id() is None
    assert store.fingerprint() == ""
    assert store.put_aside("nothing") is None


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"cluster-uuid": 5}', b"\xff\xfe", b'{"a": "\xff"}', b"[" * 9999]
)
def test_a_damaged_file_is_an_error_that_names_it_and_is_kept(store, content):
    store.state_dir.mkdir()
    path = store.state_dir / "identity.json"
    path.write_bytes(content)

    with pytest.raises(BrokenFile, match="identity.json"):
        store.identity()
    assert path.read_bytes() == content


def test_a_file_of_a_newer_version_is_refused(store):
    store.state_dir.mkdir()
    (store.state_dir / "identity.json").write_text('{"schema": 2}')

    with pytest.raises(NewerFile, match="refresh"):
        store.identity()


def test_an_interrupted_replacement_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "file"
    replace_file(path, b"old")

    def fail(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        replace_file(path, b"new")

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_unchanged_file_is_not_written(tmp_path):
    path = tmp_path / "file"

    assert replace_file(path, b"same")
    before = path.stat()
    assert not replace_file(path, b"same")
    assert path.stat().st_ino == before.st_ino


def test_a_copy_of_the_data_directory_is_told_from_the_original(store):
    original = store.make_data_dir(7)
    assert store.marked_id() == 7

    moved = store.state_dir / "moved"
    shutil.copytree(store.data_dir, moved)
    shutil.rmtree(store.data_dir)
    (store.state_dir / "in-between").mkdir()  # A file system may give the freed inode to the next comer.
    moved.rename(store.data_dir)

    assert store.marked_id() == 7
    assert store.fingerprint() != original


@pytest.mark.parametrize("content", [b"", b"seven", b"\xff", b"7\n" + b" " * 100 + b"x"])
def test_a_marker_that_is_no_number_is_none(store, content):
    store.make_data_dir(7)
    (store.data_dir / MARKER).write_bytes(content)

    assert store.marked_id() is None


def test_a_marker_that_is_replaced_or_goes_away_is_seen_at_once(store):
    store.make_data_dir(7)
    store.mark(8)
    assert store.marked_id() == 8

    (store.data_dir / MARKER).unlink()
    assert store.marked_id() is None
    shutil.rmtree(store.data_dir)
    store.data_dir.write_text("no directory")
    assert store.marked_id() is None


def test_data_put_aside_keeps_everything_and_says_why(store):
    store.save_identity(IDENTITY)
    store.make_data_dir(7)
    (store.data_dir / "segment").write_text("precious")

    where = store.put_aside("superseded by epoch 2")

    assert where is not None
    assert (where / "segment").read_text() == "precious"
    assert (where / "identity.json").exists()
    assert "superseded" in where.name
    assert not store.data_dir.exists()


def test_names_and_their_controllers():
    assert controller_of(node_name("12", 99)) == "12"
    assert controller_of(node_name("a-b", 99)) == "a-b"
    assert controller_of("10.0.0.1:17666") == "10.0.0.1:17666"


def test_an_address_once_known_is_not_forgotten():
    old = (Known("1", "n1", "10.0.0.1"),)
    new = (Known("1", "n1", "", "voter"), Known("2", "n2"))

    assert merge_known(old, new) == (Known("1", "n1", "10.0.0.1", "voter"), Known("2", "n2"))

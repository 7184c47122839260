"""Completing and undoing what a kill interrupted, on real files; the library's own recovery is a fake here."""

from __future__ import annotations

import struct
from pathlib import Path

import msgspec
import pytest

from dbaccessor import reconfigure, recovery
from dbaccessor.dqlite import node, nodedir
from dbaccessor.identity import Epoch, Identity, Journal, Known, Members, Store

OLD, NEW = Epoch(1, "aa"), Epoch(2, "bb")
ME = Identity(cluster_uuid="u", controller_id="0", dqlite_id=100, epoch=OLD, state="member")


@pytest.fixture
def recovered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    monkeypatch.setattr(node, "recover", lambda _directory, _id, name: names.append(name))
    return names


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path)
    made.make_data_dir(100)
    return made


def journal(operation: str) -> Journal:
    return Journal(operation=operation, dqlite_id=100, epoch=NEW, dropping=("controller-1-101", "controller-2-102"))


def test_nothing_interrupted_is_nothing_to_do(store, recovered):
    assert reconfigure.finish(store) is None


def test_a_reconfiguration_before_its_new_epoch_is_undone(store, recovered):
    store.save_identity(ME)
    store.save_journal(journal("reconfigure"))

    assert "undone" in (reconfigure.finish(store) or "")
    assert (store.identity(), store.journal(), recovered) == (ME, None, [])


def test_a_reconfiguration_after_its_new_epoch_is_completed_and_names_all_it_left_behind(store, recovered):
    """One of them had joined a moment before, and members.json had not heard of it yet."""
    store.save_identity(msgspec.structs.replace(ME, epoch=NEW))
    store.save_members(
        Members(
            known=(Known("0", ME.name), Known("2", "controller-2-102", "10.0.0.2")),
            addresses={"1": "10.0.0.1", "2": "10.0.0.2"},
        )
    )
    store.save_journal(journal("reconfigure"))

    assert "completed" in (reconfigure.finish(store) or "")

    assert recovered == [ME.name]
    assert {(k.name, k.address) for k in store.members().known if k.dropped} == {
        ("controller-1-101", "10.0.0.1"),
        ("controller-2-102", "10.0.0.2"),
    }
    assert store.journal() is None


def test_an_unfinished_bootstrap_is_deleted_but_never_data_that_has_an_identity(store, recovered):
    (store.data_dir / "segment").write_text("precious")
    store.save_identity(ME)
    store.save_journal(journal("bootstrap"))
    reconfigure.finish(store)
    assert (store.data_dir / "segment").exists()

    (store.state_dir / "identity.json").unlink()
    store.save_journal(journal("bootstrap"))
    assert "undone" in (reconfigure.finish(store) or "")
    assert not store.data_dir.exists()


def test_a_bootstrap_that_fails_is_undone_at_once(tmp_path, monkeypatch):
    store = Store(tmp_path)

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(node, "bootstrap", fail)
    with pytest.raises(OSError, match="no space"):
        reconfigure.bootstrap(store, cluster_uuid="u", controller_id="0")

    assert (store.identity(), store.journal(), store.data_dir.exists()) == (None, None, False)


@pytest.fixture
def survivor(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(node, "last_entry", lambda *_: nodedir.LastEntry(term=1, index=7))
    store.save_identity(ME)
    return store


def full(*_: object) -> None:
    raise OSError("no space left on device")


@pytest.mark.parametrize("meets_the_end", ["save_journal", "save_identity"])
def test_going_on_alone_that_finds_no_room_leaves_everything_as_it_was(survivor, recovered, monkeypatch, meets_the_end):
    with monkeypatch.context() as small:
        small.setattr(survivor, meets_the_end, full)
        with pytest.raises(OSError, match="no space"):
            reconfigure.go_on_alone(survivor, ME, ("controller-1-101",))

    assert (survivor.identity(), survivor.journal(), recovered) == (ME, None, [])

    reconfigure.go_on_alone(survivor, ME, ("controller-1-101",))
    assert (survivor.identity().epoch.number, survivor.journal(), recovered) == (2, None, [ME.name])


def test_a_journal_that_is_written_but_perhaps_not_for_good_is_undone_as_well(survivor, recovered, monkeypatch):
    save = survivor.save_journal

    def write_then_fail(value: Journal) -> None:
        save(value)
        raise OSError("the folder cannot be synced")

    monkeypatch.setattr(survivor, "save_journal", write_then_fail)
    with pytest.raises(OSError, match="cannot be synced"):
        reconfigure.go_on_alone(survivor, ME, ())

    assert (survivor.identity(), survivor.journal(), recovered) == (ME, None, [])


def test_a_new_epoch_that_is_written_but_perhaps_not_for_good_is_left_to_a_new_process(
    survivor, recovered, monkeypatch
):
    save = survivor.save_identity

    def write_then_fail(value: Identity) -> None:
        save(value)
        raise OSError("the folder cannot be synced")

    monkeypatch.setattr(survivor, "save_identity", write_then_fail)
    with pytest.raises(OSError, match="cannot be synced"):
        reconfigure.go_on_alone(survivor, ME, ())

    assert (survivor.identity().epoch, recovered) == (survivor.journal().epoch, [])


# Another data directory in place of this one


def write(directory: Path, entries: int, fill: bytes = b"x") -> None:
    """Make the open segment one of so many entries, as a node that goes on does."""
    data = fill * 8
    head = struct.pack("<QQB3xI", 1, 1, 1, len(data))
    batch = struct.pack("<II", nodedir.checksum(head), nodedir.checksum(data)) + head + data
    (directory / "open-1").write_bytes(struct.pack("<Q", 1) + batch * entries)


def recover(store: Store) -> Identity:
    identity = msgspec.structs.replace(ME, dqlite_id=200, epoch=NEW)
    return reconfigure.replace_data(store, "recover", identity, (), lambda staging: write(staging, 1))


class Killed(BaseException):
    """Nothing of the process runs after it."""


def test_a_recovery_that_fails_leaves_nothing_beside_the_data_that_goes_on(store, monkeypatch):
    write(store.data_dir, 2)
    store.save_identity(ME)
    before = set(store.data_dir.iterdir())

    def fail(_: Identity) -> None:
        assert (store.data_dir / "SHA256SUMS").exists()
        raise OSError("no space left on device")

    with monkeypatch.context() as full:
        full.setattr(store, "save_identity", fail)
        with pytest.raises(OSError, match="no space"):
            recover(store)

    assert (store.identity(), store.journal(), store.staging_dir.exists()) == (ME, None, False)
    assert set(store.data_dir.iterdir()) == before
    write(store.data_dir, 3)
    found = recovery.look(store.state_dir)
    assert (found.log.damage, found.log.index) == ("", 3)


def test_a_recovery_that_is_killed_leaves_nothing_beside_the_data_once_it_is_undone(store, monkeypatch):
    write(store.data_dir, 2)
    store.save_identity(ME)
    before = set(store.data_dir.iterdir())

    def kill(_: Identity) -> None:
        raise Killed

    with monkeypatch.context() as killed:
        killed.setattr(store, "save_identity", kill)
        killed.setattr(reconfigure, "finish", lambda _: None)
        with pytest.raises(Killed):
            recover(store)
    assert (store.data_dir / "SHA256SUMS").exists()
    assert recovery.look(store.state_dir).log.damage == ""

    assert "undone" in (reconfigure.finish(store) or "")

    assert set(store.data_dir.iterdir()) == before
    write(store.data_dir, 3)
    assert recovery.look(store.data_dir).log.damage == ""


def test_checksums_that_an_earlier_version_left_beside_data_in_use_say_nothing(store):
    write(store.data_dir, 2)
    store.save_identity(ME)
    store.prepare_aside()
    write(store.data_dir, 3)

    assert recovery.look(store.state_dir).log.damage == ""
    aside = store.put_aside("of another time")
    assert aside is not None
    assert recovery.look(aside).log.damage == ""


def test_data_that_a_recovery_put_aside_is_told_by_its_checksums(store):
    write(store.data_dir, 2)
    store.save_identity(ME)

    assert recover(store) == store.identity()

    (aside,) = (store.state_dir / "aside").iterdir()
    assert recovery.look(aside).log.damage == ""
    write(aside, 2, b"y")
    assert recovery.look(aside).log.damage == "open-1 is not what it was when it was put aside"


def test_an_operation_of_a_newer_version_is_refused_and_kept(store):
    store.save_journal(journal("transmogrify"))

    with pytest.raises(RuntimeError, match="refresh this unit"):
        reconfigure.finish(store)
    assert store.journal() is not None

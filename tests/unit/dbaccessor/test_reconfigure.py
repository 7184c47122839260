"""Completing and undoing what a kill interrupted, on real files; the library's own recovery is a fake here."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from dbaccessor import reconfigure
from dbaccessor.dqlite import node
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


def test_an_operation_of_a_newer_version_is_refused_and_kept(store):
    store.save_journal(journal("transmogrify"))

    with pytest.raises(RuntimeError, match="refresh this unit"):
        reconfigure.finish(store)
    assert store.journal() is not None

"""Whose data a directory will hold, and in which epoch: above every one whose number is known to be taken."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import yaml

from dbaccessor import repair
from dbaccessor.dqlite import node
from dbaccessor.identity import IDENTITY, JOURNAL, MEMBERS, Epoch, Store
from dbaccessor.recovery import Candidate, Plan
from situations import ME


def write_conf(state_dir: Path, **changes: object) -> None:
    document = {"controller-id": "0", "generation": 3, "cluster-uuid": ME.cluster_uuid, **changes}
    (state_dir / "controller.conf").write_text(yaml.safe_dump(document))


def next_number(state_dir: Path) -> int:
    """What comes after data of epoch 1."""
    return repair.new_epoch(2, repair.target(state_dir, ME)).number


def test_where_nothing_speaks_of_a_later_epoch_the_next_number_is_taken(tmp_path: Path):
    assert next_number(tmp_path) == 2
    write_conf(tmp_path)
    assert next_number(tmp_path) == 2


def test_the_epoch_that_the_charm_last_heard_of_is_exceeded(tmp_path: Path):
    write_conf(tmp_path, **{"db-epoch": 5})

    assert next_number(tmp_path) == 6


@pytest.mark.parametrize("changes", [{"epoch": Epoch(7, "gg")}, {"superseded": Epoch(7, "gg")}])
def test_the_epochs_of_the_data_here_and_of_what_was_put_aside_are_exceeded(tmp_path: Path, changes: dict):
    store = Store(tmp_path)
    store.make_data_dir(ME.dqlite_id)
    store.save_identity(msgspec.structs.replace(ME, **changes))
    assert next_number(tmp_path) == 8

    store.put_aside("it was superseded")
    store.forget_identity()

    assert store.identity() is None
    assert next_number(tmp_path) == 8


def test_what_was_put_aside_and_cannot_be_read_does_not_count(tmp_path: Path):
    folder = tmp_path / "aside" / "dqlite-1"
    folder.mkdir(parents=True)
    (folder / IDENTITY).write_text("{")

    assert next_number(tmp_path) == 2


def test_a_recovery_exceeds_what_the_configuration_beside_any_of_the_directories_tells_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(node, "recover", lambda *_: None)
    stores = [Store(tmp_path / i) for i in ("0", "1")]
    for store in stores:
        store.make_data_dir(ME.dqlite_id)
        store.save_identity(ME)
    write_conf(stores[1].state_dir, **{"db-epoch": 4})
    chosen, other = (Candidate(s.state_dir, s.data_dir, s.state_dir, ME) for s in stores)

    done = repair.carry_out(Plan((chosen, other), chosen, epoch_number=2), repair.target(chosen.path, ME))

    assert done.epoch.number == 5


@pytest.mark.parametrize("name", [IDENTITY, MEMBERS, JOURNAL])
@pytest.mark.parametrize(("content", "problem"), [("{", "is damaged"), ('{"schema": 99}', "has schema 99")])
def test_a_directory_whose_files_cannot_be_read_is_no_target(tmp_path: Path, name: str, content: str, problem: str):
    Store(tmp_path).save_identity(ME)
    (tmp_path / name).write_text(content)

    with pytest.raises(repair.CannotRecover, match=f"{name} {problem}"):
        repair.target(tmp_path, ME)

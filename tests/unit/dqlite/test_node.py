"""The parts of node.py that need no library."""

from __future__ import annotations

from pathlib import Path

import pytest

from dbaccessor import errors
from dbaccessor.dqlite import node


def test_new_ids_are_positive_and_never_found_a_cluster(monkeypatch: pytest.MonkeyPatch):
    drawn = iter([0, 0x2DC171858C3155BE - 1, 2**63 - 2, 5])
    monkeypatch.setattr("dbaccessor.dqlite.node.secrets.randbelow", lambda _: next(drawn))

    assert [node.new_id(), node.new_id()] == [2**63 - 1, 6]
    assert node.is_founding_id(1)
    assert node.is_founding_id(0x2DC171858C3155BE)
    assert not node.is_founding_id(6)


def test_new_ids_differ():
    assert len({node.new_id() for _ in range(100)}) == 100


@pytest.mark.parametrize("dqlite_id", [1, 0x2DC171858C3155BE])
def test_no_cluster_is_founded_for_an_id_that_would_found_another(tmp_path: Path, dqlite_id: int):
    with pytest.raises(errors.Refused, match="another cluster"):
        node.bootstrap(tmp_path, dqlite_id, "controller-0-1")

    assert list(tmp_path.iterdir()) == []

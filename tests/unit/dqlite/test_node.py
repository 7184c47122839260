"""The parts of node.py that need no library."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import cffi
import pytest

from dbaccessor import errors
from dbaccessor.dqlite import native, node


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


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ids under which a library that fails was asked for a node."""
    ffi, ids = cffi.FFI(), list[int]()
    ffi.cdef("typedef struct dqlite_node dqlite_node;")
    words = ffi.new("char[]", b"raft_init(): io: no more requests")

    def create(dqlite_id: int, *_: object) -> int:
        ids.append(dqlite_id)
        return 1

    c = SimpleNamespace(
        dqlite_node_create=create, dqlite_node_errmsg=lambda _: words, dqlite_node_destroy=lambda _: None
    )
    monkeypatch.setattr(native, "load", lambda: SimpleNamespace(ffi=ffi, c=c))
    monkeypatch.setattr(node, "_failures", [])
    return ids


def test_a_library_that_cannot_make_a_node_says_nothing_of_the_data_and_is_not_asked_again(tmp_path: Path, asked):
    """It leaves this process's memory in disorder then."""
    with pytest.raises(errors.NotReady, match="no more requests"):
        node.last_entry(tmp_path, 100, "controller-0-100")
    with pytest.raises(RuntimeError, match="new process.*no more requests"):
        node.recover(tmp_path, 100, "controller-0-100")

    assert asked == [100]


def test_a_directory_that_takes_no_file_is_not_ready_and_the_library_is_not_asked(tmp_path: Path, asked, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dbaccessor.dqlite.node.os.posix_fallocate", full)
    for _ in range(2):
        with pytest.raises(errors.NotReady, match="No space left"):
            node.last_entry(tmp_path, 100, "controller-0-100")

    assert asked == []
    assert {p.name for p in tmp_path.iterdir()} == {"dqlite-lock"}

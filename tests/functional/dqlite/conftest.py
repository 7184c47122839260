"""Real Dqlite nodes for tests: some in this process, some in processes of their own that can be killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dbaccessor import errors
from dbaccessor.dqlite import native
from dqlitenodes import InProcess, Processes


@pytest.fixture(scope="session", autouse=True)
def _library() -> None:
    try:
        native.load()
    except errors.LibraryTooOld as error:
        pytest.fail(f"{error} (scripts/setup installs it)")


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[InProcess]:
    cluster = InProcess(tmp_path)
    yield cluster
    cluster.close()


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Processes]:
    """Three nodes in processes of their own, not started yet."""
    cluster = Processes(tmp_path, 3)
    yield cluster
    cluster.close()

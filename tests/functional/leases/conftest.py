"""Real Dqlite nodes for leases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dqlitenodes import InProcess, Processes


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

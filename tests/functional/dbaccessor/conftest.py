"""What the tests of whole controllers share."""

from __future__ import annotations

from pathlib import Path

import pytest

from loopback import Cluster


@pytest.fixture
def cluster(tmp_path: Path):
    with Cluster(tmp_path, tls=True) as made:
        yield made

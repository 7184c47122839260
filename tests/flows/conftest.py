"""What every run of the real charm's units begins with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from localjuju.client import Client


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    """A run without units. It ends with this process, and update-status comes only where a test asks for it."""
    client = Client(tmp_path / "run")
    client.bootstrap(die_with=os.getpid(), update_status_interval=600)
    yield client
    client.destroy()

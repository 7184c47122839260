import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from charmmachine import Machine


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    # Not tmp_path: a unix socket's path must fit into 107 characters.
    root = Path(tempfile.mkdtemp(prefix="hc-"))
    yield Machine(root, monkeypatch)
    shutil.rmtree(root)

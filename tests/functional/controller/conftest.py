"""What the tests of whole controllers and their workers share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from loopback import Cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, 84) as made:
        yield made


@pytest.fixture
def installed(cluster: Cluster, tmp_path: Path):
    """Return what installs a module as a package with entry points, for every controller that is started later."""
    folder = tmp_path / "packages"
    cluster.paths.append(folder)

    def install(name: str, text: str, *entry_points: tuple[str, str]) -> None:
        metadata = folder / f"{name}-1.dist-info"
        metadata.mkdir(parents=True)
        (folder / f"{name}.py").write_text(text)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        lines = [f"[{group}]\n{name} = {name}:{function}\n" for group, function in entry_points]
        (metadata / "entry_points.txt").write_text("\n".join(lines))

    return install

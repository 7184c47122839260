"""The package of docs/how-to/write-a-worker.md is installed and runs as it stands there, once and never twice."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hactl
from loopback import Cluster

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "write-a-worker.md"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The folder with the package of the page and its entry point, as setuptools reads it off the page."""
    folder = tmp_path / "package"
    folder.mkdir()
    page = PAGE.read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (project,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (folder / "census.py").write_text(program)
    (folder / "pyproject.toml").write_text(project)
    # What an installation would write beside the module; making a wheel needs packages that this test does without.
    setup = [sys.executable, "-c", "import setuptools; setuptools.setup()", "-q", "egg_info"]
    subprocess.run(setup, cwd=folder, check=True, timeout=60)
    return folder


def census(cluster: Cluster, n: int, database: str) -> list[list[str]]:
    """The rows of the table in order; [] while there is none."""
    question = {"namespace": database, "sql": "SELECT holder, token FROM census ORDER BY number"}
    status, answer = cluster.request(n, "POST", "/sql", document=question)
    return answer["rows"] if status == 200 else []


def test_the_worker_of_the_page_runs_once_and_goes_on_elsewhere(cluster: Cluster, package: Path):
    cluster.paths.append(package)
    cluster.form(3)
    cluster.wait(lambda: hactl.run(cluster.state_dir(0), "models").returncode == 0, "models can be asked for")
    (model,) = hactl.ask(cluster.state_dir(0), "models")["models"]
    database = f"model-{model['uuid']}"
    cluster.wait(lambda: len(census(cluster, 0, database)) > 3, "it counts", 30)
    ((holder, _),) = {tuple(row) for row in census(cluster, 0, database)}

    cluster.kill(int(holder))
    others = [n for n in range(3) if n != int(holder)]
    cluster.wait(lambda: census(cluster, others[0], database)[-1:][0][0] != holder, "another goes on", 30)
    cluster.start(int(holder))
    cluster.wait(lambda: cluster.serving(0, 1, 2), "the one that was killed is back", 40)
    before = len(census(cluster, 0, database))
    cluster.wait(lambda: len(census(cluster, 0, database)) > before + 5, "it goes on counting")

    told = census(cluster, 0, database)
    assert len({holder for holder, _ in told}) == 2
    tokens = [tuple(map(int, token.split("."))) for _, token in told]
    assert tokens == sorted(tokens), "nobody wrote under an older token than one that was written under"
    for n in range(3):
        report = json.loads(hactl.run(cluster.state_dir(n), "engine", "--format", "json").stdout)
        manager = report["manifolds"]["model-worker-manager"]["report"]
        assert manager["plugins"]["census"] == {
            "source": "census:manifolds",
            "state": "in use",
            "manifolds": ["census"],
        }
        states = manager["models"][model["uuid"]]["manifolds"]["census"]["state"]
        assert states == ("started" if str(n) == told[-1][0] else "stopped")

"""docs/explanation/engine.md: its tables are the tables that run, and its skeleton sweeps."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from controller import manifolds
from controller.engine import Engine, Manifold, Manifolds, lend
from controller.leases import Key, Responsibility, Token, timing
from controller.models import manifolds as modelmanifolds
from controller.models.model import ALIVE, Model
from dbaccessor.database import Database
from sqlitenode import SqliteNode

PAGE = (Path(__file__).parents[3] / "docs" / "explanation" / "engine.md").read_text()
UUID = "00000000-0000-4000-8000-000000000001"


def of_the_page(heading: str) -> dict[str, set[str]]:
    """The inputs of each manifold in the table of the page that begins with this heading."""
    (table,) = re.findall(rf"^\| {heading} \|.*\n\|---.*\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]
    return {name.strip("`"): set(re.findall(r"`([^`]+)`", needs)) for name, _, needs in rows}


def that_run(table: Manifolds) -> dict[str, set[str]]:
    return {name: set(manifold.inputs) for name, manifold in table.items()}


def test_the_page_lists_every_manifold_of_the_controller_with_its_inputs():
    any_: Any = SimpleNamespace(
        manifold=lambda *inputs: Manifold(lambda _: any_, inputs), state_dir=Path(), worker=None
    )

    table = manifolds.controller_manifolds(any_, any_, any_, any_, any_, lambda _: None)

    assert of_the_page("manifold") == that_run(table)


def test_the_page_lists_every_manifold_of_a_model_with_its_inputs():
    watch: Any = SimpleNamespace(model=Model(UUID, "m", "", ALIVE, ""))
    leases: Any = SimpleNamespace(timing=timing.for_latency(10))
    any_: Any = SimpleNamespace()

    table = modelmanifolds.model_manifolds(watch, any_, leases, any_, any_, any_)

    assert of_the_page("manifold of a model") == that_run(table)


class Held:
    """A singular flag that says yes."""

    def __init__(self) -> None:
        self.responsibility = Responsibility(Key("n", "m", "m"), Token(0, 1), "0", "i", lambda: 0.0)

    def check(self) -> bool:
        return True


def test_the_skeleton_of_the_page_runs_and_reports_what_it_swept():
    (source,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    skeleton: dict[str, Any] = {}
    exec(source, skeleton)

    async def story() -> None:
        node = SqliteNode("CREATE TABLE crumb (what TEXT)")
        node.sqlite.execute("INSERT INTO crumb VALUES ('a'), ('b')")
        database = Database(node, "model-m")  # type: ignore[arg-type]
        engine = Engine({"model-database": lend(database), "is-responsible": lend(Held()), **skeleton["MANIFOLDS"]})
        running = asyncio.create_task(engine.run())
        async with asyncio.timeout(10):
            while engine.report()["manifolds"]["sweeper"].get("report") != {"swept": 2}:
                await asyncio.sleep(0.01)
        assert node.sqlite.execute("SELECT count(*) FROM fence").fetchone() == (1,)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        database.close()

    asyncio.run(story())

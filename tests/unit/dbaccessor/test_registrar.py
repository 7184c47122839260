"""members.json: what a member remembers of the others for the time when nobody can be asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from dbaccessor.database import Database
from dbaccessor.identity import Members, Store
from dbaccessor.registrar import Registrar


@pytest.mark.parametrize(
    ("before", "told", "after"),
    [
        (Members(), (5, ("1",)), (5, ("1",))),
        (Members(recorded=5, recorded_by=("1",)), (5, ("2",)), (5, ("1", "2"))),
        (Members(recorded=5, recorded_by=("1",)), (6, ("2",)), (6, ("2",))),
        # The row is gone: what it recorded stays.
        (Members(recorded=5, recorded_by=("1",)), (4, ("2",)), (5, ("1",))),
        (Members(recorded=5, recorded_by=("1",)), (0, ()), (5, ("1",))),
        # Written by a version that kept no names.
        (Members(recorded=5), (5, ("2",)), (5, ())),
    ],
)
def test_who_recorded_the_highest_generation_is_remembered_with_it(
    tmp_path: Path, before: Members, told: tuple[int, tuple[str, ...]], after: tuple[int, tuple[str, ...]]
):
    store = Store(tmp_path)
    store.save_members(before)
    registrar = Registrar(store, cast(Database, cast(Any, None)))
    registrar.load()

    registrar.save(recorded=told[0], recorded_by=told[1])

    kept = store.members()
    assert (kept.recorded, kept.recorded_by) == after

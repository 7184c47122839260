"""members.json: what a member remembers of the others for the time when nobody can be asked."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from dbaccessor import registry
from dbaccessor.conf import ControllerConf
from dbaccessor.database import Database
from dbaccessor.dial import AddressBook
from dbaccessor.identity import Epoch, Identity, Known, Members, Store
from dbaccessor.localnode import Probe
from dbaccessor.outlook import Outlook
from dbaccessor.preamble import MemberFact
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


def test_what_was_seen_before_going_on_alone_does_not_forget_who_was_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The question to the database is answered only when the node leads alone, in the new epoch."""
    me = Identity(cluster_uuid="u", controller_id="0", dqlite_id=1, epoch=Epoch(1, "a"), state="member", fingerprint="")
    facts = tuple(MemberFact(i + 1, f"controller-{i}-{i + 1}", "voter") for i in range(2))
    outlook = Outlook(me, Probe(me.name, facts))
    left = Known("1", "controller-1-2", "10.0.0.11", dropped=True)
    store = Store(tmp_path)
    store.save_members(Members())
    registrar = Registrar(store, cast(Database, cast(Any, None)))
    registrar.load()

    async def rows(_: object) -> tuple[tuple[registry.NodeRow, ...], tuple[Known, ...]]:
        store.save_members(Members(known=(left,)))
        registrar.load()
        return (), ()

    monkeypatch.setattr(registry, "rows", rows)
    asyncio.run(
        registrar.remember(
            me, outlook, ControllerConf(controller_id="0", generation=5, db_bind_addresses={}), AddressBook()
        )
    )

    assert registrar.dropped == (left,)
    assert store.members().known == (left,)

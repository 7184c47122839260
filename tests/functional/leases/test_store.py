"""The table of leases on real Dqlite: the contract, and what the fence's statements do there."""

from __future__ import annotations

import asyncio

import pytest

import leasecontract
from controller.leases import Fenced, Key, Responsibility, Token, store
from controller.leases.store import LeaseStore
from dbaccessor import schema
from dbaccessor.database import Database, Transaction
from dbaccessor.namespaces import Namespaces
from dqlitenodes import InProcess

KEY = Key("singular-controller", "m", "m")


def test_the_real_table_keeps_the_contract(nodes: InProcess):
    async def play() -> None:
        await asyncio.to_thread(nodes.found)
        databases = {name: Database(nodes, name) for name in ("controller", store.DATABASE)}
        await found_namespaces(databases["controller"])
        for _ in range(2):
            await store.create(Namespaces(databases.__getitem__))
        await leasecontract.keep(LeaseStore(databases[store.DATABASE]))
        for database in databases.values():
            database.close()

    asyncio.run(play())


def test_two_controllers_fence_one_another_in_a_real_database(nodes: InProcess):
    async def play() -> None:
        await asyncio.to_thread(nodes.found)
        mine, theirs = Database(nodes, "model"), Database(nodes, "model")

        async def make(tx: Transaction) -> None:
            await tx.execute("CREATE TABLE work (holder TEXT NOT NULL)")

        async def work(tx: Transaction) -> None:
            await tx.execute("INSERT INTO work (holder) SELECT holder FROM fence")

        await mine.run(make)
        former = Responsibility(KEY, Token(0, 1), "0", "a", lambda: 0.0).fenced(mine)
        latter = Responsibility(KEY, Token(0, 2), "1", "b", lambda: 0.0).fenced(theirs)
        await former.run(work)
        assert (await latter.read("SELECT holder FROM work")).rows == (("0",),)
        with pytest.raises(Fenced):
            await former.run(work)
        await latter.run(work)
        assert (await latter.read("SELECT holder FROM work")).rows == (("0",), ("1",))
        mine.close()
        theirs.close()

    asyncio.run(play())


async def found_namespaces(controller: Database) -> None:
    """The part of the controller database that Namespaces needs."""

    async def make(tx: Transaction) -> None:
        await schema.apply(tx, schema.controller_patches(), own_version=0, lowest_version=0)

    await controller.run(make, deadline_seconds=30)

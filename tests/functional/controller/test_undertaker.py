"""The undertaker on a real node: step by step, with things in the model, and by a successor."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from controller import domainschema
from controller.leases import Fenced, Key, Responsibility, Token
from controller.models import own, store
from controller.models.model import DEAD, DYING, Model
from controller.models.remains import Remains
from controller.models.service import Models
from controller.models.undertaker import Undertaker
from controller.models.watch import ModelWatch
from controller.node import Node
from dbaccessor import errors
from dbaccessor.database import Transaction
from loopback import Cluster


async def wind_up(tx: Transaction) -> None:
    await tx.execute("UPDATE thing SET told = told + 1")


async def left(tx: Transaction) -> int:
    (count,) = (await tx.query("SELECT count(*) FROM thing")).rows[0]
    return int(str(count))


THINGS = Remains("things", wind_up, left)


@contextlib.asynccontextmanager
async def models_of(cluster: Cluster) -> AsyncIterator[Models]:
    cluster.configure([0])
    node = Node(cluster.state_dir(0))
    task = asyncio.create_task(node.run())
    try:
        await node.databases.until_serving()
        await domainschema.bring_up_to_date(node.databases)
        yield Models(node.databases)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def on_one(cluster: Cluster, play: Callable[[Models], Awaitable[None]]) -> None:
    async def run() -> None:
        async with models_of(cluster) as models:
            await play(models)

    asyncio.run(run())


def responsible(model: Model, count: int = 1) -> Responsibility:
    key = Key("singular-controller", model.uuid, model.uuid)
    return Responsibility(key, Token(1, count), str(count), f"incarnation-{count}", lambda: 0.0)


async def has_things(models: Models, model: Model, count: int) -> None:
    async def fill(tx: Transaction) -> None:
        await own.require_alive(tx)
        await tx.execute("CREATE TABLE IF NOT EXISTS thing (number INTEGER PRIMARY KEY, told INTEGER NOT NULL)")
        for _ in range(count):
            await tx.execute("INSERT INTO thing (told) VALUES (0)")

    await models.database(model).run(fill)


async def until(fact: Callable[[], Awaitable[bool]], what: str) -> None:
    async with asyncio.timeout(10):
        while not await fact():
            await asyncio.sleep(0.05)


def test_nothing_begins_in_a_dying_model_and_it_goes_when_what_was_in_it_has_ended(cluster: Cluster):
    async def play(models: Models) -> None:
        model = await models.add("staging")
        await has_things(models, model, 2)
        watch = ModelWatch(model)
        undertaker = Undertaker(watch, models, responsible(model), [THINGS])
        working = asyncio.create_task(undertaker.run())
        await asyncio.sleep(0.2)
        assert undertaker.report() == {"left": {}}, "a living model is none of its business"

        watch.update(await models.destroy("staging"))

        async def counted() -> bool:
            return undertaker.report() == {"left": {"things": 2}}

        await until(counted, "it counts")
        with pytest.raises(errors.Refused, match="is being destroyed"):
            await has_things(models, model, 1)
        told = (await models.database(model).read("SELECT DISTINCT told > 0 FROM thing")).rows
        assert told == ((1,),), "each was told to end"
        assert [m.life for m in await models.all() if m.uuid == model.uuid] == [DYING]

        async def end(tx: Transaction) -> None:
            await tx.execute("DELETE FROM thing")

        await models.database(model).run(end)
        async with asyncio.timeout(10):
            await working
        assert model.uuid not in [m.uuid for m in await models.all()]
        assert model.database not in await models.databases.names()
        with pytest.raises(errors.Refused, match="there is no database"):
            await models.database(model).read("SELECT 1")

    on_one(cluster, play)


def test_a_successor_goes_on_where_the_one_before_it_died(cluster: Cluster):
    async def play(models: Models) -> None:
        for steps in range(3):
            model = await models.add(f"staging-{steps}")
            dying = await models.destroy(model.uuid)
            controller = models.databases.database("controller")
            if steps > 0:
                await controller.run(lambda tx, model=model: store.bury(tx, model.uuid))
            if steps > 1:
                await models.databases.delete(model.database)
            (seen,) = [m for m in await models.all() if m.uuid == model.uuid]
            assert seen.life == (DEAD if steps else DYING)
            if steps:
                with pytest.raises(errors.Refused, match="is gone"):
                    await models.make_database(model)

            async with asyncio.timeout(10):
                await Undertaker(ModelWatch(seen), models, responsible(dying, 2), []).run()
            assert model.uuid not in [m.uuid for m in await models.all()]
            assert model.database not in await models.databases.names()

    on_one(cluster, play)


def test_a_model_whose_database_nobody_made_yet_can_be_destroyed(cluster: Cluster):
    async def play(models: Models) -> None:
        async def only_the_row(tx: Transaction) -> Model:
            return await store.add(tx, "11111111-2222-4333-8444-555555555555", "staging", "")

        await models.databases.database("controller").run(only_the_row)
        dying = await models.destroy("staging")
        async with asyncio.timeout(10):
            await Undertaker(ModelWatch(dying), models, responsible(dying), []).run()
        assert [m.name for m in await models.all()] == ["controller"]

    on_one(cluster, play)


def test_a_former_holder_destroys_nothing(cluster: Cluster):
    async def play(models: Models) -> None:
        model = await models.add("staging")
        await responsible(model, 2).fenced(models.database(model)).read("SELECT 1")
        dying = await models.destroy("staging")

        with pytest.raises(Fenced):
            await Undertaker(ModelWatch(dying), models, responsible(model, 1), []).run()
        assert [m.life for m in await models.all() if m.uuid == model.uuid] == [DYING]
        assert model.database in await models.databases.names()

    on_one(cluster, play)


def test_the_same_request_twice_is_one_model_and_another_uuid_is_refused(cluster: Cluster):
    async def play(models: Models) -> None:
        model = await models.add("staging")
        assert await models.add("staging", model.uuid) == model
        with pytest.raises(errors.Refused, match="there is a model staging already"):
            await models.add("staging")
        with pytest.raises(errors.Refused, match="there is a model staging already"):
            await models.add("other", model.uuid)
        dying = await models.destroy("staging")
        assert await models.destroy(model.uuid) == dying
        with pytest.raises(errors.Refused, match="no model nobody"):
            await models.destroy("nobody")
        with pytest.raises(errors.Refused, match="as long as they are"):
            await models.destroy("controller")

    on_one(cluster, play)

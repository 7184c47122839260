"""The rows of addresses on the real library: every statement of theirs, as one controller uses them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from controller.api import nodes
from controller.workers.addressreporter import AddressReporter
from controller.workers.addresssetter import AddressSetter
from dbaccessor import errors, schema
from dbaccessor.database import Database, Transaction
from dbaccessor.dqlite import native
from dqlitenodes import InProcess

LIB = Path(__file__).parents[3] / "lib"
PATCHES = (
    LIB / "dbaccessor/schema/0001-controller.sql",
    LIB / "controller/schema/controller/0001-models.sql",
    LIB / "controller/schema/controller/0002-api-addresses.sql",
)


@pytest.fixture(scope="module", autouse=True)
def _library() -> None:
    try:
        native.load()
    except errors.LibraryTooOld as error:
        pytest.fail(f"{error} (scripts/setup installs it)")


def test_reports_spaces_and_lists_on_a_real_node(tmp_path: Path):
    cluster = InProcess(tmp_path)

    async def begin(tx: Transaction) -> None:
        for path in PATCHES:
            for statement in schema.parse(path.name, path.read_text()).statements:
                await tx.execute(statement)
        await tx.execute(
            "INSERT INTO controller_node (controller_id, dqlite_node_id, name, dqlite_bind_address, generation)"
            " VALUES ('0', '7', 'controller-0-7', '10.0.0.1', 1)"
        )

    async def play() -> None:
        await asyncio.to_thread(cluster.found)
        database = Database(cluster, "controller")
        await database.run(begin, deadline_seconds=30)
        reporter = AddressReporter(database, "0", lambda: (("10.0.0.1", "10.1.0.1"), 17070))
        setter = AddressSetter(database, 17070)

        assert await reporter.look()
        assert await setter.look()
        assert not await setter.look()
        assert await database.run(lambda tx: nodes.set_space(tx, "blue", ["10.1.0.0/16"]))
        await database.run(_choose_blue)
        assert await setter.look()

        agents = await database.run(lambda tx: nodes.published(tx, nodes.AGENTS), read_only=True)
        clients = await database.run(lambda tx: nodes.published(tx, nodes.CLIENTS), read_only=True)
        assert agents is not None
        assert clients is not None
        assert ([str(s) for part in agents.servers for s in part.servers], agents.revision) == (["10.1.0.1:17070"], 2)
        assert ([str(s) for part in clients.servers for s in part.servers], clients.revision) == (
            ["10.0.0.1:17070", "10.1.0.1:17070"],
            1,
        )
        assert await database.run(lambda tx: nodes.remove_space(tx, "blue"))
        assert await setter.look()
        assert "no space has that name" in setter.report()["notes"][0]
        database.close()

    try:
        asyncio.run(play())
    finally:
        cluster.close()


async def _choose_blue(tx: Transaction) -> None:
    await tx.execute('INSERT INTO controller_config ("key", value) VALUES (?, ?)', (nodes.MANAGEMENT_SPACE, "blue"))

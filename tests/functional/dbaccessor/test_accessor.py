"""The embedding API on real nodes: DbAccessor in this process, and controllers of their own beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from dbaccessor import errors, schema
from dbaccessor.accessor import DbAccessor
from dbaccessor.database import Database, Transaction
from dbaccessor.namespaces import Namespaces
from dbaccessor.schema import Patch
from loopback import Cluster

FIRST = Patch(1, "0001-first.sql", ("CREATE TABLE parent (a INTEGER NOT NULL PRIMARY KEY, b TEXT NOT NULL)",))
SECOND = Patch(
    2,
    "0002-second.sql",
    (
        "CREATE TABLE child (p INTEGER NOT NULL PRIMARY KEY REFERENCES parent (a), q INTEGER REFERENCES child (p))",
        "CREATE VIEW v AS SELECT b FROM parent",
        "CREATE INDEX i ON child (p)",
    ),
)
CONTRACT = Patch(3, "0003-contract.sql", ("DROP VIEW v", "ALTER TABLE parent DROP COLUMN b"), needs=2)


@pytest.fixture
def cluster(tmp_path: Path):
    with Cluster(tmp_path, 82) as made:
        yield made


def on_one(cluster: Cluster, play: Callable[[DbAccessor], Awaitable[None]], version: int = 0) -> None:
    async def run() -> None:
        cluster.configure([0])
        async with DbAccessor(cluster.state_dir(0), version=version) as accessor:
            await play(accessor)

    asyncio.run(run())


async def insert(accessor: DbAccessor, name: str, number: int) -> None:
    async def write(tx: Transaction) -> None:
        await tx.execute("INSERT INTO parent (a, b) VALUES (?, 'x')", (number,))

    await accessor.database(name).run(write)


def test_databases_are_created_listed_and_deleted_and_come_back_empty(cluster: Cluster):
    async def play(accessor: DbAccessor) -> None:
        assert await accessor.databases() == ("controller",)
        for _ in range(2):  # Idempotent: every controller does this at every start.
            assert await accessor.create_database("model-1", [FIRST, SECOND]) == ()
        assert await accessor.databases() == ("controller", "model-1")

        async def fill(tx: Transaction) -> None:
            await tx.execute("INSERT INTO parent VALUES (1, 'one'), (2, 'two')")
            await tx.execute("INSERT INTO child VALUES (1, NULL), (2, 1)")
            await tx.execute("CREATE TRIGGER g AFTER DELETE ON parent BEGIN INSERT INTO parent VALUES (9, ''); END")
            await tx.execute('CREATE TABLE "odd ""name" (x REFERENCES parent (a))')
            await tx.execute('INSERT INTO "odd ""name" VALUES (1)')
            await tx.execute("CREATE TABLE counted (n INTEGER PRIMARY KEY AUTOINCREMENT)")
            await tx.execute("INSERT INTO counted DEFAULT VALUES")
            await tx.execute("CREATE TABLE keyed (k TEXT PRIMARY KEY, p REFERENCES parent (a)) WITHOUT ROWID")
            await tx.execute("INSERT INTO keyed VALUES ('k', 1)")
            await tx.execute("CREATE TABLE named (rowid TEXT, a)")
            await tx.execute("INSERT INTO named VALUES (NULL, 1), ('same', 2), ('same', 3)")
            await tx.execute("CREATE VIRTUAL TABLE words USING fts5(body)")
            await tx.execute("INSERT INTO words VALUES ('the quick fox')")

        await accessor.database("model-1").run(fill)
        handle = accessor.database("model-1")
        await accessor.delete_database("model-1")
        await accessor.delete_database("model-1")
        assert await accessor.databases() == ("controller",)
        with pytest.raises(errors.NotReady, match="closed"):
            await handle.read("SELECT 1")
        with pytest.raises(errors.Refused, match="no database"):
            await accessor.database("model-1").read("SELECT 1")

        await accessor.create_database("model-1", [FIRST])
        assert (await accessor.database("model-1").read("SELECT count(*) FROM parent")).rows == ((0,),)
        names = await accessor.database("model-1").read("SELECT name FROM sqlite_schema WHERE name IN ('child', 'v')")
        assert names.rows == ()

    on_one(cluster, play)


def test_a_database_that_is_made_or_deleted_leaves_no_connection_behind(cluster: Cluster):
    async def play(accessor: DbAccessor) -> None:
        handles = accessor._running._databases  # Each may keep connections to the leader, which serves so many only.
        for n in range(3):
            await accessor.create_database(f"m{n}", [FIRST])
            assert handles.keys() == {"controller"}
        await asyncio.gather(
            *(accessor.create_database("m0", [FIRST]) for _ in range(3)),
            accessor.create_database("m1", [FIRST]),
            *(accessor.delete_database("m2") for _ in range(2)),
        )
        assert handles.keys() == {"controller"}
        await insert(accessor, "m0", 1)

    on_one(cluster, play)


def test_what_an_interrupted_deletion_left_is_gone_before_the_name_is_used_again(cluster: Cluster):
    async def play(accessor: DbAccessor) -> None:
        await accessor.create_database("m", [FIRST])
        await insert(accessor, "m", 1)

        async def only_the_row(tx: Transaction) -> None:
            await tx.execute("DELETE FROM namespace_list WHERE namespace = 'm'")

        await accessor.database("controller").run(only_the_row)
        await accessor.create_database("m", [FIRST])
        assert (await accessor.database("m").read("SELECT count(*) FROM parent")).rows == ((0,),)

    on_one(cluster, play)


@pytest.mark.parametrize(
    "name", ["controller", "", ":memory:", "../x", "A", "x" * 64, "-x", "a\0b", "m-wal", "m-journal"]
)
def test_names_that_are_none_are_refused(cluster: Cluster, name: str):
    async def play(accessor: DbAccessor) -> None:
        for operation in (accessor.create_database, accessor.delete_database):
            with pytest.raises(errors.Refused):
                await operation(name)

    on_one(cluster, play)


def test_a_patch_that_fails_leaves_nothing_of_itself_and_is_tried_again(cluster: Cluster):
    broken = Patch(2, "0002-broken.sql", ("CREATE TABLE half (a)", "CREATE TABLE parent (a)"))

    async def play(accessor: DbAccessor) -> None:
        with pytest.raises(errors.Refused, match="already exists"):
            await accessor.create_database("m", [FIRST, broken])
        await accessor.create_database("m", [FIRST, SECOND])
        found = await accessor.database("m").read("SELECT count(*) FROM sqlite_schema WHERE name IN ('half', 'child')")
        assert found.rows == ((1,),)

    on_one(cluster, play)


def test_a_contracting_patch_waits_until_every_controller_is_of_the_new_version(cluster: Cluster):
    """Another controller has reported version 1: the patch that it could not read waits; at 2 it runs."""

    async def other(accessor: DbAccessor, version: int) -> None:
        async def write(tx: Transaction) -> None:
            await tx.execute(
                "INSERT INTO controller_node (controller_id, dqlite_node_id, name, dqlite_bind_address, generation,"
                " application) VALUES ('9', '9', 'controller-9-9', '', 1, ?)"
                " ON CONFLICT (controller_id) DO UPDATE SET application = excluded.application",
                (version,),
            )

        await accessor.database("controller").run(write)

    async def play(accessor: DbAccessor) -> None:
        await other(accessor, 1)
        assert await accessor.create_database("m", [FIRST, SECOND, CONTRACT]) == (CONTRACT,)
        await insert(accessor, "m", 1)
        await other(accessor, 2)
        assert await accessor.create_database("m", [FIRST, SECOND, CONTRACT]) == ()
        with pytest.raises(errors.Refused, match="no column named b"):
            await insert(accessor, "m", 2)

    on_one(cluster, play, version=2)

    async def older() -> None:
        async with DbAccessor(cluster.state_dir(0), version=1) as accessor:
            with pytest.raises(errors.Refused, match="needs version 2"):
                await accessor.create_database("m", [FIRST, SECOND])

    asyncio.run(older())


class Overtaken:
    """A database before whose first transaction something else happens."""

    def __init__(self, database: Database, before: Callable[[], Awaitable[None]]) -> None:
        self._database = database
        self._before = before
        self.overtaken = False

    async def run(self, *args: Any, **options: Any) -> Any:
        if not self.overtaken:
            self.overtaken = True
            await self._before()
        return await self._database.run(*args, **options)


class Watched:
    """A database of which `look` is called after each transaction."""

    def __init__(self, database: Database, look: Callable[[], Awaitable[None]]) -> None:
        self._database = database
        self._look = look

    async def run(self, *args: Any, **options: Any) -> Any:
        done = await self._database.run(*args, **options)
        await self._look()
        return done


def test_nobody_sees_a_part_of_a_database_that_is_being_deleted(cluster: Cluster):
    """Its rows go away in several transactions; other controllers learn of it by the tables being gone."""

    async def play(accessor: DbAccessor) -> None:
        await accessor.create_database("m", [FIRST])
        for number in range(40):
            await insert(accessor, "m", number)
        database, seen = accessor._running.database("m"), []

        async def look() -> None:
            left = await database.read("SELECT name FROM sqlite_schema WHERE type = 'table'")
            names = {str(row[0]) for row in left.rows}
            assert "parent" not in names
            (name,) = names & {"deleted parent"} or {""}
            count = (await database.read('SELECT count(*) FROM "deleted parent"')).rows[0][0] if name else 0
            seen.append(int(str(count)))
            if len(seen) == 4:
                raise ConnectionError("its caller is killed here")

        watched = Watched(database, look)
        namespaces = Namespaces(lambda n: cast(Any, watched) if n == "m" else accessor.database(n))
        with pytest.raises(ConnectionError):
            await namespaces.delete("m")
        assert seen == [40, 39, 37, 33]

        await accessor.create_database("m", [FIRST])
        assert (await accessor.database("m").read("SELECT count(*) FROM parent")).rows == ((0,),)
        left = await accessor.database("m").read("SELECT name FROM sqlite_schema WHERE name LIKE 'deleted%'")
        assert left.rows == ()

    on_one(cluster, play)


def test_deleting_a_large_database_costs_the_leader_nothing(cluster: Cluster):
    large = Patch(1, "0001-large.sql", ("CREATE TABLE large (n INTEGER NOT NULL PRIMARY KEY, pad BLOB)",))

    async def run() -> None:
        databases = {name: Database(cluster.connector(0, 1, 2), name) for name in ("controller", "large")}
        namespaces = Namespaces(databases.__getitem__)
        await namespaces.create("large", [large])

        async def fill(tx: Transaction) -> None:
            await tx.execute(
                "INSERT INTO large (pad) WITH RECURSIVE s (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s LIMIT 1000)"
                " SELECT zeroblob(2000) FROM s"
            )

        for _ in range(35):
            await databases["large"].run(fill)
        before = cluster.status(0)["leader-changes"]
        await namespaces.delete("large")
        assert cluster.status(0)["leader-changes"] == before
        for database in databases.values():
            database.close()

    cluster.form(3)
    asyncio.run(run())


def test_a_controller_of_an_old_version_that_comes_while_a_patch_is_about_to_run_is_refused(cluster: Cluster):
    """The versions are read in one database and the patch runs in another: no transaction spans both."""

    async def play(accessor: DbAccessor) -> None:
        await accessor.create_database("m", [FIRST, SECOND])

        async def an_old_one_comes() -> None:
            await accessor.database("controller").run(
                lambda tx: tx.execute(
                    "INSERT INTO controller_node (controller_id, dqlite_node_id, name, dqlite_bind_address, generation,"
                    " application) VALUES ('9', '9', 'controller-9-9', '127.0.0.9', 1, 1)"
                )
            )
            with pytest.raises(errors.Refused, match="needs version 2, and this is 1"):
                await Namespaces(accessor.database, version=1).create("m", [FIRST, SECOND])

        between = Overtaken(accessor.database("m"), an_old_one_comes)
        namespaces = Namespaces(lambda n: cast(Any, between) if n == "m" else accessor.database(n), version=2)
        assert await namespaces.create("m", [FIRST, SECOND, CONTRACT]) == ()
        assert between.overtaken
        # Whoever comes before is seen: nothing is raised for it, and the patch waits.
        assert await accessor.create_database("n", [FIRST, SECOND, CONTRACT]) == (CONTRACT,)
        assert await Namespaces(accessor.database, version=1).create("n", [FIRST, SECOND]) == ()

    on_one(cluster, play, version=2)


def test_a_long_transaction_in_one_database_blocks_no_other(cluster: Cluster):
    async def play(accessor: DbAccessor) -> None:
        for name in ("one", "two"):
            await accessor.create_database(name, [FIRST])
        async with accessor.database("one").transaction() as stuck:
            await stuck.execute("INSERT INTO parent VALUES (1, 'x')")
            with pytest.raises(errors.NotReady):
                await accessor.database("one").run(lambda tx: tx.query("SELECT 1"), deadline_seconds=0.3)
            for number in range(20):
                async with asyncio.timeout(5):
                    await insert(accessor, "two", number)
                    await accessor.database("one").read("SELECT count(*) FROM parent")
        assert (await accessor.database("one").read("SELECT count(*) FROM parent")).rows == ((1,),)

    on_one(cluster, play)


def test_an_embedded_member_of_three_uses_databases_from_wherever_it_is(cluster: Cluster):
    """This process is the third controller: it creates on the leader, and the others are told."""

    async def run() -> None:
        cluster.form(2)
        cluster.configure([0, 1, 2])
        async with DbAccessor(cluster.state_dir(2)) as accessor:
            await accessor.create_database("shared", [FIRST])
            async with asyncio.TaskGroup() as group:
                for number in range(20):
                    group.create_task(insert(accessor, "shared", number))
            assert (await accessor.database("shared").read("SELECT count(*) FROM parent")).rows == ((20,),)
            assert accessor.status()["state"] == "serving"

    asyncio.run(run())


def test_two_processes_never_own_one_directory_and_a_node_without_configuration_says_what_it_waits_for(
    cluster: Cluster,
):
    async def run() -> None:
        with pytest.raises(errors.NotReady, match="no configuration|controller.conf"):
            async with DbAccessor(cluster.state_dir(1), ready_seconds=0.5):
                raise AssertionError
        cluster.configure([0])
        async with DbAccessor(cluster.state_dir(0)):
            with pytest.raises(errors.NotReady, match="owns"):
                async with DbAccessor(cluster.state_dir(0)):
                    raise AssertionError
        # An error of the block is the block's own.
        with pytest.raises(ZeroDivisionError):
            async with DbAccessor(cluster.state_dir(0)):
                raise ZeroDivisionError

    asyncio.run(run())


def test_patches_come_from_files_in_order(tmp_path: Path):
    (tmp_path / "0001-a.sql").write_text("CREATE TABLE a (x);\nCREATE TABLE b (x);\n")
    (tmp_path / "0002-b.sql").write_text("-- needs version 3\nDROP TABLE b;\n")
    assert schema.load(tmp_path) == (
        Patch(1, "0001-a.sql", ("CREATE TABLE a (x)", "CREATE TABLE b (x)")),
        Patch(2, "0002-b.sql", ("DROP TABLE b",), 3),
    )
    (tmp_path / "0004-d.sql").write_text("")
    with pytest.raises(ValueError, match="numbered"):
        schema.load(tmp_path)


def test_two_programs_number_their_patches_apart_in_one_database(cluster: Cluster):
    mine = Patch(1, "0001-mine.sql", ("CREATE TABLE mine (a INTEGER)",))
    later = Patch(2, "0002-later.sql", ("DROP TABLE mine",), needs=2)

    async def play(accessor: DbAccessor) -> None:
        controller = accessor.database("controller")
        before = (await controller.read("SELECT number, name FROM schema_patch")).rows

        async def apply(version: int) -> tuple[Patch, ...]:
            return await controller.run(
                lambda tx: schema.apply(
                    tx, [mine, later], own_version=version, lowest_version=version, ledger="application"
                )
            )

        assert await apply(1) == (later,)
        assert await apply(1) == (later,)
        assert (await controller.read("SELECT number, name FROM application_patch")).rows == ((1, "0001-mine.sql"),)
        assert await apply(2) == ()
        with pytest.raises(errors.Refused, match="needs version 2, and this is 1"):
            await apply(1)
        assert (await controller.read("SELECT number, name FROM schema_patch")).rows == before
        for wrong in ("", "x y", "x;DROP TABLE mine"):
            with pytest.raises(ValueError, match="no name for a ledger"):
                await controller.run(
                    lambda tx, wrong=wrong: schema.apply(tx, [], own_version=1, lowest_version=1, ledger=wrong)
                )

    on_one(cluster, play)


def test_a_database_is_made_only_while_what_it_is_for_is_there(cluster: Cluster):
    async def play(accessor: DbAccessor) -> None:
        namespaces = Namespaces(accessor.database)

        async def provided(tx: Transaction) -> None:
            if not (await tx.query("SELECT 1 FROM controller_config WHERE \"key\" = 'wanted'")).rows:
                raise errors.Refused("nobody wants it")

        async def want(tx: Transaction) -> None:
            await tx.execute("INSERT INTO controller_config (\"key\", value) VALUES ('wanted', 'yes')")

        with pytest.raises(errors.Refused, match="nobody wants it"):
            await namespaces.create("m", [FIRST], provided=provided)
        assert await accessor.databases() == ("controller",)
        await accessor.database("controller").run(want)
        await namespaces.create("m", [FIRST], provided=provided)
        assert await accessor.databases() == ("controller", "m")

    on_one(cluster, play)

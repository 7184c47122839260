"""Flow 1, hop 7: the rows that say which node belongs to which controller, in the `controller` database.

They are what a member leaves behind for the case that nobody can be asked: its name, its address, and the generation
of the configuration in force when it joined.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dbaccessor import schema
from dbaccessor.database import Database, Transaction
from dbaccessor.identity import Identity, Known
from dbaccessor.preamble import MembershipRequest

DATABASE = "controller"


# A generation once recorded never sinks: a configuration must be newer than all of them to permit going on alone.
_UPSERT = (
    "INSERT INTO controller_node (controller_id, dqlite_node_id, name, dqlite_bind_address, generation)"
    " VALUES (?, ?, ?, ?, ?) ON CONFLICT (controller_id) DO UPDATE SET dqlite_node_id = excluded.dqlite_node_id,"
    " name = excluded.name, dqlite_bind_address = excluded.dqlite_bind_address,"
    " generation = max(generation, excluded.generation)"
)
# Every member asks this every other second, so both tables in one question.
_ROWS = (
    "SELECT controller_id, name, dqlite_bind_address, generation FROM controller_node"
    " UNION ALL SELECT controller_id, name, address, NULL FROM controller_dropped"
)


@dataclass(frozen=True)
class NodeRow:
    controller_id: str
    name: str
    address: str
    generation: int


async def announce(
    database: Database,
    identity: Identity,
    address: str,
    generation: int,
    dropped: Iterable[Known],
    application: int = 0,
) -> None:
    """Apply the schema and write this node's row and the cluster's identity. Idempotent; raises DbAccessorError.

    `generation` is 0 for a node that only came back: what it recorded when it joined stays. `dropped` are the members
    that a forced reconfiguration left behind; every later member is to know of them. `application` is the version of
    the program around this package, by which its own patches wait for each other (schema).
    """
    left_behind = tuple(dropped)
    patches = schema.controller_patches()

    async def write(tx: Transaction) -> None:
        lowest = await _lowest_version(tx, identity.controller_id)
        await schema.apply(tx, patches, own_version=len(patches), lowest_version=lowest)
        await tx.execute(_UPSERT, (identity.controller_id, str(identity.dqlite_id), identity.name, address, generation))
        await tx.execute(
            "UPDATE controller_node SET version = ?, application = ? WHERE controller_id = ?",
            (len(patches), application, identity.controller_id),
        )
        for key, value in (
            ("cluster-uuid", identity.cluster_uuid),
            ("epoch-number", str(identity.epoch.number)),
            ("epoch-tag", identity.epoch.tag),
        ):
            await tx.execute(
                'INSERT INTO controller_config ("key", value) VALUES (?, ?)'
                ' ON CONFLICT ("key") DO UPDATE SET value = excluded.value WHERE value <> excluded.value',
                (key, value),
            )
        for known in left_behind:
            await tx.execute("DELETE FROM controller_node WHERE name = ?", (known.name,))
            await tx.execute(
                "INSERT INTO controller_dropped (name, controller_id, address) VALUES (?, ?, ?)"
                " ON CONFLICT (name) DO NOTHING",
                (known.name, known.controller_id, known.address),
            )

    await database.run(write)


async def rows(database: Database) -> tuple[tuple[NodeRow, ...], tuple[Known, ...]]:
    """Return every controller's row, and the members left behind that were not yet seen to know it; of one moment."""
    found = await database.read(_ROWS)
    nodes = tuple(NodeRow(str(i), str(n), str(a), int(str(g))) for i, n, a, g in found.rows if g is not None)
    return nodes, tuple(Known(str(i), str(n), str(a), dropped=True) for i, n, a, g in found.rows if g is None)


async def record_joining(database: Database, request: MembershipRequest, generation: int) -> None:
    """Write the row of a node that is about to be added, with the generation that names it."""

    async def write(tx: Transaction) -> None:
        row = (request.controller_id, str(request.dqlite_id), request.name, request.address, generation)
        await tx.execute(_UPSERT, row)

    await database.run(write)


async def delete(database: Database, name: str) -> None:
    """Delete the row of the node of this raft name."""

    async def write(tx: Transaction) -> None:
        await tx.execute("DELETE FROM controller_node WHERE name = ?", (name,))

    await database.run(write)


async def forget_dropped(database: Database, names: Iterable[str]) -> None:
    """Delete these from the members left behind: they have met the new epoch and were refused."""
    gone = tuple(names)

    async def write(tx: Transaction) -> None:
        for name in gone:
            await tx.execute("DELETE FROM controller_dropped WHERE name = ?", (name,))

    await database.run(write)


async def _lowest_version(tx: Transaction, controller_id: str) -> int:
    """Return the lowest version that another controller reported; this one's own is known."""
    columns = {str(row[1]) for row in (await tx.query("PRAGMA table_info(controller_node)")).rows}
    if "version" not in columns:
        return 0
    found = await tx.query("SELECT min(version) FROM controller_node WHERE controller_id <> ?", (controller_id,))
    lowest = found.rows[0][0]
    return len(schema.controller_patches()) if lowest is None else int(str(lowest))

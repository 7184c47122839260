"""Which databases there are: rows of `namespace_list` in the controller database, and each one's own schema.

Dqlite makes a database when it is first opened and has no way to drop one. So a namespace exists when it has a row,
and deleting it takes the row away first, then hides the tables, and empties the database. Two databases never share a
transaction: a row has a random *incarnation*, which the namespace's own database records as well. What is found in a
database under another incarnation than its row's was left by an earlier life, and is emptied before it is used; and
whoever was overtaken by a deletion and a new creation finds an incarnation that is not his, and changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from dbaccessor import emptying, errors, retry, schema
from dbaccessor.database import Database, Transaction
from dbaccessor.dqlite import names
from dbaccessor.schema import Patch

log = logging.getLogger(__name__)

CONTROLLER: Final = "controller"

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_FENCE: Final = "schema_incarnation"

_T = TypeVar("_T")


class Namespaces:
    """Creates, deletes and lists databases. `version` is what this program reports of itself (`application`)."""

    def __init__(self, database: Callable[[str], Database], version: int = 0) -> None:
        self._database = database
        self._version = version

    async def names(self, *, deadline_seconds: float = 10) -> tuple[str, ...]:
        """Return the names of all databases, the controller's first."""
        rows = await self._controller.read(
            "SELECT namespace FROM namespace_list ORDER BY namespace", deadline_seconds=deadline_seconds
        )
        return (CONTROLLER, *(str(row[0]) for row in rows.rows))

    async def require(self, name: str, *, deadline_seconds: float = 10) -> None:
        """Return if there is such a database. Raises Refused."""
        if name != CONTROLLER and await self._incarnation(name, deadline_seconds) is None:
            raise errors.Refused(f"there is no database {name!r}: create it first")

    async def create(
        self,
        name: str,
        patches: Sequence[Patch],
        *,
        provided: Callable[[Transaction], Awaitable[None]] | None = None,
        deadline_seconds: float = 30,
    ) -> tuple[Patch, ...]:
        """Make the database exist and bring its schema up to date; idempotent, and to be called at every start.

        `provided` is asked in the transaction (of the controller database) that makes the row, and raises where there
        must be no such database any more. Returns the patches that wait until all controllers report a newer version:
        call again later.
        """
        check_name(name)
        deadline = asyncio.get_running_loop().time() + deadline_seconds
        fresh = secrets.token_hex(8)

        async def insert(tx: Transaction) -> tuple[str, int]:
            if provided is not None:
                await provided(tx)
            await tx.execute(
                "INSERT INTO namespace_list (namespace, incarnation) VALUES (?, ?) ON CONFLICT (namespace) DO NOTHING",
                (name, fresh),
            )
            asked = "SELECT incarnation, needs FROM namespace_list WHERE namespace = ?"
            own, needed = (await tx.query(asked, (name,))).rows[0]
            if int(str(needed)) > self._version:
                raise schema.too_old(int(str(needed)), self._version)
            # The lowest version of those who may have the database open.
            (found,) = (await tx.query("SELECT coalesce(min(application), 0) FROM controller_node")).rows[0]
            lowest = int(str(found))
            needs = max((p.needs for p in patches if p.needs <= lowest), default=0)
            await tx.execute(
                "UPDATE namespace_list SET needs = ? WHERE namespace = ? AND needs < ?", (needs, name, needs)
            )
            return str(own), lowest

        incarnation, lowest = await _idempotent(self._controller, insert, deadline)
        while True:
            found = await self._database(name).run(_fence, read_only=True, deadline_seconds=retry.left(deadline))
            if found not in ("", incarnation) and await self._incarnation(name, retry.left(deadline)) != incarnation:
                raise errors.NotReady(f"{name} was deleted and created again meanwhile")

            async def build(tx: Transaction, found: str = found) -> tuple[Patch, ...] | None:
                now = await _fence(tx)
                if now not in (found, incarnation):
                    return None  # Somebody else's by now: look again.
                if now not in ("", incarnation):
                    await schema.empty(tx)
                await tx.execute(f"CREATE TABLE IF NOT EXISTS {_FENCE} (incarnation TEXT NOT NULL PRIMARY KEY)")
                await tx.execute(f"INSERT INTO {_FENCE} VALUES (?) ON CONFLICT DO NOTHING", (incarnation,))
                return await schema.apply(tx, patches, own_version=self._version, lowest_version=lowest)

            waiting = await _idempotent(self._database(name), build, deadline)
            if waiting is not None:
                for patch in waiting:
                    log.info("%s: %s waits until all controllers are of version %d", name, patch.name, patch.needs)
                return waiting

    async def delete(self, name: str, *, deadline_seconds: float = 30) -> None:
        """Make the database not exist: its row first, then its content. Idempotent. Raises Refused for "controller"."""
        check_name(name)
        deadline = asyncio.get_running_loop().time() + deadline_seconds
        incarnation = await self._incarnation(name, deadline_seconds)
        if incarnation is None:
            return

        async def remove(tx: Transaction) -> None:
            await tx.execute("DELETE FROM namespace_list WHERE namespace = ? AND incarnation = ?", (name, incarnation))

        async def clear(tx: Transaction) -> None:
            if await _fence(tx) == incarnation:
                await schema.empty(tx)

        await _idempotent(self._controller, remove, deadline)
        await self._shrink(name, incarnation, deadline)
        await _idempotent(self._database(name), clear, deadline)

    async def _shrink(self, name: str, incarnation: str, deadline: float) -> None:
        """Take away, part by part, what can be taken away so; what is left is for one transaction."""

        async def hide(tx: Transaction) -> list[str]:
            return await emptying.hide(tx, _FENCE) if await _fence(tx) == incarnation else []

        try:
            tables = await _idempotent(self._database(name), hide, deadline)
        except errors.Refused:
            return
        for table in tables * 2:  # What others referred to is taken in the second round.
            rows = 1
            while rows:

                async def take(tx: Transaction, table: str = table, rows: int = rows) -> emptying.Part:
                    fits = await _fence(tx) == incarnation
                    return await emptying.take(tx, table, rows) if fits else emptying.NOTHING

                try:
                    part = await _idempotent(self._database(name), take, deadline)
                except errors.Refused:
                    break
                rows = emptying.next_rows(rows, part) if part.rows else 0

    @property
    def _controller(self) -> Database:
        return self._database(CONTROLLER)

    async def _incarnation(self, name: str, deadline_seconds: float) -> str | None:
        rows = await self._controller.read(
            "SELECT incarnation FROM namespace_list WHERE namespace = ?", (name,), deadline_seconds=deadline_seconds
        )
        return str(rows.rows[0][0]) if rows.rows else None


def check_name(name: str) -> None:
    """Raise Refused unless a database may be created and deleted under this name."""
    if name == CONTROLLER:
        raise errors.Refused("the controller's own database is neither created nor deleted")
    if not _NAME.fullmatch(name) or not names.is_possible(name):
        raise errors.Refused(
            f"{name!r} is no name for a database: up to 63 of a-z, 0-9, '.', '_' and '-', a letter or digit first, and"
            " no -journal, -shm or -wal at the end"
        )


async def _fence(tx: Transaction) -> str:
    """Return the incarnation whose content this database holds, "" for none."""
    known = await tx.query("SELECT 1 FROM sqlite_schema WHERE name = ?", (_FENCE,))
    if not known.rows:
        return ""
    rows = await tx.query(f"SELECT incarnation FROM {_FENCE}")
    return str(rows.rows[0][0]) if rows.rows else ""


async def _idempotent(database: Database, fn: Callable[[Transaction], Awaitable[_T]], deadline: float) -> _T:
    """As `run`, and Indefinite is tried again too: doing these twice is as good as once."""
    while True:
        try:
            return await database.run(fn, deadline_seconds=retry.left(deadline))
        except errors.Indefinite:
            if retry.left(deadline) <= 0:
                raise

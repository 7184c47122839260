"""Flow 2, hop 1: the rows of table `lease`, and the one way in which a row changes.

A lease is claimed, renewed and given up by the same statement: it makes a row another one if the row is still what the
caller saw (token and renewal counter; no row counts as zeros), and tells what the row is now. Who saw something else
changes nothing. Each change raises the renewal counter, so no state of a row ever comes back, and a request that was
sent twice is done once at most.

A freed row stays: it has no holder and keeps its token, so that the next holder's is higher. Only the pruner deletes
some, those of models that are gone for good.

`changed` numbers the batches. An observer asks for what has changed since it looked last, and sees all leases so; for
all rows it asks now and then, to see which are gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Final, Protocol

import msgspec

from controller.leases.lease import Key, Token
from dbaccessor import errors, schema
from dbaccessor.database import Database
from dbaccessor.groupcommit import Batch
from dbaccessor.namespaces import Namespaces

# Leases have a database of their own: a renewal must never wait for another table's writer.
DATABASE: Final = "leases"

_COLUMNS = "holder, incarnation, token_epoch, token_count, renewals, duration_ms, since, late"

# A request: 0-2 the key, 3-5 what was seen (epoch, count, renewals), 6-13 the row's new columns.
MOVES: Final = Batch(
    write=f"INSERT INTO lease (namespace, model, name, {_COLUMNS}, changed)"
    " SELECT j.value->>0, j.value->>1, j.value->>2, j.value->>6, j.value->>7, j.value->>8, j.value->>9,"
    " j.value->>10, j.value->>11, j.value->>12, j.value->>13, (SELECT coalesce(max(changed), 0) + 1 FROM lease)"
    " FROM json_each(?) AS j LEFT JOIN lease AS l"
    " ON l.namespace = j.value->>0 AND l.model = j.value->>1 AND l.name = j.value->>2"
    " WHERE coalesce(l.token_epoch, 0) = j.value->>3 AND coalesce(l.token_count, 0) = j.value->>4"
    " AND coalesce(l.renewals, 0) = j.value->>5"
    " ON CONFLICT (namespace, model, name) DO UPDATE SET holder = excluded.holder,"
    " incarnation = excluded.incarnation, token_epoch = excluded.token_epoch, token_count = excluded.token_count,"
    " renewals = excluded.renewals, duration_ms = excluded.duration_ms, since = excluded.since, late = excluded.late,"
    " changed = excluded.changed",
    ask="SELECT j.key, l.holder, l.incarnation, l.token_epoch, l.token_count, l.renewals, l.duration_ms, l.since,"
    " l.late FROM json_each(?) AS j JOIN lease AS l"
    " ON l.namespace = j.value->>0 AND l.model = j.value->>1 AND l.name = j.value->>2",
    key_width=3,
    rising=True,
)

# With >= the rows of the last batch come again. If nothing comes, the table went back, and all must be read anew.
# One row of JSON and not one for each lease: Dqlite sends rows in parts of a page and keeps the database locked against
# its own checkpoint meanwhile. On busy cores a few readers then keep its log growing, which ends in an abort.
CHANGES: Final = (
    "SELECT coalesce(max(changed), 0) AS mark, json_group_array(json_array(namespace, model, name, holder,"
    " incarnation, token_epoch, token_count, renewals, duration_ms, since, late)) AS leases"
    " FROM (SELECT * FROM lease WHERE changed >= ? ORDER BY changed)"
)


_Told = tuple[str, str, str, str, str, int, int, int, int, int, int]


@dataclass(frozen=True)
class Row:
    """One lease as the table has it. `holder` is "" when nobody holds it.

    `since` (seconds of Unix time, of the holder's wall clock) and `late` (renewals that came late) are for people.
    """

    key: Key
    holder: str
    incarnation: str
    token: Token
    renewals: int
    duration_ms: int
    since: int
    late: int = 0

    @property
    def free(self) -> bool:
        return not self.holder

    @property
    def duration_seconds(self) -> float:
        return self.duration_ms / 1000

    def is_state_of(self, other: Row | None) -> bool:
        """Whether both are the same state of the same row: nobody has changed it in between."""
        return other is not None and (self.incarnation, self.token, self.renewals) == (
            other.incarnation,
            other.token,
            other.renewals,
        )


@dataclass(frozen=True)
class Changes:
    """Rows that changed, in order, and the mark from which to ask next. `complete` tells that these are all rows."""

    rows: tuple[Row, ...]
    mark: int
    complete: bool


class Store(Protocol):
    """What the manager needs of the table. Both answers are linearizable."""

    async def move(self, seen: Row | None, new: Row, *, deadline_seconds: float) -> Row | None:
        """Make the row `new` if it is still `seen`, and return what it is now. `new.renewals` is above `seen`'s.

        Raises NotReady when nothing was done, Indefinite when it may have been or may yet be, Refused.
        """
        ...

    async def changes(self, mark: int, *, deadline_seconds: float) -> Changes:
        """Return what has changed since the answer that had this mark; 0 asks for all rows. Raises NotReady."""
        ...


class LeaseStore:
    """The table in the database `leases`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._moves = database.group_commit(MOVES)

    async def move(self, seen: Row | None, new: Row, *, deadline_seconds: float) -> Row | None:
        """See Store."""
        row = await self._moves.submit(*request(seen, new), deadline_seconds=deadline_seconds)
        return None if row is None else _row(new.key, row)

    async def changes(self, mark: int, *, deadline_seconds: float) -> Changes:
        """See Store."""
        answer = await self._database.read(CHANGES, (mark,), deadline_seconds=deadline_seconds)
        now, leases = answer.rows[0]
        if not now and mark:
            return await self.changes(0, deadline_seconds=deadline_seconds)
        found = msgspec.json.decode(str(leases), type=list[_Told])
        return Changes(tuple(_row(Key(*row[:3]), row[3:]) for row in found), int(str(now)), complete=not mark)


def request(seen: Row | None, new: Row) -> tuple[int | str, ...]:
    """Return the request of MOVES. Raises Refused when it would not raise the counter, which a batch relies on."""
    before = (0, 0, 0) if seen is None else (seen.token.epoch, seen.token.count, seen.renewals)
    if new.renewals <= before[2] or new.token < Token(*before[:2]):
        raise errors.Refused(f"{new.key}: {new.token} and {new.renewals} renewals do not follow upon {before}")
    after = (new.token.epoch, new.token.count, new.renewals, new.duration_ms, new.since, new.late)
    return (new.key.namespace, new.key.model, new.key.name, *before, new.holder, new.incarnation, *after)


async def create(namespaces: Namespaces) -> None:
    """Make the database and its table exist. Idempotent."""
    await namespaces.create(DATABASE, patches())


def patches() -> tuple[schema.Patch, ...]:
    """Return the schema of the database."""
    return schema.load(resources.files("controller.leases") / "schema")


def _row(key: Key, values: tuple[object, ...]) -> Row:
    epoch, count, renewals, duration_ms, since, late = (int(str(value)) for value in values[2:8])
    return Row(key, str(values[0]), str(values[1]), Token(epoch, count), renewals, duration_ms, since, late)

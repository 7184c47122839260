"""The table of leases: the fake in memory and the real statements on SQLite keep one contract."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

import jumpingloop
import leasecontract
from controller.leases import store
from controller.leases.lease import Key, Token
from controller.leases.store import LeaseStore, Row
from dbaccessor.database import Database
from leasetable import MemoryStore, Table
from sqlitenode import SqliteNode


def real() -> tuple[SqliteNode, Database, LeaseStore]:
    node = SqliteNode(*(statement for patch in store.patches() for statement in patch.statements))
    database = Database(node, store.DATABASE)  # type: ignore[arg-type]
    return node, database, LeaseStore(database)


def test_the_fake_keeps_the_contract():
    jumpingloop.run(leasecontract.keep(MemoryStore(Table())))


def test_the_real_statements_keep_the_contract():
    async def play() -> None:
        _, database, leases = real()
        await leasecontract.keep(leases)
        database.close()

    asyncio.run(play())


keys = st.sampled_from([Key("singular-controller", name, name) for name in "abc"])
tokens = st.builds(Token, st.integers(0, 1), st.integers(1, 2))
rows = st.builds(
    Row,
    keys,
    st.sampled_from(["", "0", "1"]),
    st.sampled_from("xy"),
    tokens,
    st.integers(1, 4),
    st.just(5),
    st.just(17),
)


@given(st.lists(st.tuples(st.none() | rows, rows), max_size=30), st.randoms())
@settings(max_examples=150, deadline=None)
def test_any_moves_at_once_come_to_the_same_as_in_the_fake(moves: list[tuple[Row | None, Row]], dice):
    def sensible() -> Iterator[tuple[Row | None, Row]]:
        for seen, new in moves:
            before = Token(0, 0) if seen is None else seen.token
            if new.renewals > (0 if seen is None else seen.renewals) and new.token >= before:
                yield (None if seen is None else Row(new.key, *astuple(seen)[1:])), new

    def astuple(row: Row) -> tuple:
        return (row.key, row.holder, row.incarnation, row.token, row.renewals, row.duration_ms, row.since, row.late)

    async def play() -> None:
        _, database, leases = real()
        table = Table()
        wanted = list(sensible())
        while wanted:
            part = [wanted.pop(0) for _ in range(min(len(wanted), dice.randint(1, 5)))]
            got = await asyncio.gather(*(leases.move(seen, new, deadline_seconds=9) for seen, new in part))
            assert got == [table.move(seen, new) for seen, new in part]
        assert {r.key: r for r in (await leases.changes(0, deadline_seconds=9)).rows} == {
            key: row for key, (row, _) in table.rows.items()
        }
        database.close()

    asyncio.run(play())


def test_a_poll_reads_only_what_changed_by_the_index():
    node, database, _ = real()
    plan = node.sqlite.execute(f"EXPLAIN QUERY PLAN {store.CHANGES}", (7,)).fetchall()
    assert any("lease USING INDEX lease_changed" in step[3] for step in plan)
    database.close()

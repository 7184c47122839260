"""What every store of leases must do: the fake and the real one run through this."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from controller.leases.lease import Key, Token
from controller.leases.store import Row, Store
from dbaccessor import errors

KEY = Key("singular-controller", "m", "m")
SECONDS = 10.0


def row(key: Key = KEY, holder: str = "0", count: int = 1, renewals: int = 1, epoch: int = 0) -> Row:
    return Row(key, holder, f"incarnation of {holder}" if holder else "", Token(epoch, count), renewals, 5000, 17, 0)


async def keep(store: Store) -> None:
    """Everything below, on an empty table."""
    await a_lease_is_claimed_once(store)
    await a_renewal_needs_the_state_that_was_seen(store)
    await a_freed_row_stays_and_its_token_with_it(store)
    await a_request_sent_twice_is_done_once(store)
    await a_state_must_rise(store)
    await changes_come_once_and_in_order(store)
    await many_at_once_have_one_winner_each(store)


async def a_lease_is_claimed_once(store: Store) -> None:
    key = Key("singular-controller", "once", "once")
    assert await store.move(None, row(key, "0"), deadline_seconds=SECONDS) == row(key, "0")
    assert await store.move(None, row(key, "1"), deadline_seconds=SECONDS) == row(key, "0")


async def a_renewal_needs_the_state_that_was_seen(store: Store) -> None:
    key = Key("singular-controller", "seen", "seen")
    first, second = row(key), row(key, renewals=2)
    # What was never there cannot be renewed, and is told as not there.
    assert await store.move(first, second, deadline_seconds=SECONDS) is None
    await store.move(None, first, deadline_seconds=SECONDS)
    assert await store.move(first, second, deadline_seconds=SECONDS) == second
    assert await store.move(first, row(key, "1", 2, 2), deadline_seconds=SECONDS) == second
    # The counter alone does not make it the same: the token counts as well, its epoch too.
    for other in (row(key, count=2, renewals=2), row(key, epoch=1, renewals=2)):
        assert await store.move(other, row(key, "1", 9, 9, 9), deadline_seconds=SECONDS) == second
    third = row(key, "1", 2, 3)
    assert await store.move(second, third, deadline_seconds=SECONDS) == third


async def a_freed_row_stays_and_its_token_with_it(store: Store) -> None:
    key = Key("singular-controller", "freed", "freed")
    await store.move(None, row(key), deadline_seconds=SECONDS)
    freed = row(key, "", 1, 2)
    assert await store.move(row(key), freed, deadline_seconds=SECONDS) == freed
    assert freed.free
    assert await store.move(None, row(key, "1"), deadline_seconds=SECONDS) == freed


async def a_request_sent_twice_is_done_once(store: Store) -> None:
    key = Key("singular-controller", "twice", "twice")
    await store.move(None, row(key), deadline_seconds=SECONDS)
    second = row(key, renewals=2)
    assert await store.move(row(key), second, deadline_seconds=SECONDS) == second
    await store.move(second, row(key, renewals=3), deadline_seconds=SECONDS)
    assert await store.move(row(key), second, deadline_seconds=SECONDS) == row(key, renewals=3)


async def a_state_must_rise(store: Store) -> None:
    for before, after in ((row(renewals=2), row(renewals=2)), (row(count=2), row(count=1, renewals=2))):
        with pytest.raises(errors.Refused, match="do not follow"):
            await store.move(before, after, deadline_seconds=SECONDS)


async def changes_come_once_and_in_order(store: Store) -> None:
    one, other = (Key("singular-controller", name, name) for name in ("change-1", "change-2"))
    mark = (await store.changes(0, deadline_seconds=SECONDS)).mark
    await store.move(None, row(one), deadline_seconds=SECONDS)
    await store.move(None, row(other), deadline_seconds=SECONDS)
    changes = await store.changes(mark, deadline_seconds=SECONDS)
    assert [r for r in changes.rows if r.key in (one, other)] == [row(one), row(other)]
    assert not changes.complete and changes.mark > mark
    await store.move(row(one), row(one, renewals=2), deadline_seconds=SECONDS)
    again = await store.changes(changes.mark, deadline_seconds=SECONDS)
    # The last one that was told before may be told again.
    assert [r for r in again.rows if r != row(other)] == [row(one, renewals=2)]
    everything = await store.changes(0, deadline_seconds=SECONDS)
    assert everything.complete
    assert {row(one, renewals=2), row(other)} <= set(everything.rows)
    # A mark that the table does not have any more: it was emptied, and all of it is new.
    assert await store.changes(everything.mark + 1000, deadline_seconds=SECONDS) == everything


async def many_at_once_have_one_winner_each(store: Store) -> None:
    keys = [Key("singular-controller", f"many-{n}", f"many-{n}") for n in range(20)]
    wanted = [row(key, str(holder)) for key in keys for holder in range(5)]
    told = await asyncio.gather(*(store.move(None, new, deadline_seconds=SECONDS) for new in wanted))
    for key in keys:
        winners = {r for r, new in zip(told, wanted, strict=True) if new.key == key}
        assert len(winners) == 1
    late = [dataclasses.replace(r, late=3) for r in (await store.changes(0, deadline_seconds=SECONDS)).rows]
    assert len({r.key for r in late}) == len(late)

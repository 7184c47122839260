"""A machine's life as a table, and its row."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from controller.workers import machinerows, machines
from controller.workers.machines import BACK_OFF, Machine, NotNow, State, Want
from dbaccessor import errors
from fencedsqlite import FencedStore, Store

UUIDS = [f"00000000-0000-4000-8000-{n:012d}" for n in range(5)]
M = Machine(UUIDS[0], 0)

CHANGES: dict[str, Callable[[Machine], Machine]] = {
    "intend": machines.intend,
    "started": lambda m: machines.started(m, "i-1", "10.0.0.1"),
    "failed": lambda m: machines.failed(m, "no room", again=True),
    "retried": machines.retried,
    "lost": lambda m: machines.lost(m, "gone"),
    "found": machines.found,
    "waits": lambda m: machines.waits(m, "no provider"),
    "unwanted": machines.unwanted,
    "stopped": machines.stopped,
}
# From which state each change leads where. What is not named raises NotNow.
TABLE = {
    "pending": {"intend": "starting", "waits": "pending", "retried": "pending", "unwanted": "stopped"},
    "starting": {
        "intend": "starting",
        "started": "started",
        "failed": "error",
        "waits": "starting",
        "retried": "starting",
        "unwanted": "stopping",
    },
    "started": {"lost": "lost", "unwanted": "stopping"},
    "error": {"retried": "pending", "unwanted": "stopping"},
    "lost": {"found": "started", "unwanted": "stopping"},
    "stopping": {"failed": "stopping", "waits": "stopping", "unwanted": "stopping", "stopped": "stopped"},
    "stopped": {"unwanted": "stopped"},
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("state", State)
def test_each_change_leads_where_the_table_says_or_nowhere(state: State, change: str):
    machine = Machine(UUIDS[0], 0, state, attempts=0 if state is State.PENDING else 1)
    wanted = TABLE[state].get(change)

    if wanted is None:
        with pytest.raises(NotNow, match=state):
            CHANGES[change](machine)
    else:
        assert CHANGES[change](machine).state == wanted


@pytest.mark.parametrize("change", ["intend", "waits", "lost"])
@pytest.mark.parametrize("state", State)
def test_no_provider_is_asked_for_a_manual_machine(state: State, change: str):
    machine = Machine(UUIDS[0], 0, state, manual=True)

    assert machine.wants is Want.NOTHING
    with pytest.raises(NotNow):
        CHANGES[change](machine)
    assert machines.unwanted(machine).state in (State.STOPPED, State.STOPPING)


@pytest.mark.parametrize(
    ("machine", "want"),
    [
        (Machine("u", 0), Want.START),
        (Machine("u", 0, State.STARTING, attempts=3), Want.START),
        (Machine("u", 0, State.STARTED), Want.NOTHING),
        (Machine("u", 0, State.ERROR, retry_seconds=4), Want.START),
        (Machine("u", 0, State.ERROR), Want.NOTHING),
        (Machine("u", 0, State.LOST), Want.NOTHING),
        (Machine("u", 0, State.STOPPING), Want.STOP),
        (Machine("u", 0, State.STOPPED), Want.NOTHING),
    ],
)
def test_what_a_machine_wants_follows_from_its_state(machine: Machine, want: Want):
    assert machine.wants is want


def test_what_no_provider_can_know_ends_at_once_and_everything_else_goes_through_a_stop():
    assert machines.unwanted(M).state is State.STOPPED
    assert machines.unwanted(Machine("u", 0, manual=True)).state is State.STOPPED
    # Asked once and failed, then waiting: the provider may have one all the same.
    assert machines.unwanted(machines.failed(machines.intend(M), "late", again=True)).state is State.STOPPING


def test_each_failure_waits_longer_up_to_a_bound_and_an_error_for_good_does_not_wait():
    machine, waited = M, []
    for _ in range(8):
        machine = machines.failed(machines.intend(machine), "no answer", again=True)
        waited.append(machine.retry_seconds)

    assert waited == [*BACK_OFF, BACK_OFF[-1], BACK_OFF[-1]]
    assert machines.failed(machines.intend(M), "wrong", again=False).retry_seconds is None
    with pytest.raises(NotNow):
        machines.intend(machines.failed(machines.intend(M), "wrong", again=False))


def test_what_is_tried_again_by_an_operator_is_due_at_once_and_was_still_asked_for():
    again = machines.retried(machines.failed(machines.intend(M), "a bad name", again=False))

    assert (again.wants, again.retry_seconds, again.reason) == (Want.START, None, "")
    assert machines.unwanted(again).state is State.STOPPING
    assert machines.intend(again).attempts == 2


def test_a_stop_is_never_given_up():
    stopping = machines.unwanted(machines.intend(M))

    failed = machines.failed(stopping, "refused", again=False)

    assert (failed.state, failed.wants, failed.retry_seconds) == (State.STOPPING, Want.STOP, BACK_OFF[-1])


# Rows


def run(store: Store, body):
    return asyncio.run(FencedStore(store).run(body))


def test_numbers_go_up_and_are_never_given_twice():
    store = Store("0002-machine.sql", "0005-machine-provider.sql")

    first = run(store, lambda tx: machinerows.add(tx, UUIDS[:2]))
    run(store, lambda tx: machinerows.remove(tx, [1]))
    store.rows("DELETE FROM machine WHERE number = 1")
    second = run(store, lambda tx: machinerows.add(tx, UUIDS[2:4], manual=True))

    assert [m.number for m in (*first, *second)] == [0, 1, 2, 3]
    assert run(store, machinerows.listed) == (first[0], *second)


def test_adding_again_after_any_doubt_adds_only_what_is_missing():
    store = Store("0002-machine.sql", "0005-machine-provider.sql")
    (first,) = run(store, lambda tx: machinerows.add(tx, UUIDS[:1]))

    again = run(store, lambda tx: machinerows.add(tx, UUIDS[:3]))

    assert again[0] == first
    assert [m.number for m in again] == [0, 1, 2]
    assert len(run(store, machinerows.listed)) == 3


def test_a_change_is_written_only_over_what_it_was_made_from():
    store = Store("0002-machine.sql", "0005-machine-provider.sql")
    (before,) = run(store, lambda tx: machinerows.add(tx, UUIDS[:1]))
    intended = machines.intend(before)

    assert run(store, lambda tx: machinerows.replace(tx, before, intended)) is True
    run(store, lambda tx: machinerows.remove(tx, [0]))
    late = machines.started(intended, "i-1", "10.0.0.1")

    assert run(store, lambda tx: machinerows.replace(tx, intended, late)) is False
    (row,) = run(store, machinerows.listed)
    assert row.state is State.STOPPING


def test_every_column_comes_back_as_it_was_written():
    store = Store("0002-machine.sql", "0005-machine-provider.sql")
    (before,) = run(store, lambda tx: machinerows.add(tx, UUIDS[:1]))
    for change in (machines.intend, CHANGES["failed"], machines.intend, CHANGES["started"], CHANGES["lost"]):
        after = change(before)
        assert run(store, lambda tx, b=before, a=after: machinerows.replace(tx, b, a))
        assert run(store, machinerows.listed) == (after,)
        before = after


def test_removing_names_what_is_not_there_and_changes_nothing():
    store = Store("0002-machine.sql", "0005-machine-provider.sql")
    run(store, lambda tx: machinerows.add(tx, UUIDS[:1]))

    with pytest.raises(errors.Refused, match="no machine 7, 9"):
        run(store, lambda tx: machinerows.remove(tx, [0, 7, 9]))

    (row,) = run(store, machinerows.listed)
    assert row.state is State.PENDING


def test_only_what_failed_is_tried_again_and_what_did_not_is_named():
    store = Store("0002-machine.sql", "0005-machine-provider.sql")
    a, b, _ = run(store, lambda tx: machinerows.add(tx, UUIDS[:3]))
    run(store, lambda tx: machinerows.add(tx, UUIDS[3:4], manual=True))

    async def move(tx):
        for machine in (a, b):
            await machinerows.replace(tx, machine, machines.intend(machine))
        await machinerows.replace(tx, machines.intend(a), machines.failed(machines.intend(a), "wrong", again=False))
        await machinerows.replace(tx, machines.intend(b), machines.started(machines.intend(b), "i", "a"))

    run(store, move)

    for numbers, words in (
        ([0, 7], "no machine 7"),
        ([0, 1], "only a machine in error is tried again: machine 1 is started"),
        ([0, 1, 3], "machine 1 is started, machine 3 is manual"),
    ):
        with pytest.raises(errors.Refused, match=words):
            run(store, lambda tx, n=numbers: machinerows.retry(tx, n))
    assert [m.state for m in run(store, machinerows.listed)] == ["error", "started", "pending", "pending"]

    tried = run(store, lambda tx: machinerows.retry(tx, [0, 2, 0]))
    assert [(m.number, m.state) for m in tried] == [(0, "pending"), (2, "pending")]
    # Asked again after a doubt it is as it is.
    assert run(store, lambda tx: machinerows.retry(tx, [0, 2])) == tried
    assert [m.number for m in run(store, machinerows.to_do)] == [0, 2]


def test_machines_are_counted_by_their_states():
    store = Store("0002-machine.sql", "0005-machine-provider.sql")
    run(store, lambda tx: machinerows.add(tx, UUIDS[:3]))
    run(store, lambda tx: machinerows.remove(tx, [1]))

    assert run(store, machinerows.counted) == {
        **dict.fromkeys(State, 0),
        State.PENDING: 2,
        State.STOPPED: 1,
    }


def test_what_is_to_do_leaves_out_what_waits_for_nobody():
    store = Store("0002-machine.sql", "0005-machine-provider.sql")
    a, b, c, d = run(store, lambda tx: machinerows.add(tx, UUIDS[:4]))
    run(store, lambda tx: machinerows.add(tx, UUIDS[4:], manual=True))

    async def move(tx):
        await machinerows.replace(tx, b, machines.intend(b))
        await machinerows.replace(tx, machines.intend(b), machines.failed(machines.intend(b), "wrong", again=False))
        await machinerows.replace(tx, c, machines.intend(c))
        await machinerows.replace(tx, machines.intend(c), machines.started(machines.intend(c), "i", "a"))
        await machinerows.remove(tx, [d.number])

    run(store, move)

    assert [m.number for m in run(store, machinerows.to_do)] == [a.number]
    assert set(run(store, machinerows.provided)) == {a.uuid, b.uuid, c.uuid}

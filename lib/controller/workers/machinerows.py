"""Flow 2, hop 7: machines as rows of a model's database. Each function is part of its caller's transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from controller.workers import machines
from controller.workers.machines import Machine, NotNow, State, Want
from dbaccessor import errors
from dbaccessor.transaction import Transaction

_COLUMNS = "uuid, number, state, reason, manual, attempts, retry_seconds, instance, address, provider"
# An agent's name is this and its machine's number.
MACHINE_TAG = "machine-"
_WANT_SOMETHING = (
    f"SELECT {_COLUMNS} FROM machine WHERE state IN ('pending', 'starting', 'stopping', 'error') AND manual = 0 "
    "AND (state != 'error' OR retry_seconds IS NOT NULL) ORDER BY number"
)


async def listed(tx: Transaction) -> tuple[Machine, ...]:
    """Return all machines by number, stopped ones too."""
    return _machines((await tx.query(f"SELECT {_COLUMNS} FROM machine ORDER BY number")).rows)


async def to_do(tx: Transaction) -> tuple[Machine, ...]:
    """Return the machines for which a provider is to be asked, now or after their delay."""
    return _machines((await tx.query(_WANT_SOMETHING)).rows)


async def of_uuid(tx: Transaction, uuid: str) -> Machine | None:
    """Return the machine, None when there is no row."""
    found = _machines((await tx.query(f"SELECT {_COLUMNS} FROM machine WHERE uuid = ?", (uuid,))).rows)
    return found[0] if found else None


async def provided(tx: Transaction) -> dict[str, Machine]:
    """Return by uuid the machines that a provider may rightly have an instance of, or be about to stop one of."""
    rows = (await tx.query(f"SELECT {_COLUMNS} FROM machine WHERE state != 'stopped' AND manual = 0")).rows
    return {machine.uuid: machine for machine in _machines(rows)}


async def counted(tx: Transaction) -> dict[State, int]:
    """Return how many machines are in each state; all states are there."""
    found = (await tx.query("SELECT state, count(*) FROM machine GROUP BY state")).rows
    return dict.fromkeys(State, 0) | {State(str(state)): int(str(count)) for state, count in found}


async def forget_stopped(tx: Transaction, keep: int) -> None:
    """Delete the rows of stopped machines but the latest so many: nothing comes of a stopped machine any more."""
    await tx.execute(
        "DELETE FROM machine WHERE state = 'stopped' AND number NOT IN "
        "(SELECT number FROM machine WHERE state = 'stopped' ORDER BY number DESC LIMIT ?)",
        (keep,),
    )


async def swept_epoch(tx: Transaction, provider: str) -> int:
    """Return the last epoch whose rows were seen to know what this provider has, 1 where none was noted."""
    rows = (await tx.query("SELECT epoch FROM machine_sweep WHERE provider = ?", (provider,))).rows
    return int(str(rows[0][0])) if rows else 1


async def note_swept(tx: Transaction, provider: str, epoch: int) -> None:
    """From now on the rows of this epoch are believed: what none of them knows is stopped."""
    await tx.execute(
        "INSERT INTO machine_sweep (provider, epoch) VALUES (?, ?)"
        " ON CONFLICT (provider) DO UPDATE SET epoch = excluded.epoch",
        (provider, epoch),
    )


async def add(tx: Transaction, uuids: Sequence[str], *, manual: bool = False) -> tuple[Machine, ...]:
    """Return the machines with these uuids, added now unless they are there: it may be repeated after any doubt."""
    found = [await of_uuid(tx, uuid) for uuid in uuids]
    missing = [uuid for uuid, machine in zip(uuids, found, strict=True) if machine is None]
    (used,) = (await tx.query("SELECT numbers_used FROM machine_count WHERE id = 1")).rows[0]
    first = int(str(used))
    added = {uuid: machines.new(uuid, first + i, manual=manual) for i, uuid in enumerate(missing)}
    for machine in added.values():
        await tx.execute(f"INSERT INTO machine ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", _row(machine))
    if added:
        # A number is never given twice, whatever becomes of its machine.
        await tx.execute("UPDATE machine_count SET numbers_used = ? WHERE id = 1", (first + len(added),))
    return tuple(machine or added[uuid] for uuid, machine in zip(uuids, found, strict=True))


async def remove(tx: Transaction, numbers: Sequence[int]) -> tuple[Machine, ...]:
    """Return the machines with these numbers, not wanted from now on. Raises Refused, which names the unknown ones."""
    return await _change(tx, await _numbered(tx, numbers), machines.unwanted)


async def retry(tx: Transaction, numbers: Sequence[int]) -> tuple[Machine, ...]:
    """Return the machines with these numbers, to be tried again now.

    Raises Refused, with nothing changed: it names those that are not there, or did not fail.
    """
    found = await _numbered(tx, numbers)
    try:
        return await _change(tx, found, machines.retried)
    except NotNow:
        others = [m for m in found if m.state is not State.ERROR and m.wants is not Want.START]
        told = ", ".join(f"machine {m.number} is {'manual' if m.manual else m.state}" for m in others)
        raise errors.Refused(f"only a machine in error is tried again: {told}") from None


async def _numbered(tx: Transaction, numbers: Sequence[int]) -> list[Machine]:
    by_number = {machine.number: machine for machine in await listed(tx)}
    unknown = [number for number in numbers if number not in by_number]
    if unknown:
        raise errors.Refused(f"there is no machine {', '.join(map(str, unknown))}")
    return [by_number[number] for number in dict.fromkeys(numbers)]


async def _change(
    tx: Transaction, found: Sequence[Machine], change: Callable[[Machine], Machine]
) -> tuple[Machine, ...]:
    afters = [change(before) for before in found]
    for before, after in zip(found, afters, strict=True):
        if after != before:
            await replace(tx, before, after)
    return tuple(afters)


async def came(tx: Transaction, tag: str, address: str) -> bool:
    """The agent of this tag is there, at this address. Return whether that moved a machine on: only a manual one."""
    number = tag.removeprefix(MACHINE_TAG)
    if number == tag or not number.isdecimal():
        return False
    rows = (await tx.query(f"SELECT {_COLUMNS} FROM machine WHERE number = ?", (int(number),))).rows
    for machine in _machines(rows):
        if machine.manual and machine.state is not State.STOPPED:
            return await replace(tx, machine, machines.came(machine, address))
    return False


async def replace(tx: Transaction, before: Machine, after: Machine) -> bool:
    """Write the change; return False, with nothing changed, when the row is not as `before` says any more."""
    result = await tx.execute(
        "UPDATE machine SET state = ?, reason = ?, attempts = ?, retry_seconds = ?, instance = ?, address = ?, "
        "provider = ? "
        "WHERE uuid = ? AND state = ? AND attempts = ?",
        (
            *(after.state.value, after.reason, after.attempts, after.retry_seconds, after.instance, after.address),
            after.provider,
            *(before.uuid, before.state.value, before.attempts),
        ),
    )
    return result.rows_affected > 0


def _machines(rows: Sequence[Sequence[Any]]) -> tuple[Machine, ...]:
    return tuple(
        Machine(
            uuid=str(uuid),
            number=int(number),
            state=State(str(state)),
            reason=str(reason),
            manual=bool(manual),
            attempts=int(attempts),
            retry_seconds=None if retry_seconds is None else int(retry_seconds),
            instance=str(instance),
            address=str(address),
            provider=str(provider),
        )
        for uuid, number, state, reason, manual, attempts, retry_seconds, instance, address, provider in rows
    )


def _row(machine: Machine) -> tuple[Any, ...]:
    return (
        *(machine.uuid, machine.number, machine.state.value, machine.reason, int(machine.manual), machine.attempts),
        *(machine.retry_seconds, machine.instance, machine.address, machine.provider),
    )

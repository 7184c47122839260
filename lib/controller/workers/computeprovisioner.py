"""Flow 2, hop 7: the machines of one model -> one instance each, by whoever is responsible for the model now.

What it does outside the database can be repeated by the next holder, and what a former holder still does can do no
harm, however long it slept in between:

- *start*: `starting` is written first, through the responsibility. Whoever finds it there asks the provider again,
  which has at most one instance of a uuid: one whose row was never written is adopted, not started twice.
- *stop of a machine*: `stopping` leads nowhere but to `stopped`, so it is right at any later time as well.
- *stop of an instance that no row knows*: the instances are listed first and the rows are read afterwards, so one that
  is just being made has its row by then. A uuid is random and never comes back, so what was once unknown stays so.
  In a new epoch the rows may be older than the instances (a restored backup, a lost end of the log), so an operator
  has some minutes to say no first.

Of a machine that one provider was asked to start, no other one is asked anything: it waits until that one is set again.

Nothing is written but through the fenced database, and the responsibility is checked before each word to the provider.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from controller.workers import enrolment, machinerows, machines
from controller.workers.enrolment import Draft
from controller.workers.machines import Machine, State, Want
from controller.workers.provider import Instance, NotDone, Provider, ProviderError, Refused, Spec, TryAgain
from dbaccessor import errors
from dbaccessor.transaction import Transaction

log = logging.getLogger(__name__)

_T = TypeVar("_T")

NO_PROVIDER = "no provider: set one with hactl controller-config local-provider=URL"
SPARED = (
    "instance %s (%s) belongs to no machine; since the cluster went on from other data, in epoch %d, it is stopped in "
    "%d s only, and not while there is no provider: hactl controller-config local-provider="
)
ANOTHER_PROVIDER = "{0} may have an instance of it; it waits for hactl controller-config local-provider={0}"
LOST = "its provider has {} no more, and it cannot start again: remove the machine and add another"

_COUNTED = ("started", "adopted", "failed-starts", "stopped", "failed-stops", "unknown-stopped", "lost")


class FencedDatabase(Protocol):
    """A database that only the present holder can use."""

    async def run(
        self, fn: Callable[[Transaction], Awaitable[_T]], *, read_only: bool = False, deadline_seconds: float = 10
    ) -> _T: ...


@dataclass(frozen=True)
class Pace:
    """How often it looks by itself, in seconds; how long it leaves unknown instances alone in a new epoch; how many
    calls to the provider are under way at most; and how many stopped machines keep their rows."""

    poll: float = 1.0
    sweep: float = 15.0
    trouble: float = 0.5
    spare: float = 600.0
    calls: int = 8
    keep: int = 100


class ComputeProvisioner:
    """One model's. `check` raises once the responsibility is over; `find_provider` returns None when none is set.

    `changed` returns another value after rows have changed, perhaps late: a cheap question, so that all rows are read
    only when there is a reason. `draft` returns what a new machine's agent begins with, None for nothing.
    `epoch` is the number of the cluster's forced reconfigurations and restores, now.
    """

    def __init__(
        self,
        database: FencedDatabase,
        check: Callable[[], None],
        find_provider: Callable[[], Awaitable[Provider | None]],
        spec: Callable[[Machine], Spec],
        pace: Pace | None = None,
        changed: Callable[[], Awaitable[object]] | None = None,
        draft: Callable[[], Awaitable[Draft | None]] | None = None,
        epoch: Callable[[], int] = lambda: 1,
    ) -> None:
        self._database = database
        self._check = check
        self._find_provider = find_provider
        self._spec = spec
        self._pace = pace or Pace()
        self._changed = changed
        self._draft = draft
        self._epoch = epoch
        self._change: object = None
        self._wake = asyncio.Event()
        self._busy: dict[str, asyncio.Task[None]] = {}
        # Of those that wait for their next try: which attempt that was, and when it is due.
        self._due: dict[str, tuple[int, float]] = {}
        self._next_sweep = 0.0
        self._unswept = False
        self._seen_started: frozenset[str] = frozenset()
        self._end: Exception | None = None
        self._trouble = ""
        self._machines: dict[State, int] = dict.fromkeys(State, 0)
        self._waiting = 0
        # What the provider is known to have: a start that finds one of these has adopted it.
        self._there: set[str] = set()
        # Of which provider and epoch the rows are believed; of which not yet, and until when; what is spared by that.
        self._believed: tuple[str, int] | None = None
        self._doubted: tuple[tuple[str, int], float] | None = None
        self._spared: dict[str, Instance] = {}
        self._counters = Counter(dict.fromkeys(_COUNTED, 0))

    def poke(self) -> None:
        """Something changed: look now."""
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled. Raises what ended the responsibility."""
        self._next_sweep = asyncio.get_running_loop().time()
        try:
            while True:
                self._wake.clear()
                try:
                    seconds = await self._look()
                    self._trouble = ""
                except (errors.DbAccessorError, ProviderError) as error:
                    seconds = self._say_trouble(error)
                if self._end is not None:
                    raise self._end
                await self._rest(seconds)
        finally:
            await self._drop_all()

    def report(self) -> dict[str, object]:
        """Return what it is at, and what keeps it from going on."""
        return {
            "calls": len(self._busy),
            "waiting": self._waiting,
            "machines": {state.value: count for state, count in self._machines.items()},
            "counters": dict(self._counters),
            **({"spared": {i.uuid: i.id for i in self._spared.values()}} if self._spared else {}),
            **({"trouble": self._trouble} if self._trouble else {}),
        }

    async def _look(self) -> float:
        """Begin whatever is due; return the seconds until there is something to do again."""
        provider = await self._find_provider()
        if provider is None:
            self._doubted, self._spared = None, {}
            todo = await self._to_do()
            await self._let_wait({machine: _why_it_waits(machine) for machine in todo})
            if not todo:
                return self._pace.sweep
            self._change = None  # A provider that is set changes no row: look again all the same.
            return self._pace.poll
        now = asyncio.get_running_loop().time()
        unheard = None
        if now >= self._next_sweep or self._unswept:
            self._next_sweep, self._unswept = now + self._pace.sweep, False
            try:
                await self._sweep(provider)
            except ProviderError as error:
                unheard = error  # Machines are tried all the same: what the provider says belongs into their rows.
        todo = await self._to_do()
        await self._let_wait({m: _why_it_waits(m) for m in todo if not m.is_for(provider.name)})
        todo = tuple(m for m in todo if m.is_for(provider.name))
        next_due = self._next_sweep
        to_start: list[Machine] = []
        for machine in todo:
            due = self._due_at(machine)
            if due > now:
                next_due = min(next_due, due)
            elif machine.wants is Want.START and machine.uuid not in self._busy:
                to_start.append(machine)
            elif machine.wants is Want.STOP:
                self._begin(machine.uuid, lambda m=machine: self._stop(provider, m))  # type: ignore[misc]
        self._due = {m.uuid: self._due[m.uuid] for m in todo if m.uuid in self._due}
        # Last, since there may be nothing to be said of controllers yet: what is stopped does not wait for that.
        draft = await self._draft() if to_start and self._draft is not None else None
        for machine in to_start:
            self._begin(machine.uuid, lambda m=machine: self._start(provider, m, draft))  # type: ignore[misc]
        if unheard is not None:
            raise unheard
        return max(0.0, next_due - now)

    def _due_at(self, machine: Machine) -> float:
        """When it is tried again: so many seconds after this holder first saw that attempt. No clock is compared."""
        if machine.retry_seconds is None:
            return 0.0
        now = asyncio.get_running_loop().time()
        attempt, due = self._due.get(machine.uuid, (-1, 0.0))
        if attempt != machine.attempts:
            attempt, due = machine.attempts, now + machine.retry_seconds
            self._due[machine.uuid] = attempt, due
        return due

    # One machine at a time, several side by side

    def _begin(self, uuid: str, step: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Carry the step out; return False, for a later look, when this uuid or too many others have one under way."""
        if uuid in self._busy or len(self._busy) >= self._pace.calls:
            return False
        self._busy[uuid] = asyncio.get_running_loop().create_task(self._carry_out(uuid, step))
        return True

    async def _carry_out(self, uuid: str, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await step()
        except (errors.DbAccessorError, ProviderError) as error:
            # What was written says where to go on; not at once, should it fail again.
            await asyncio.sleep(self._say_trouble(error))
        except Exception as error:  # noqa: BLE001 - The responsibility is over, or it is a bug: run() ends with it.
            self._end = self._end or error
        finally:
            self._busy.pop(uuid, None)
            self._wake.set()

    async def _start(self, provider: Provider, machine: Machine, draft: Draft | None) -> None:
        intended = machines.intend(machine, provider.name)

        async def intend(tx: Transaction) -> str | None:
            """Return the agent's first secret, None when the machine has changed meanwhile."""
            if not await machinerows.replace(tx, machine, intended):
                return None
            return "" if draft is None else await enrolment.secret_of(tx, intended)

        secret = await self._database.run(intend)
        if secret is None:
            return
        spec = self._spec(machine)
        if draft is not None:
            spec = replace(spec, files=(*spec.files, draft.file(machine, secret)))
        self._check()
        try:
            instance = await provider.start(machine.uuid, spec)
        except ProviderError as error:
            after = machines.failed(intended, str(error), again=isinstance(error, TryAgain))
            if isinstance(error, (NotDone, Refused)):
                # It has no instance because of this: a wrong address, once corrected, is not waited for.
                after = replace(after, provider=machine.provider)
            self._counters["failed-starts"] += 1
            log.warning("machine %d did not start: %s", machine.number, error)
        else:
            after = machines.started(intended, instance.id, instance.address)
            adopted = machine.uuid in self._there
            self._there.add(machine.uuid)
            self._counters["adopted" if adopted else "started"] += 1
            how = "had been started already:" if adopted else "is"
            log.info("machine %d %s %s at %s", machine.number, how, instance.id, instance.address)
        await self._write(intended, after)

    async def _stop(self, provider: Provider, machine: Machine) -> None:
        self._check()
        try:
            await provider.stop(machine.uuid)
        except ProviderError as error:
            await self._write(machine, machines.failed(machine, str(error), again=True))
            self._counters["failed-stops"] += 1
            log.warning("machine %d is not stopped: %s", machine.number, error)
            return
        if await self._write(machine, machines.stopped(machine)):
            self._counters["stopped"] += 1
            log.info("machine %d is stopped", machine.number)

    async def _stop_unknown(self, provider: Provider, instance: Instance) -> None:
        async def is_unknown(tx: Transaction) -> bool:
            machine = await machinerows.of_uuid(tx, instance.uuid)
            return machine is None or machine.state is State.STOPPED

        if not await self._database.run(is_unknown, read_only=True):
            return
        self._check()
        log.warning("instance %s (%s) belongs to no machine: stopping it", instance.id, instance.uuid)
        await provider.stop(instance.uuid)
        self._counters["unknown-stopped"] += 1

    async def _write(self, before: Machine, after: Machine) -> bool:
        async def write(tx: Transaction) -> bool:
            done = await machinerows.replace(tx, before, after)
            if done and self._draft is not None:
                # A provider has the files of a started machine, so nobody hands out its agent's first secret again.
                if after.state is State.STARTED:
                    await enrolment.forget_secret(tx, after)
                elif after.state is State.STOPPED:
                    await enrolment.shut_out(tx, after)
            return done

        return await self._database.run(write)

    # All of them

    async def _sweep(self, provider: Provider) -> None:
        """Stop what no row knows, and note what has a row and is not there."""
        # In this order: see the module's first words.
        listed = {instance.uuid: instance for instance in await provider.list()}
        self._there = set(listed)
        rows = await self._database.run(machinerows.provided, read_only=True)
        unknown = {uuid: listed[uuid] for uuid in listed.keys() - rows.keys()}
        for uuid in unknown if await self._believes(provider.name, unknown) else ():
            if not self._begin(uuid, lambda i=listed[uuid]: self._stop_unknown(provider, i)):  # type: ignore[misc]
                self._unswept = True  # The end of any call makes it look, and sweep, again.
        for uuid, machine in rows.items():
            # Only what this provider started, before the list was asked for, can be missing from it.
            missing = machine.is_for(provider.name) and uuid not in listed and uuid in self._seen_started
            if machine.state is State.STARTED and missing:
                after = machines.lost(machine, LOST.format(machine.instance))
                if await self._write(machine, after):
                    self._counters["lost"] += 1
                    log.warning("machine %d is lost: %s", machine.number, after.reason)
            elif machine.state is State.LOST and uuid in listed:
                await self._write(machine, machines.found(machine))
                log.info("machine %d is there after all: %s", machine.number, machine.instance)
        self._seen_started = frozenset(uuid for uuid, machine in rows.items() if machine.state is State.STARTED)
        if self._machines[State.STOPPED] > 2 * self._pace.keep:
            await self._database.run(lambda tx: machinerows.forget_stopped(tx, self._pace.keep))

    async def _believes(self, provider: str, unknown: dict[str, Instance]) -> bool:
        """Whether what no row knows is to be stopped. In a new epoch it is left alone, and named, for a while."""
        epoch = self._epoch()
        asked = provider, epoch
        if epoch <= 1 or self._believed == asked:
            return True
        if epoch > await self._database.run(lambda tx: machinerows.swept_epoch(tx, provider), read_only=True):
            now = asyncio.get_running_loop().time()
            if self._doubted is None or self._doubted[0] != asked:
                self._doubted = asked, now + self._pace.spare
            left = self._doubted[1] - now
            if unknown and left > 0:
                for uuid in unknown.keys() - self._spared.keys():
                    log.warning(SPARED, unknown[uuid].id, uuid, epoch, left)
                self._spared = unknown
                return False
            await self._database.run(lambda tx: machinerows.note_swept(tx, provider, epoch))
        self._believed, self._spared = asked, {}
        return True

    async def _to_do(self) -> tuple[Machine, ...]:
        """Return what is to be done, and count all machines along the way."""

        async def ask(tx: Transaction) -> tuple[tuple[Machine, ...], dict[State, int]]:
            return await machinerows.to_do(tx), await machinerows.counted(tx)

        todo, self._machines = await self._database.run(ask, read_only=True)
        self._waiting = len(todo)
        return todo

    async def _let_wait(self, reasons: Mapping[Machine, str]) -> None:
        """Say in each row what it waits for. One that a call is under way for has its own word from that."""
        unaware = [m for m, reason in reasons.items() if m.reason != reason and m.uuid not in self._busy]

        async def say(tx: Transaction) -> None:
            for machine in unaware:
                await machinerows.replace(tx, machine, machines.waits(machine, reasons[machine]))

        if unaware:
            await self._database.run(say)

    # Waiting and ending

    def _say_trouble(self, error: Exception) -> float:
        reason = f"{type(error).__name__}: {error}"
        if reason != self._trouble:
            self._trouble = reason
            log.warning("%s", reason)
        return self._pace.trouble

    async def _rest(self, seconds: float) -> None:
        """Return when there may be something to do: poked, so many seconds later, or rows changed."""
        if self._trouble:
            await asyncio.sleep(self._pace.trouble)
            return
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while (left := until - loop.time()) > 0:
            try:
                async with asyncio.timeout(min(left, self._pace.poll)):
                    await self._wake.wait()
                return
            except TimeoutError:
                if await self._has_changed():
                    return

    async def _has_changed(self) -> bool:
        if self._changed is None:
            return True
        try:
            before, self._change = self._change, await self._changed()
        except errors.DbAccessorError:
            return True  # The look itself says what is wrong.
        return before != self._change

    async def _drop_all(self) -> None:
        """Nothing goes on for somebody who is not responsible any more. What was asked for may still happen."""
        tasks = list(self._busy.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _why_it_waits(machine: Machine) -> str:
    return ANOTHER_PROVIDER.format(machine.provider) if machine.provider else NO_PROVIDER

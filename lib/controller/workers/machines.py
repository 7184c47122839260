"""Flow 2, hop 7: the machines of a model: one row each, and which change of a row may follow which. No I/O.

| state | means | who moves it on |
|---|---|---|
| pending | wanted, and nobody has asked a provider for it yet | the provisioner; its agent, where it is manual |
| starting | the intent is written: a provider may be asked, or may have been | the provisioner, this one or the next |
| started | its instance runs | a removal, or a provider that has its instance no more |
| error | it did not start; `retry_seconds`: it is tried again after, None: never by itself | as starting; an operator |
| lost | it had started, and its provider lists its instance no more | a removal, or a provider that lists it again |
| stopping | not wanted any more, and a provider may have an instance of it | the provisioner |
| stopped | nothing of it is left, and nothing will come: the end | nobody; the row may be pruned |

Two properties carry the safety of what a provisioner does outside the database. A provider is asked to start a machine
only after `starting` was committed, so a machine that is still pending has no instance. And `stopping` leads nowhere
but to `stopped`, so whoever has once read that a machine is not wanted may act on it however late.

A provider knows nothing of what another one has, and says of any uuid that nothing is left of it. So a row names the
one that was asked to start its machine, from before it is asked, and no other is asked about that machine.

A manual machine is one that somebody brings: no provider is asked for it, and it has started when its agent has come.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import assert_never

# Seconds until the next try, after the first, second, … failure; the last one stays.
BACK_OFF = (1, 2, 4, 8, 15, 30)
MANUAL = "manual: waits for its agent"


class State(enum.StrEnum):
    """Where a machine is in its life. The table in the module's first words."""

    PENDING = "pending"
    STARTING = "starting"
    STARTED = "started"
    STOPPING = "stopping"
    STOPPED = "stopped"
    ERROR = "error"
    LOST = "lost"


@dataclass(frozen=True)
class Machine:
    """One row. `provider` names the one that may have an instance of it, "" for none, or for whichever is set: that is
    what earlier versions wrote."""

    uuid: str
    number: int
    state: State = State.PENDING
    reason: str = ""
    manual: bool = False
    attempts: int = 0
    retry_seconds: int | None = None
    instance: str = ""
    address: str = ""
    provider: str = ""

    def is_for(self, provider: str) -> bool:
        """Whether the provider of this name may be asked for it, and what it says believed."""
        return self.provider in ("", provider)

    @property
    def wants(self) -> Want:
        """What is to be done for it outside the database, if it is due."""
        if self.manual:
            return Want.NOTHING
        match self.state:
            case State.PENDING | State.STARTING:
                return Want.START
            case State.ERROR:
                return Want.NOTHING if self.retry_seconds is None else Want.START
            case State.STOPPING:
                return Want.STOP
            case State.STARTED | State.LOST | State.STOPPED:
                return Want.NOTHING
            case _:
                assert_never(self.state)


class Want(enum.Enum):
    """What a provider is to be asked for."""

    NOTHING = "nothing"
    START = "start"
    STOP = "stop"


class NotNow(Exception):
    """The machine is not in a state from which this can follow: somebody else was faster."""


def new(uuid: str, number: int, *, manual: bool = False) -> Machine:
    """A machine that is wanted from now on."""
    return Machine(uuid, number, manual=manual, reason=MANUAL if manual else "")


def intend(machine: Machine, provider: str = "") -> Machine:
    """Before the provider of this name is asked to start it: one attempt more. Raises NotNow."""
    _require(machine, machine.wants is Want.START and machine.is_for(provider), "start")
    return replace(machine, state=State.STARTING, attempts=machine.attempts + 1, retry_seconds=None, provider=provider)


def started(machine: Machine, instance: str, address: str) -> Machine:
    """The provider has its instance. Raises NotNow, also when it is not wanted any more."""
    _require(machine, machine.state is State.STARTING, "have started")
    return replace(machine, state=State.STARTED, reason="", instance=instance, address=address, attempts=0)


def came(machine: Machine, address: str) -> Machine:
    """The agent of a manual machine has come, from this address; enrolled anew, it comes again. Raises NotNow."""
    _require(machine, machine.manual and machine.state in (State.PENDING, State.STARTED), "have its agent come")
    return replace(machine, state=State.STARTED, reason="", instance=f"manual:{address}", address=address)


def failed(machine: Machine, reason: str, *, again: bool) -> Machine:
    """The provider said no, or nothing. `again`: it is tried again by itself, later each time. Raises NotNow."""
    _require(machine, machine.state in (State.STARTING, State.STOPPING), "fail")
    seconds = BACK_OFF[min(max(machine.attempts, 1), len(BACK_OFF)) - 1] if again else None
    if machine.state is State.STOPPING:
        # What may still run somewhere is never given up.
        seconds = BACK_OFF[-1] if seconds is None else seconds
        return replace(machine, reason=reason, retry_seconds=seconds, attempts=machine.attempts + 1)
    return replace(machine, state=State.ERROR, reason=reason, retry_seconds=seconds)


def retried(machine: Machine) -> Machine:
    """An operator has what did not start tried again, now. One that is tried anyway stays as it is. Raises NotNow.

    Its attempts stay: a provider was asked for it, so its removal still goes through a stop.
    """
    if machine.wants is Want.START and machine.state is not State.ERROR:
        return machine
    _require(machine, machine.state is State.ERROR, "be tried again")
    return replace(machine, state=State.PENDING, reason="", retry_seconds=None)


def lost(machine: Machine, reason: str) -> Machine:
    """Its provider does not have its instance any more. Its uuid never starts again: an operator decides."""
    _require(machine, machine.state is State.STARTED and not machine.manual, "be lost")
    return replace(machine, state=State.LOST, reason=reason)


def found(machine: Machine) -> Machine:
    """Its provider has the instance after all, as when the setting named another provider meanwhile."""
    _require(machine, machine.state is State.LOST, "be found")
    return replace(machine, state=State.STARTED, reason="")


def waits(machine: Machine, reason: str) -> Machine:
    """Nothing can be done for it now: only the reason changes. Raises NotNow."""
    _require(machine, machine.wants is not Want.NOTHING, "wait")
    return replace(machine, reason=reason)


def unwanted(machine: Machine) -> Machine:
    """Somebody removes it. One that no provider can know has ended with that. Removing it twice is as once."""
    if machine.state in (State.STOPPING, State.STOPPED):
        return machine
    if machine.manual or (machine.state is State.PENDING and machine.attempts == 0):
        return replace(machine, state=State.STOPPED, reason="", retry_seconds=None)
    return replace(machine, state=State.STOPPING, reason="", attempts=0, retry_seconds=None)


def stopped(machine: Machine) -> Machine:
    """The provider has nothing of it, for ever. Raises NotNow."""
    _require(machine, machine.state is State.STOPPING, "have stopped")
    return replace(machine, state=State.STOPPED, reason="", retry_seconds=None)


def _require(machine: Machine, condition: bool, what: str) -> None:
    if not condition:
        raise NotNow(f"machine {machine.number} is {machine.state} and cannot {what}")

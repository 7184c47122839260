"""Flow 1, hop 1: the option juju-mgmt-space and the addresses of the binding `management` -> this unit's subnets.

Pure. The option names the space, the binding says which subnets it has: those of this unit's addresses on it, as
network-get names them. Nothing is guessed: a unit that gets no answer has no subnet to add, and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import bindaddress
from bindaddress import Candidate, Scope
from dbaccessor import conf

OPTION = "juju-mgmt-space"
BINDING = "management"

# Nobody else can dial these, so no agent is ever sent there.
_NOT_FROM_AFAR = (Scope.LOCAL_MACHINE, Scope.LINK_LOCAL, Scope.UNKNOWN)


@dataclass(frozen=True)
class Wish:
    """What the operator wants, as this unit sees it.

    `name` is the space, "" where none is wanted, None where the option cannot be followed and what is in force stays.
    `subnets` are this unit's part of it. `blocked` and `waiting` are for the unit's status; "" has nothing to say.
    """

    name: str | None = ""
    subnets: tuple[str, ...] = ()
    blocked: str = ""
    waiting: str = ""


def check(option: str) -> Wish:
    """Return what the option alone says."""
    problem = conf.own_space_problem(option) if option else ""
    return Wish(None, blocked=f"option {OPTION}: {problem}") if problem else Wish(option)


def find(name: str, app: str, candidates: Sequence[Candidate], failure: str = "") -> Wish:
    """Return the wish for the space `name`, with this unit's subnets: those of the binding's addresses.

    `failure` is what Juju said instead of an answer. Order and repetition do not matter.
    """
    remedy = f"agents get all of this unit's addresses; run `juju bind {app} {BINDING}=<space>`, or give it one there"
    if failure or not candidates:
        return Wish(name, waiting=f"{OPTION} is {name}: {failure or f'no address on the {BINDING} binding'}; {remedy}")
    usable = [c for c in candidates if bindaddress.scope_of(c.address) not in _NOT_FROM_AFAR and c.subnet]
    if not usable:
        named = "; ".join(f"{c}: {bindaddress.scope_of(c.address)}" for c in sorted(set(candidates)))
        return Wish(name, blocked=f"{OPTION} is {name}: no address that agents could dial among {named}; {remedy}")
    return Wish(name, tuple(sorted({c.subnet for c in usable})))

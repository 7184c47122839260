"""What goes over control.socket about spaces, for controllerd and for hactl, which loads no database."""

from __future__ import annotations

import msgspec


class Wanted(msgspec.Struct, frozen=True):
    """The body of POST /spaces: a space of exactly these subnets."""

    name: str
    subnets: tuple[str, ...] = ()


class Named(msgspec.Struct, frozen=True):
    """The body of POST /spaces/remove."""

    name: str


class Space(msgspec.Struct, frozen=True):
    """One space. `subnets` of the default one are none: it is whatever lies in no other."""

    name: str
    subnets: tuple[str, ...]


class Answer(msgspec.Struct, frozen=True, rename="kebab"):
    """What every request about spaces is answered with: all there is, and where that sends agents and clients.

    `charm_space` is the one that the charm's option sets, "" where it sets none: nobody else may change that.
    `agents` and `clients` are the published lists, a controller's id and its addresses; `notes` say what an operator
    should know of them, as a controller that has no address in the management space.
    """

    spaces: tuple[Space, ...]
    management_space: str
    charm_space: str
    agents: dict[str, tuple[str, ...]]
    clients: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]

"""Flow 3, hop 2: what each controller reported -> the list for agents and the list for clients. Pure.

Two audiences, two selections of the same addresses:

- *agents*: of each controller those in the management space, if that is set and the controller has any there; else
  all of that controller's, which is a fallback and is reported, with its remedy. Best for the same cloud first.
- *clients*: all of each controller's, whatever the space. Best for anybody first.

Addresses that only their own machine or link can dial are in neither (but where all nodes bind loopback addresses, all
there is is on one machine, and its addresses will do). A controller that has reported nothing yet is dialled at the
address that its node binds. What would leave either audience without any address is Incomplete, and is
not published: what was published last stays.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from controller.api import scopes
from controller.api.scopes import HostPort, Scope, Want
from dbaccessor.conf import DEFAULT_SPACE

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Spaces:
    """Which subnet belongs to which space, and the names of all spaces, those without a subnet too."""

    of_subnet: Mapping[Network, str]
    names: frozenset[str] = frozenset()

    def of(self, address: str) -> str:
        """Return the space of an address, by the narrowest subnet it lies in; a host name is in the default one."""
        ip = scopes.parse(address)
        around = [n for n in self.of_subnet if ip is not None and n.version == ip.version and ip in n]
        if not around:
            return DEFAULT_SPACE
        return self.of_subnet[max(around, key=lambda network: network.prefixlen)]

    def subnets(self, space: str) -> frozenset[Network]:
        """Return the subnets of a space."""
        return frozenset(network for network, name in self.of_subnet.items() if name == space)

    def within(self, space: str, networks: Iterable[Network]) -> list[Network]:
        """Return those networks that lie inside of a subnet of this space."""
        return sorted((n for n in networks if any(_is_inside(n, own) for own in self.subnets(space))), key=str)

    def stolen(self, space: str) -> list[Network]:
        """Return the subnets of other spaces that lie inside of one of this space, and so take addresses from it."""
        return self.within(space, (network for network, name in self.of_subnet.items() if name != space))

    def knows(self, space: str) -> bool:
        return space == DEFAULT_SPACE or space in self.names or space in self.of_subnet.values()


@dataclass(frozen=True)
class Controller:
    """What is known of one controller: the addresses it reported, and the one that its node binds ("": none)."""

    controller_id: str
    addresses: tuple[str, ...]
    bind_address: str = ""
    port: int = 17070


@dataclass(frozen=True)
class Servers:
    """One controller's part of a list, the best address first."""

    controller_id: str
    servers: tuple[HostPort, ...]


@dataclass(frozen=True)
class Fallback:
    """A controller that agents dial outside of the management space, since it has no address inside."""

    controller_id: str
    reason: str


@dataclass(frozen=True)
class Selection:
    """Both lists, by controller id. `skipped` are controllers that nobody can be sent to."""

    agents: tuple[Servers, ...]
    clients: tuple[Servers, ...]
    fallbacks: tuple[Fallback, ...] = ()
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Incomplete:
    """Not enough is known to publish anything."""

    reason: str


def select(controllers: Iterable[Controller], spaces: Spaces, management_space: str = "") -> Selection | Incomplete:
    """Return both lists, or say why neither may be published. `management_space` is "" where none is set.

    The result does not depend on the order in which controllers or addresses come.
    """
    controllers = sorted(controllers, key=lambda c: _in_order(c.controller_id))
    on_one_machine = all(scopes.scope_of(c.bind_address) is Scope.LOCAL_MACHINE for c in controllers)
    near, far = (Want.MACHINE_OR_CLOUD_LOCAL,) * 2 if on_one_machine else (Want.CLOUD_LOCAL, Want.PUBLIC)
    agents: list[Servers] = []
    clients: list[Servers] = []
    fallbacks: list[Fallback] = []
    skipped: list[str] = []
    for controller in controllers:
        usable = _usable(controller, on_one_machine)
        if not usable:
            skipped.append(controller.controller_id)
            continue
        inside = [a for a in usable if spaces.of(a) == management_space]
        if management_space and not inside:
            fallbacks.append(Fallback(controller.controller_id, _why(controller, spaces, management_space)))
        agents.append(_servers(controller, inside or usable, near))
        clients.append(_servers(controller, usable, far))
    if not agents or not clients:
        who = f"none of the controllers {', '.join(skipped)}" if skipped else "no controller"
        return Incomplete(f"{who} has an address that another machine can dial; the last list stays published")
    return Selection(tuple(agents), tuple(clients), tuple(fallbacks), tuple(skipped))


def same(one: Sequence[Servers], other: Sequence[Servers]) -> bool:
    """Whether both lists send to the same addresses of the same controllers; the order says nothing."""
    return {s.controller_id: frozenset(s.servers) for s in one} == {
        s.controller_id: frozenset(s.servers) for s in other
    }


def _usable(controller: Controller, on_one_machine: bool) -> list[str]:
    def is_usable(address: str) -> bool:
        return scopes.can_be_dialled(address) or (on_one_machine and scopes.scope_of(address) is Scope.LOCAL_MACHINE)

    for source in (controller.addresses, (controller.bind_address,)):
        usable = {_normal(address) for address in source if is_usable(address)}
        if usable:
            return sorted(usable, key=_numerically)
    return []


def _servers(controller: Controller, addresses: Iterable[str], want: Want) -> Servers:
    ordered = scopes.prioritised(addresses, want)
    return Servers(controller.controller_id, tuple(HostPort(address, controller.port) for address in ordered))


def _why(controller: Controller, spaces: Spaces, space: str) -> str:
    if not spaces.knows(space):
        return f"juju-mgmt-space is {space}, and no space has that name: agents get all addresses"
    return (
        f"controller {controller.controller_id} has no address in juju-mgmt-space {space}:"
        " agents get all of its addresses; give it one there, or choose another space"
    )


def _is_inside(one: Network, other: Network) -> bool:
    if isinstance(one, ipaddress.IPv4Network):
        return isinstance(other, ipaddress.IPv4Network) and one.subnet_of(other)
    return isinstance(other, ipaddress.IPv6Network) and one.subnet_of(other)


def _normal(address: str) -> str:
    ip = scopes.parse(address)
    return address if ip is None else str(ip)


def _numerically(address: str) -> tuple[bool, int, str]:
    ip = scopes.parse(address)
    return (ip is None, 0 if ip is None else int(ip), address)


def _in_order(controller_id: str) -> tuple[bool, int, str]:
    """Ids are text and usually numbers: 10 comes after 9."""
    numeric = controller_id.isascii() and controller_id.isdigit()
    return (not numeric, int(controller_id) if numeric else 0, controller_id)

"""Flow 1, hop 1: the addresses of a binding -> the one address Dqlite may use, or why there is not one.

Pure: values in, values out. Only the scope *local-cloud* counts, and IPv6 only where there is no IPv4 of that
scope. "No address at all" (the network is not there yet: wait) is another answer than "addresses, but none
that may be used" (a person must act: blocked), and every rejected candidate carries its reason.
"""

from __future__ import annotations

import enum
import ipaddress
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

# RFC 1918 and RFC 4193. Python's is_private is wider: documentation networks count there.
_LOCAL_CLOUD = tuple(ipaddress.ip_network(n) for n in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"))
_FAN = ipaddress.ip_network("240.0.0.0/4")


class Scope(enum.StrEnum):
    """Juju's words for how far an address reaches."""

    LOCAL_MACHINE = "local-machine"
    LOCAL_CLOUD = "local-cloud"
    LOCAL_FAN = "local-fan"
    LINK_LOCAL = "link-local"
    PUBLIC = "public"
    UNKNOWN = "not an address to bind to"


@dataclass(frozen=True, order=True)
class Candidate:
    """One address as network-get names it. `subnet` is "" where Juju does not know it."""

    address: str
    interface: str = ""
    subnet: str = ""

    def __str__(self) -> str:
        place = ", ".join(p for p in (self.interface, self.subnet) if p)
        return f"{self.address} ({place})" if place else self.address


@dataclass(frozen=True)
class Unique:
    """Exactly one address may be used. `present` holds every local-cloud address of the binding."""

    address: str
    present: frozenset[str]


@dataclass(frozen=True)
class Missing:
    """No address at all: the network is not there yet."""

    present: frozenset[str] = frozenset()

    @property
    def reason(self) -> str:
        return "no address on the db-cluster binding yet"


@dataclass(frozen=True)
class NoneLocal:
    """There are addresses, and none of them is local-cloud."""

    rejected: tuple[Candidate, ...]
    present: frozenset[str] = frozenset()

    def reason(self, app: str) -> str:
        named = "; ".join(f"{c}: {scope_of(c.address)}" for c in self.rejected)
        return f"no local-cloud address among {named}; run `juju bind {app} db-cluster=<space>`"


@dataclass(frozen=True)
class Ambiguous:
    """Several addresses may be used. `rejected` are those that may not."""

    candidates: tuple[Candidate, ...]
    present: frozenset[str]
    rejected: tuple[Candidate, ...] = ()

    @property
    def curable_by_bind(self) -> bool:
        """Whether a subnet holds just one candidate: a binding chooses between subnets, never inside one."""
        return 1 in Counter(c.subnet or c.address for c in self.candidates).values()

    def reason(self, app: str) -> str:
        named = "; ".join(map(str, self.candidates))
        if self.curable_by_bind:
            return f"several local-cloud addresses: {named}; run `juju bind {app} db-cluster=<space>`"
        return f"several local-cloud addresses in one subnet: {named}; no bind can choose, remove one"


Choice = Unique | Missing | NoneLocal | Ambiguous


def choose(candidates: Iterable[Candidate]) -> Choice:
    """Return the only local-cloud address of a binding, or say why there is not exactly one.

    Order and repetition do not matter, so a reordered reply never changes the answer.
    """
    known = sorted({_normal(c) for c in candidates if c.address})
    if not known:
        return Missing()
    local = _one_entry_each(c for c in known if scope_of(c.address) is Scope.LOCAL_CLOUD)
    rejected = tuple(c for c in known if scope_of(c.address) is not Scope.LOCAL_CLOUD)
    if not local:
        return NoneLocal(rejected)
    present = frozenset(c.address for c in local)
    preferred = [c for c in local if ":" not in c.address] or local
    if len(preferred) == 1:
        return Unique(preferred[0].address, present)
    return Ambiguous(tuple(preferred), present, rejected)


def share(choice: Choice | None, shared: str) -> str:
    """Return the address to share now, "" for none yet. `choice` is None when the network could not be asked.

    What was shared is only ever replaced by a unique other address, never taken back: a second network card,
    a network that is away for a moment or an ambiguous binding takes no running member from the others. A new
    address is taken even while a node runs: to it that is another listener, not another membership.
    """
    if not isinstance(choice, Unique) or shared in choice.present:
        return shared
    return choice.address


def scope_of(address: str) -> Scope:
    """Return the scope of a literal address as Juju derives it; a host name has none that can be bound to."""
    ip = parse(address)
    if ip is None or ip.is_unspecified:
        return Scope.UNKNOWN
    if ip.is_loopback:
        return Scope.LOCAL_MACHINE
    if any(ip in network for network in _LOCAL_CLOUD):
        return Scope.LOCAL_CLOUD
    if ip == ipaddress.ip_address("255.255.255.255"):
        return Scope.UNKNOWN
    if ip in _FAN:
        return Scope.LOCAL_FAN
    if ip.is_link_local:
        return Scope.LINK_LOCAL
    return Scope.UNKNOWN if ip.is_multicast else Scope.PUBLIC


def parse(address: str) -> IPAddress | None:
    """Return the numeric address, ::ffff:10.0.0.1 as 10.0.0.1 and without a zone; None for a host name."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    return ip


def _normal(candidate: Candidate) -> Candidate:
    ip = parse(candidate.address)
    return candidate if ip is None else Candidate(str(ip), candidate.interface, candidate.subnet)


def _one_entry_each(candidates: Iterable[Candidate]) -> list[Candidate]:
    # One address seen through two interfaces (a bridge and its port) is still one address.
    return list({c.address: c for c in reversed(list(candidates))}.values())[::-1]

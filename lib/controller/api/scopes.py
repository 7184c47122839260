"""Flow 3, hop 2: how far an address reaches (its scope), and in which order addresses suit a purpose. Pure.

The words and the order of the questions are Juju's. An address is numeric or a host name, never both: ::ffff:10.0.0.1
is 10.0.0.1, and a zone (fe80::1%eth0) says nothing about scope. Python's own `is_private` and `is_global` are not
asked: they count documentation networks and shared ones (100.64/10) in, which to Juju are public.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

# RFC 1918 and RFC 4193.
_LOCAL_CLOUD = tuple(ipaddress.ip_network(n) for n in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"))
_FAN = ipaddress.ip_network("240.0.0.0/4")
_BROADCAST = ipaddress.ip_address("255.255.255.255")
# Link-local unicast, and the multicast groups that never leave a link or an interface.
_LINK_LOCAL = tuple(
    ipaddress.ip_network(n) for n in ("169.254.0.0/16", "224.0.0.0/24", "fe80::/10", "ff01::/16", "ff02::/16")
)


class Scope(enum.StrEnum):
    """How far an address reaches, in Juju's words."""

    PUBLIC = "public"
    LOCAL_CLOUD = "local-cloud"
    LOCAL_FAN = "local-fan"
    LOCAL_MACHINE = "local-machine"
    LINK_LOCAL = "link-local"
    UNKNOWN = ""


class Kind(enum.StrEnum):
    """What an address is, in Juju's words."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"
    HOSTNAME = "hostname"


class Want(enum.Enum):
    """Who is going to use the address: somebody in the same cloud, anybody, or somebody on this very machine too."""

    CLOUD_LOCAL = "cloud-local"
    PUBLIC = "public"
    MACHINE_OR_CLOUD_LOCAL = "machine-or-cloud-local"


# Want -> its tiers, the best first. What stands in none of them is never used.
_TIERS: dict[Want, tuple[frozenset[Scope], ...]] = {
    Want.CLOUD_LOCAL: (
        frozenset({Scope.LOCAL_CLOUD}),
        frozenset({Scope.LOCAL_FAN}),
        frozenset({Scope.PUBLIC, Scope.UNKNOWN}),
    ),
    Want.PUBLIC: (
        frozenset({Scope.PUBLIC}),
        frozenset({Scope.LOCAL_CLOUD}),
        frozenset({Scope.LOCAL_FAN, Scope.UNKNOWN}),
    ),
    Want.MACHINE_OR_CLOUD_LOCAL: (
        frozenset({Scope.LOCAL_MACHINE, Scope.LOCAL_CLOUD}),
        frozenset({Scope.LOCAL_FAN}),
        frozenset({Scope.PUBLIC, Scope.UNKNOWN}),
    ),
}


@dataclass(frozen=True)
class HostPort:
    """Where to dial: a host name or a numeric address, and a port. `str` is host:port, IPv6 in brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse(value: str) -> IPAddress | None:
    """Return the numeric address, ::ffff:10.0.0.1 as 10.0.0.1 and without a zone; None for a host name."""
    try:
        ip = ipaddress.ip_address(value)
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv6Address):
        return ip.ipv4_mapped or ipaddress.IPv6Address(int(ip))
    return ip


def kind_of(value: str) -> Kind:
    """Return what the address is. ::ffff:10.0.0.1 has a four-byte form, so it is IPv4."""
    match parse(value):
        case None:
            return Kind.HOSTNAME
        case ipaddress.IPv4Address():
            return Kind.IPV4
        case _:
            return Kind.IPV6


def scope_of(value: str) -> Scope:
    """Return the scope that Juju derives from the address itself; a host name's is unknown."""
    ip = parse(value)
    if ip is None or ip.is_unspecified or ip == _BROADCAST:
        return Scope.UNKNOWN
    if ip.is_loopback:
        return Scope.LOCAL_MACHINE
    if any(ip in network for network in _LOCAL_CLOUD):
        return Scope.LOCAL_CLOUD
    if ip in _FAN:
        return Scope.LOCAL_FAN
    if any(ip in network for network in _LINK_LOCAL):
        return Scope.LINK_LOCAL
    return Scope.UNKNOWN if ip.is_multicast else Scope.PUBLIC


def can_be_dialled(value: str) -> bool:
    """Whether somebody on another machine can dial it: neither local to a machine or link, nor a group, nor nobody."""
    ip = parse(value)
    if ip is not None and (ip.is_unspecified or ip.is_multicast or ip == _BROADCAST):
        return False
    return bool(value) and scope_of(value) not in (Scope.LOCAL_MACHINE, Scope.LINK_LOCAL)


def rank(value: str, want: Want) -> int | None:
    """Return the address's place in the order for this purpose, 0 the best; None for one that is never used.

    Each tier has two places: IPv4, then the rest.
    """
    scope = scope_of(value)
    for number, tier in enumerate(_TIERS[want]):
        if scope in tier:
            return 2 * number + (kind_of(value) is not Kind.IPV4)
    return None


def prioritised(values: Iterable[str], want: Want) -> tuple[str, ...]:
    """Return all that can be used, the best tier first. Inside a tier the order stays as it was."""
    ranked = [(place, value) for value in values if (place := rank(value, want)) is not None]
    return tuple(value for _, value in sorted(ranked, key=lambda pair: pair[0]))


def best(values: Iterable[str], want: Want) -> tuple[str, ...]:
    """Return those of the best tier that is not empty."""
    ordered = prioritised(values, want)
    return tuple(v for v in ordered if rank(v, want) == rank(ordered[0], want))


def hostport(text: str) -> HostPort:
    """Return what host:port says, as agent.conf and the client's store write it. Raises ValueError, naming the text."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if ":" not in host:
            raise ValueError(f"{text!r}: only an IPv6 address stands in brackets")
    elif ":" in host:
        raise ValueError(f"{text!r}: an IPv6 address needs brackets: [address]:port")
    if not colon or not host or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ValueError(f"{text!r} is not host:port")
    return HostPort(host, int(port))

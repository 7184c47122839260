"""What one peer, and all of them together, may cost the server: one table, its relations checked when it is made.

A limit for one place is one for all addresses that a single machine can take at will: see `place_of`. Pure.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from controller.api import messages, scopes

# A network of this length is the least that anybody gets, and every address in it is the owner's to choose.
_IPV6_PREFIX = 64


@dataclass(frozen=True)
class Limits:
    """The server's limits. What is over a limit is refused at once; nothing queues without an end.

    `connections` in all; `strangers` of them not logged in, and `strangers_from_one_place` of those from one place;
    `requests` and `watchers` of one connection at a time.
    """

    connections: int = 4000
    strangers: int = 512
    strangers_from_one_place: int = 256
    requests: int = 64
    watchers: int = 32
    failures: int = 5  # Failed logins on one connection.
    bytes_before_login: int = messages.MOST_BYTES_BEFORE_LOGIN
    handshake_seconds: float = 5.0  # Of TLS.
    login_seconds: float = 20.0  # Until the login has succeeded, from the first byte on.
    request_seconds: float = 30.0
    write_seconds: float = 10.0
    silence_seconds: float = 30.0

    def __post_init__(self) -> None:
        assert self.handshake_seconds < self.login_seconds
        assert self.requests > self.watchers, "each watcher may have a Next under way, and something else must be left"
        assert self.strangers_from_one_place <= self.strangers <= self.connections


def place_of(address: str) -> str:
    """Return the place that limits are counted for: an IPv4 address, also where it came mapped, or the /64 of an IPv6
    address. What is none is returned as it is.
    """
    ip = scopes.parse(address)
    if ip is None:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((ip, _IPV6_PREFIX), strict=False))
    return str(ip)

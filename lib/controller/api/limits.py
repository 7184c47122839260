"""What one peer, and all of them together, may cost the server: one table, its relations checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass

from controller.api import messages


@dataclass(frozen=True)
class Limits:
    """The server's limits. What is over a limit is refused at once; nothing queues without an end.

    `connections` in all; `strangers` of them not logged in, and `strangers_from_one_place` of those from one address;
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

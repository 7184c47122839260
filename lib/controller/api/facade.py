"""What can be asked of the API server: facades by name and version, and the way from a request to the method. Pure.

A facade is a table of methods. Who may use it is part of the table, so no method has to think of it. The refusals are
Juju's, words and codes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from controller.api import messages
from controller.api.messages import FacadeVersions, RPCError

SUPERUSER = "superuser"


@dataclass(frozen=True)
class Identity:
    """Who has logged in. `access` is a user's access to the controller; agents have none.

    `secret_hash` is what was kept of an agent's secret when it logged in, or last replaced it on this connection.
    """

    tag: str
    display_name: str = ""
    access: str = ""
    secret_hash: str = field(default="", repr=False)

    @property
    def is_agent(self) -> bool:
        return not self.tag.startswith("user-")

    @property
    def is_superuser(self) -> bool:
        return self.access == SUPERUSER


class Watcher(Protocol):
    """Something that may change. `next` returns once it has, since the watcher was made or `next` returned last."""

    async def next(self) -> None: ...

    def stop(self) -> None: ...


class Caller(Protocol):
    """The connection that asks, as methods see it."""

    @property
    def identity(self) -> Identity: ...

    @property
    def model_uuid(self) -> str: ...

    @property
    def place(self) -> str: ...

    def has_new_secret(self, secret_hash: str) -> None: ...

    def add_watcher(self, watcher: Watcher) -> str: ...

    def watcher(self, id: str) -> Watcher: ...

    def remove_watcher(self, id: str) -> None: ...


@dataclass(frozen=True)
class Method:
    """One method. `waits`: it may take as long as it likes, as a watcher's Next."""

    takes: type[Any]
    call: Callable[[Caller, Any, str], Awaitable[object]]
    waits: bool = False


@dataclass(frozen=True)
class Facade:
    """A named table of methods. `agents` and `users` say who sees it; `superuser` that it takes that much access."""

    name: str
    versions: tuple[int, ...]
    methods: Mapping[str, Method]
    agents: bool = False
    users: bool = False
    superuser: bool = False

    def serves(self, identity: Identity) -> bool:
        if identity.is_agent:
            return self.agents
        return self.users and (identity.is_superuser or not self.superuser)


@dataclass(frozen=True)
class Facades:
    """All facades of a server."""

    by_name: Mapping[str, Facade] = field(default_factory=dict)

    @classmethod
    def of(cls, facades: Iterable[Facade]) -> Facades:
        """Return the facades together. Raises ValueError for two of one name."""
        found: dict[str, Facade] = {}
        for facade in facades:
            if facade.name in found:
                raise ValueError(f"two facades are named {facade.name}")
            found[facade.name] = facade
        return cls(found)

    def versions(self, identity: Identity) -> tuple[FacadeVersions, ...]:
        """Return what a login lists for this identity."""
        return tuple(
            FacadeVersions(name, facade.versions)
            for name, facade in sorted(self.by_name.items())
            if facade.serves(identity)
        )

    def method(self, asked: messages.Request, identity: Identity) -> Method:
        """Return the method that a request names. Raises RPCError."""
        facade = self.by_name.get(asked.type)
        if facade is None:
            raise RPCError(f'unknown facade type "{asked.type[:80]}"', messages.NOT_IMPLEMENTED)
        if asked.version not in facade.versions:
            raise RPCError(f'unknown version ({asked.version}) of interface "{asked.type}"', messages.NOT_IMPLEMENTED)
        if not facade.serves(identity):
            raise RPCError("permission denied", messages.UNAUTHORIZED)
        method = facade.methods.get(asked.request)
        if method is None:
            where = f"{asked.type}({asked.version}).{asked.request[:80]}"
            raise RPCError(f"no such request - method {where} is not implemented", messages.NOT_IMPLEMENTED)
        return method

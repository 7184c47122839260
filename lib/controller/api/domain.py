"""What the API server needs of everything behind it, as small protocols: users, agents, models, addresses, config.

Each has one implementation on the database, and a fake that passes the same tests (tests/support/fakedomain.py). Where
a method cannot answer now it raises one of dbaccessor.errors, which the server turns into an answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from controller.api.facade import Watcher
from controller.api.messages import Epoch, Servers


@dataclass(frozen=True)
class User:
    """One person. `password_hash` is None until she has registered."""

    name: str
    display_name: str
    access: str
    password_hash: str | None
    created: str
    disabled: bool = False


@dataclass(frozen=True)
class Model:
    """One model, in Juju's words. The controller's own is named "controller"."""

    uuid: str
    name: str
    owner: str = "admin"
    life: str = "alive"


class Users(Protocol):
    """The people who may log in."""

    async def user(self, name: str) -> User | None: ...

    async def users(self) -> tuple[User, ...]: ...

    async def set_password_hash(self, name: str, hash: str) -> bool:
        """Return False if there is no such user."""
        ...

    async def open_registration(self, name: str, secret_hash: str, valid_seconds: int) -> bool:
        """Let this user set her password once with the secret; an earlier one ends. False if there is no such user."""
        ...

    async def register(self, name: str, secret_hash: str, password_hash: str) -> bool:
        """Set the password if the secret is the open one, which ends with it. Return whether it was."""
        ...


class Agents(Protocol):
    """The agents of each model, by tag, and what is kept of their secrets. No model: the controllers' own."""

    async def secret_hash(self, model_uuid: str, tag: str) -> str | None: ...

    async def set_secret_hash(self, model_uuid: str, tag: str, hash: str, place: str, *, instead_of: str) -> bool:
        """The agent, at the address `place`, has made a secret of its own. Return False if there is no such agent."""
        ...


class Models(Protocol):
    """The models of this controller."""

    async def models(self) -> tuple[Model, ...]: ...


class Addresses(Protocol):
    """Where the controllers are, for agents and for clients: a list for each controller."""

    async def for_agents(self) -> Servers: ...

    async def for_clients(self) -> Servers: ...

    def watch(self) -> Watcher:
        """Return a watcher of the agents' list."""
        ...


class Config(Protocol):
    """The controller's configuration: keys to texts."""

    async def config(self) -> Mapping[str, str]: ...

    async def set(self, changes: Mapping[str, str]) -> None:
        """Set each key; an empty text unsets it. Raises Refused for a key that is unknown or not to be set here."""
        ...


class About(Protocol):
    """What this controller is. All of it may change while it runs, but the first."""

    @property
    def controller_uuid(self) -> str: ...

    @property
    def name(self) -> str: ...

    def epoch(self) -> Epoch: ...

    def ca_cert(self) -> str:
        """Return the authorities that a client has to trust, as PEM."""
        ...

    def heard(self, epoch: Epoch) -> None:
        """Somebody who logs in knows of a newer epoch than this controller's."""
        ...


@dataclass(frozen=True)
class Domain:
    """Everything behind the API."""

    about: About
    users: Users
    agents: Agents
    models: Models
    addresses: Addresses
    config: Config

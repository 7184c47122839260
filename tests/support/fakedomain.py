"""What is behind the API server, in memory: fakes that keep the promises of controller.api.domain."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from dataclasses import replace

from controller.api import passwords, scopes
from controller.api.domain import Domain, Model, User
from controller.api.messages import Epoch, HostPort, Servers
from controller.api.watching import Subject, SubjectWatcher
from dbaccessor import errors

UUID = "11111111-2222-4333-8444-555555555555"
MODEL_UUID = "99999999-2222-4333-8444-555555555555"


class FakeUsers:
    """`admin`, who has not registered yet, until the test says otherwise."""

    def __init__(self) -> None:
        self.known = {"admin": User("admin", "admin", "superuser", None, "2026-01-01T00:00:00Z")}
        self._open: dict[str, tuple[str, float]] = {}
        self.trouble: errors.DbAccessorError | None = None

    def give(self, name: str, password: str, access: str = "superuser", *, disabled: bool = False) -> None:
        kept = _hashed(password)
        self.known[name] = User(name, name.title(), access, kept, "2026-01-01T00:00:00Z", disabled)

    async def user(self, name: str) -> User | None:
        if self.trouble is not None:
            raise self.trouble
        return self.known.get(name)

    async def users(self) -> tuple[User, ...]:
        return tuple(self.known[name] for name in sorted(self.known))

    async def set_password_hash(self, name: str, hash: str) -> bool:
        if name in self.known:
            self.known[name] = replace(self.known[name], password_hash=hash)
        return name in self.known

    async def open_registration(self, name: str, secret_hash: str, valid_seconds: int) -> bool:
        if name in self.known:
            self._open[name] = secret_hash, time.time() + valid_seconds
        return name in self.known

    async def register(self, name: str, secret_hash: str, password_hash: str) -> bool:
        kept, until = self._open.get(name, ("", 0.0))
        if kept != secret_hash or until <= time.time():
            return False
        del self._open[name]
        return await self.set_password_hash(name, password_hash)


class FakeAgents:
    """Agents by tag, all of the controllers' own model."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}
        self.places: dict[str, str] = {}

    def give(self, tag: str, secret: str) -> None:
        self.kept[tag] = passwords.hashed_secret(secret)

    async def secret_hash(self, model_uuid: str, tag: str) -> str | None:
        return self.kept.get(tag) if model_uuid in ("", MODEL_UUID) else None

    async def set_secret_hash(self, model_uuid: str, tag: str, hash: str, place: str, *, instead_of: str) -> bool:
        if await self.secret_hash(model_uuid, tag) not in (instead_of, hash):
            return False
        self.kept[tag] = hash
        self.places[tag] = place
        return True


class FakeModels:
    """The controller's own model, until the test adds some."""

    def __init__(self) -> None:
        self.known = [Model(MODEL_UUID, "controller")]

    async def models(self) -> tuple[Model, ...]:
        return tuple(self.known)


class FakeAddresses:
    """Two lists that the test sets; setting the agents' wakes those who watch."""

    def __init__(self) -> None:
        self.agents: Servers = ()
        self.clients: Servers = ()
        self.subject = Subject()

    def publish(self, *groups: list[str]) -> None:
        self.agents = self.clients = servers(*groups)
        self.subject.changed()

    async def for_agents(self) -> Servers:
        return self.agents

    async def for_clients(self) -> Servers:
        return self.clients

    def watch(self) -> SubjectWatcher:
        return self.subject.watch()


class FakeConfig:
    """Any key goes but `forbidden`."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}

    async def config(self) -> Mapping[str, str]:
        return self.kept

    async def set(self, changes: Mapping[str, str]) -> None:
        if "forbidden" in changes:
            raise errors.Refused("forbidden is not a key of the controller's configuration")
        self.kept = {k: v for k, v in {**self.kept, **changes}.items() if v}


class FakeAbout:
    """A cluster of its own."""

    controller_uuid = UUID
    name = "prod"

    def __init__(self, ca_cert: str = "") -> None:
        self._ca_cert = ca_cert
        self.own = Epoch(1, "a")
        self.told: list[Epoch] = []

    def epoch(self) -> Epoch:
        return self.own

    def ca_cert(self) -> str:
        return self._ca_cert

    def heard(self, epoch: Epoch) -> None:
        self.told.append(epoch)


class Fakes:
    """All of them, and the Domain that they make up."""

    def __init__(self, ca_cert: str = "") -> None:
        self.about = FakeAbout(ca_cert)
        self.users = FakeUsers()
        self.agents = FakeAgents()
        self.models = FakeModels()
        self.addresses = FakeAddresses()
        self.config = FakeConfig()
        self.domain = Domain(self.about, self.users, self.agents, self.models, self.addresses, self.config)


@functools.cache
def _hashed(password: str) -> str:
    return passwords.hashed(password)


def servers(*groups: list[str]) -> Servers:
    """host:port texts, a list for each controller -> what a login returns."""
    found = [[scopes.hostport(text) for text in group] for group in groups]
    return tuple(
        tuple(
            HostPort(value=a.host, port=a.port, type=scopes.kind_of(a.host), scope=scopes.scope_of(a.host))
            for a in group
        )
        for group in found
    )

"""Controllers for tests of the agent: as its connections see them, without sockets, doing what the test says.

What is here is what connection.py promises; tests/functional/api runs the same agent against the real thing.
"""

from __future__ import annotations

import asyncio
import errno
from dataclasses import dataclass, field
from typing import Any

from controller.api import messages
from controller.api.agent.agentconf import AgentConf
from controller.api.connection import Over
from controller.api.dial import Kind, PeerError
from controller.api.messages import (
    BytesResult,
    EntityPasswords,
    Epoch,
    ErrorResult,
    ErrorResults,
    HostPortsResult,
    LoginParams,
    LoginResult,
    RPCError,
)
from controller.api.scopes import HostPort

TAG = "machine-0"


def host(n: int, m: int = 1) -> HostPort:
    return HostPort(f"10.0.{n}.{m}", 17070)


@dataclass(eq=False)
class FakeController:
    """One controller. The test changes it at will; `connections` are those that live."""

    number: int
    world: World
    alive: bool = True
    silent: bool = False  # Takes connections, and answers none.
    foreign: bool = False  # Shows a certificate of somebody else.
    epoch: Epoch | None = None
    login_error: RPCError | None = None
    connections: list[FakeConnection] = field(default_factory=list)
    heard: list[LoginParams] = field(default_factory=list)

    def die(self) -> None:
        self.alive = False
        for connection in list(self.connections):
            connection.end("the connection broke")


class World:
    """Controllers by address, one list that all publish, and one password each agent."""

    def __init__(self, count: int) -> None:
        self.controllers = [FakeController(n, self) for n in range(count)]
        self.at = {host(c.number): c for c in self.controllers}
        self.published: list[list[HostPort]] = [[host(c.number)] for c in self.controllers]
        self.passwords = {TAG: "first"}
        self.dialled: list[HostPort] = []
        self.cacerts: set[str] = set()
        self.changed = asyncio.Event()
        self.authorities = "the authority"  # What controllers say, and whose certificates they show.
        self.certified_by = {"the authority"}
        self.password_error = ""
        self.forgets_passwords = False  # The answer to SetPasswords does not arrive.
        self.parks_passwords = (
            False  # A SetPasswords is not carried out before `carry_out_parked`; its connection ends.
        )
        self.parked: list[EntityPasswords] = []

    def publish(self, *groups: list[HostPort]) -> None:
        self.published = list(groups)
        self.changed.set()
        self.changed = asyncio.Event()

    def carry_out_parked(self) -> None:
        """A controller that was cut off is back, and goes on with what it had been asked for."""
        for asked in self.parked:
            self.passwords.update({change.tag: change.password for change in asked.changes})
        self.parked.clear()

    def connected(self) -> dict[int, int]:
        """Controller -> how many live connections."""
        return {c.number: len(c.connections) for c in self.controllers if c.connections}

    async def connect(self, address: HostPort, conf: AgentConf) -> FakeConnection:
        self.dialled.append(address)
        self.cacerts.add(conf.cacert)
        await asyncio.sleep(0)
        controller = self.at.get(address)
        if controller is None or not controller.alive:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        if controller.silent:
            await asyncio.Event().wait()
        if controller.foreign or conf.cacert.strip() not in self.certified_by:
            raise PeerError(Kind.CERTIFICATE, "its certificate is of nobody known")
        return FakeConnection(address, controller)


class FakeConnection:
    def __init__(self, address: HostPort, controller: FakeController) -> None:
        self.address = address
        self.controller_id = str(controller.number)
        self.controller = controller
        self.tag = ""
        self.pings = 0
        self._over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        controller.connections.append(self)

    def end(self, why: str) -> None:
        if not self._over.done():
            self._over.set_result(why)
            self.controller.connections.remove(self)

    async def close(self) -> None:
        self.end("it was closed")

    async def until_over(self) -> str:
        return await asyncio.shield(self._over)

    async def login(self, params: LoginParams, *, deadline_seconds: float = 30) -> LoginResult:
        self._check()
        controller, world = self.controller, self.controller.world
        controller.heard.append(params)
        await asyncio.sleep(0)
        if controller.login_error is not None:
            raise controller.login_error
        if world.passwords.get(params.auth_tag or "") != params.credentials:
            raise RPCError("invalid entity name or password", messages.UNAUTHORIZED)
        if params.epoch and controller.epoch and params.epoch.number > controller.epoch.number:
            raise RPCError("go to another controller", messages.SUPERSEDED)
        self.tag = params.auth_tag or ""
        return LoginResult(controller_tag="controller-u", server_version="3.6.0", epoch=controller.epoch)

    async def call(
        self,
        type: str,
        version: int,
        request: str,
        params: Any = None,
        kind: Any = None,
        *,
        deadline_seconds: float | None = 30,
    ) -> Any:
        self._check()
        await asyncio.sleep(0)
        world = self.controller.world
        match type, version, request:
            case "Pinger", 1, "Ping":
                self.pings += 1
                if self.controller.silent:
                    raise Over("it did not answer any more")
                return None
            case "Machiner", 5, "APIHostPorts":
                return HostPortsResult(
                    tuple(
                        tuple(messages.HostPort(value=a.host, port=a.port) for a in group) for group in world.published
                    )
                )
            case "Machiner", 5, "CACert":
                return BytesResult(world.authorities.encode())
            case "Agent", 3, "SetPasswords":
                assert isinstance(params, EntityPasswords)
                if world.password_error:
                    return ErrorResults((ErrorResult(messages.Fault(world.password_error)),))
                (change,) = params.changes
                assert change.tag == self.tag
                if world.parks_passwords:
                    world.parked.append(params)
                    self.end("it was silent for too long")
                    self._check()
                world.passwords[change.tag] = change.password
                if world.forgets_passwords:
                    self.end("the connection broke")
                    self._check()
                return ErrorResults((ErrorResult(),))
        raise RPCError(f"no such request - {type}({version}).{request}", messages.NOT_IMPLEMENTED)

    async def watch(self, type: str, version: int, request: str) -> FakeWatch:
        self._check()
        assert (type, version, request) == ("Machiner", 5, "WatchAPIHostPorts")
        return FakeWatch(self, self.controller.world.changed)

    def _check(self) -> None:
        if self._over.done():
            raise Over(self._over.result())


class FakeWatch:
    def __init__(self, connection: FakeConnection, due: asyncio.Event) -> None:
        self._connection = connection
        self._due = due

    async def next(self) -> None:
        over = asyncio.create_task(self._connection.until_over())
        due = asyncio.create_task(self._due.wait())
        try:
            await asyncio.wait([over, due], return_when=asyncio.FIRST_COMPLETED)
            if not due.done():
                raise Over(over.result())
            self._due = self._connection.controller.world.changed
        finally:
            over.cancel()
            due.cancel()

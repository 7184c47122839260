"""Flow 3, hop 6: keeps one agent connected to a living controller. Juju calls it the api-caller.

Each time it reads agent.conf, takes an order that is fair to controllers, dials, and logs in. Then it waits until the
connection ends, or until its address is no longer in the list. Whatever fails is tried again, soon at first; a
controller that has just failed comes last.

A password that was given by somebody else (a provisioner) is replaced by one that only this agent knows: first in the
file, with the one that works kept beside it, then at the controller. Killed in between, it finds the one that works.
One that was sent and not answered may still be set, by a controller that was cut off. So the next try sends the same.

A controller of an older epoch is refused: the login tells it of the newer one, so it learns that it was left behind.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from controller.api import dial, epoch, messages, order
from controller.api.agent import agentconf
from controller.api.agent.agentconf import AgentConf, AgentConfError
from controller.api.agent.agentfile import AgentConfFile
from controller.api.connection import Over, TooLate
from controller.api.dial import DialError, Failure, Pace
from controller.api.epoch import Verdict
from controller.api.messages import (
    BadMessage,
    EntityPassword,
    EntityPasswords,
    Epoch,
    ErrorResults,
    LoginParams,
    LoginResult,
    RPCError,
)
from controller.api.scopes import HostPort

log = logging.getLogger(__name__)

_T = TypeVar("_T")

# As token_urlsafe makes them here. A controller takes no short one, and what looks otherwise is not of this agent.
_OWN_BYTES = 18
_OWN_PASSWORD = re.compile(r"[A-Za-z0-9_-]{24}")


class Watch(Protocol):
    """A notify watcher at the controller."""

    async def next(self) -> None: ...


class Connection(Protocol):
    """One connection to one controller, as connection.py has it; asked, it raises what is in FAILED."""

    @property
    def address(self) -> HostPort: ...

    @property
    def controller_id(self) -> str: ...

    async def login(self, params: LoginParams, *, deadline_seconds: float = ...) -> LoginResult: ...

    async def call(
        self,
        type: str,
        version: int,
        request: str,
        params: Any = ...,
        kind: type[_T] = ...,
        *,
        deadline_seconds: float | None = ...,
    ) -> _T: ...

    async def watch(self, type: str, version: int, request: str) -> Watch: ...

    async def until_over(self) -> str: ...

    async def close(self) -> None: ...


FAILED = (RPCError, Over, TooLate, BadMessage)

# Dials one address as the agent of this file, trusting its authorities. It raises what a race's `connect` may.
Connect = Callable[[HostPort, AgentConf], Awaitable[Connection]]


@dataclass(frozen=True)
class Patience:
    """How long an agent waits for what, in seconds. A pause grows from the first to the longest, by half at least."""

    first_pause: float = 0.1
    longest_pause: float = 2.0
    refused_pause: float = 5.0  # After a login that no retry will cure soon.
    login: float = 15.0
    ping: float = 60.0
    pong: float = 30.0

    def __post_init__(self) -> None:
        if not 0 < self.first_pause <= self.longest_pause <= self.refused_pause:
            raise ValueError(f"0 < first <= longest <= refused pause must hold, not {self}")


@dataclass(frozen=True)
class Connected:
    """A connection that has logged in. `login` is what the controller said; `gone` is set when it is used no more."""

    connection: Connection
    login: LoginResult
    since: float
    gone: asyncio.Event = field(default_factory=asyncio.Event)


class Refusal(Exception):
    """The login did not succeed. `lasting`: asking again soon changes nothing."""

    def __init__(self, message: str, *, lasting: bool = False) -> None:
        super().__init__(message)
        self.lasting = lasting


class Caller:
    """The worker, for the agent of one agent.conf."""

    def __init__(
        self,
        file: AgentConfFile,
        connect: Connect,
        *,
        pace: Pace = dial.AGENT,
        patience: Patience | None = None,
        dice: random.Random | None = None,
    ) -> None:
        self._file = file
        self._connect = connect
        self._pace = pace
        self._patience = patience or Patience()
        self._dice = dice or random.Random()
        self._failures = order.Failures()
        self._connected: asyncio.Future[Connected] | None = None
        self._list_changed = asyncio.Event()
        self._problem = "not connected yet"
        self._tag = ""
        self._connections = 0

    async def run(self) -> None:
        """Keep the agent connected until cancelled."""
        tries = 0
        while True:
            self._list_changed.clear()
            try:
                connected = await self._come_in()
            except (DialError, Refusal, AgentConfError) as error:
                tries += 1
                self._say(str(error))
                await self._pause(tries, lasting=isinstance(error, Refusal) and error.lasting)
                continue
            tries = 0
            await self._stay(connected)

    async def connected(self) -> Connected:
        """Return the connection there is, once there is one."""
        return await asyncio.shield(self._future())

    def use_new_list(self) -> None:
        """agent.conf has another list: leave an address that is not in it; without a connection, dial at once."""
        self._list_changed.set()

    def report(self) -> dict[str, Any]:
        """Return who this agent is, and what it is connected to or why it is not."""
        told: dict[str, Any] = {"tag": self._tag, "connections": self._connections}
        future = self._connected
        if future is None or not future.done():
            return {**told, "connected": False, "problem": self._problem}
        now = future.result()
        seen = now.login.epoch
        return {
            **told,
            "connected": True,
            "address": str(now.connection.address),
            "controller-id": now.connection.controller_id,
            "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now.since)),
            "epoch": epoch.text_of(seen) if seen else "",
        }

    async def _come_in(self) -> Connected:
        """Dial and log in. Raises DialError, Refusal or AgentConfError; then no connection is left open."""
        conf = self._file.read()
        self._tag = conf.tag
        if not conf.apiaddresses:
            raise agentconf.BadAgentConf(f"{self._file.path}: apiaddresses is empty: enrol this machine again")
        loop = asyncio.get_running_loop()
        ordered = order.for_agent(conf.controllers, self._dice, self._failures.recent(loop.time()))
        address, connection = await dial.dial(
            ordered,
            lambda address: self._connect(address, conf),
            discard=lambda connection: connection.close(),
            pace=self._pace,
            on_failure=self._note,
        )
        try:
            login = await self._log_in(connection, conf)
        except BaseException as error:
            await connection.close()
            if isinstance(error, FAILED):
                self._failures.note(address, loop.time())
                raise Refusal(f"{address}: {error}") from error
            if isinstance(error, Refusal):
                self._failures.note(address, loop.time())
            raise
        self._failures.forgive(address)
        return Connected(connection, login, time.time())

    async def _log_in(self, connection: Connection, conf: AgentConf) -> LoginResult:
        passwords = [p for p in dict.fromkeys((conf.apipassword, conf.oldpassword)) if p]
        if not passwords:
            raise agentconf.BadAgentConf(f"{self._file.path}: there is no password: enrol this machine again")
        for password in passwords:
            try:
                login = await connection.login(
                    LoginParams(
                        auth_tag=conf.tag,
                        credentials=password,
                        nonce=conf.nonce or None,
                        epoch=conf.epoch,
                    ),
                    deadline_seconds=self._patience.login,
                )
            except RPCError as error:
                if error.code == messages.UNAUTHORIZED and password != passwords[-1]:
                    continue
                raise _refusal(connection.address, conf.tag, error) from error
            await self._believe(connection, login, conf)
            if password != conf.apipassword:
                await self._replace_password(connection, conf, password)
            return login
        raise AssertionError("the last password either works or is refused")

    async def _believe(self, connection: Connection, login: LoginResult, conf: AgentConf) -> None:
        """Raise Refusal for a controller of another epoch than the newest known; keep a newer one."""
        offered = login.epoch if login.epoch is not None and login.epoch.number else None
        match epoch.judge(conf.epoch, offered):
            case Verdict.NEWER:
                assert offered is not None
                await self._update(lambda c: _with_newer(c, offered))
                log.info("%s has seen epoch %s", conf.tag, offered.number)
            case Verdict.OLDER | Verdict.RIVAL as verdict:
                raise Refusal(_left_behind(connection.address, conf.epoch, offered, verdict))
            case Verdict.SAME:
                pass

    async def _replace_password(self, connection: Connection, conf: AgentConf, works: str) -> None:
        """Set a password that only this agent knows. In the file first: the one that works stays beside it.

        One of its own that is in the file and lets it in nowhere yet is in doubt: a controller that took it, and did
        not answer, may set it at any later time. Another one would be overwritten then, with nothing left that works.
        """
        in_doubt = _OWN_PASSWORD.fullmatch(conf.apipassword) is not None
        new = conf.apipassword if in_doubt else secrets.token_urlsafe(_OWN_BYTES)
        await self._update(lambda c: agentconf.with_passwords(c, new, works))
        change = EntityPasswords((EntityPassword(conf.tag, new),))
        answer = await connection.call("Agent", 3, "SetPasswords", change, ErrorResults)
        refused = [result.error.message for result in answer.results if result.error is not None]
        if refused or not answer.results:
            raise Refusal(f"{connection.address} does not take a new password: {', '.join(refused) or 'no answer'}")
        log.info("%s has a new password", conf.tag)

    async def _update(self, change: Callable[[AgentConf], AgentConf]) -> None:
        await asyncio.to_thread(self._file.update, change)

    async def _stay(self, connected: Connected) -> None:
        """Be connected until the connection ends, or is not wanted any more."""
        connection = connected.connection
        self._connections += 1
        log.info("%s is connected to controller %s at %s", self._tag, connection.controller_id, connection.address)
        self._future().set_result(connected)
        reasons = [
            asyncio.create_task(connection.until_over()),
            asyncio.create_task(self._until_silent(connection)),
            asyncio.create_task(self._until_unlisted(connection.address)),
        ]
        try:
            done, _ = await asyncio.wait(reasons, return_when=asyncio.FIRST_COMPLETED)
            self._failures.note(connection.address, asyncio.get_running_loop().time())
            self._say(f"{connection.address}: {next(iter(done)).result()}")
        finally:
            self._connected = None
            connected.gone.set()
            for task in reasons:
                task.cancel()
            await asyncio.gather(*reasons, return_exceptions=True)
            await connection.close()

    async def _until_silent(self, connection: Connection) -> str:
        """The connection itself notices a peer that is gone; this notices one that answers nothing any more."""
        while True:
            await asyncio.sleep(self._patience.ping)
            try:
                await connection.call("Pinger", 1, "Ping", deadline_seconds=self._patience.pong)
            except FAILED as error:
                return f"a ping failed: {error}"

    async def _until_unlisted(self, address: HostPort) -> str:
        while True:
            await self._list_changed.wait()
            self._list_changed.clear()
            try:
                listed = self._file.read().apiaddresses
            except AgentConfError as error:
                log.warning("%s; the connection stays", error)
                continue
            if address not in listed:
                return "the address is not in the list any more"

    async def _pause(self, tries: int, *, lasting: bool) -> None:
        """Wait before the next attempt; a new list ends it."""
        patience = self._patience
        longest = min(patience.longest_pause, patience.first_pause * 2 ** min(tries - 1, 16))
        seconds = patience.refused_pause if lasting else longest
        try:
            async with asyncio.timeout(seconds * self._dice.uniform(0.5, 1)):
                await self._list_changed.wait()
        except TimeoutError:
            pass

    def _note(self, failure: Failure) -> None:
        self._failures.note(failure.address, asyncio.get_running_loop().time())

    def _future(self) -> asyncio.Future[Connected]:
        if self._connected is None:
            self._connected = asyncio.get_running_loop().create_future()
        return self._connected

    def _say(self, problem: str) -> None:
        if problem != self._problem:
            log.warning("%s is not connected: %s", self._tag or self._file.path, problem)
        self._problem = problem


def _with_newer(conf: AgentConf, offered: Epoch) -> AgentConf:
    return agentconf.with_epoch(conf, offered) if epoch.judge(conf.epoch, offered) is Verdict.NEWER else conf


def _refusal(address: HostPort, tag: str, error: RPCError) -> Refusal:
    match error.code:
        case messages.UNAUTHORIZED:
            return Refusal(f"{address} does not let {tag} in ({error}): if it is to stay, enrol it again", lasting=True)
        case messages.REDIRECT:
            return Refusal(f"{address} sends {tag} elsewhere, where an agent does not follow: another one is tried")
        case _:
            return Refusal(f"{address} does not let {tag} in: {error}")


def _left_behind(address: HostPort, known: Epoch | None, offered: Epoch | None, verdict: Verdict) -> str:
    if verdict is Verdict.RIVAL and known is not None:
        return f"{address} is of another epoch {known.number} than the one that is known: compare hactl status on both"
    theirs = f"epoch {offered.number}" if offered else "no epoch"
    ours = f"epoch {known.number}" if known else "no epoch"
    return f"{address} is of {theirs}, and {ours} is known: that controller was left behind"

"""Flow 3, hop 4: keeps the list in agent.conf what the controllers publish for agents. Juju calls it the
api-address-updater.

It watches, and takes what it is told only with care, since a bad list strands a machine for good:

- An empty list, also one that is empty without this machine's own bridges, changes nothing.
- The same addresses in another order change nothing.
- Old addresses go only after a new one has answered with a controller's certificate. The address that told is such an
  answer, if it is in the new list. If not, the new ones come *beside* the old ones first, and are dialled.
- New authorities replace the old ones only after a controller has shown a certificate of theirs. They are asked for
  with each new connection, and once in a while: authorities are replaced rarely, and overlap for long.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from controller.api import dial, interfaces, messages, order, scopes
from controller.api.agent import agentconf
from controller.api.agent.agentconf import AgentConf, AgentConfError
from controller.api.agent.agentfile import AgentConfFile
from controller.api.agent.caller import FAILED, Caller, Connect, Connected, Connection
from controller.api.dial import DialError, Pace
from controller.api.interfaces import Interface, Network
from controller.api.messages import BytesResult, HostPortsResult, RPCError
from controller.api.scopes import HostPort, Scope, Want

log = logging.getLogger(__name__)

Groups = tuple[tuple[HostPort, ...], ...]

# After a failure that is not the connection's: a full disk, a lock, new addresses that do not answer yet.
_AGAIN_SECONDS = 5.0
_AUTHORITIES_SECONDS = 3600.0


class Updater:
    """The worker. `own` says what interfaces this machine has."""

    def __init__(
        self,
        file: AgentConfFile,
        caller: Caller,
        connect: Connect,
        *,
        own: Callable[[], Sequence[Interface]] = interfaces.current,
        pace: Pace = dial.AGENT,
        again_seconds: float = _AGAIN_SECONDS,
        authorities_seconds: float = _AUTHORITIES_SECONDS,
        dice: random.Random | None = None,
    ) -> None:
        self._file = file
        self._caller = caller
        self._connect = connect
        self._own = own
        self._pace = pace
        self._again_seconds = again_seconds
        self._authorities_seconds = authorities_seconds
        self._dice = dice or random.Random()
        self._told: Groups = ()
        self._problem = ""
        self._writes = 0

    async def run(self) -> None:
        """Follow the published list, over one connection after another, until cancelled."""
        while True:
            connected = await self._caller.connected()
            try:
                await self._follow(connected)
            except FAILED as error:
                # Most often the connection is over, and there will be another.
                self._say(f"the list cannot be followed: {error}")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._again_seconds):
                        await connected.gone.wait()

    def report(self) -> dict[str, Any]:
        """Return the list as it was told last, and what keeps it out of the file, if anything does."""
        servers = [[str(address) for address in group] for group in self._told]
        return {"servers": servers, "problem": self._problem, "writes": self._writes}

    async def _follow(self, connected: Connected) -> None:
        """Raises one of FAILED when the connection does not answer any more."""
        connection = connected.connection
        watch = await connection.watch("Machiner", 5, "WatchAPIHostPorts")
        change = asyncio.create_task(watch.next())
        try:
            while True:
                told = await connection.call("Machiner", 5, "APIHostPorts", None, HostPortsResult)
                settled = await self._take(told.servers, connection) and await self._take_authorities(connection)
                await asyncio.wait([change], timeout=self._authorities_seconds if settled else self._again_seconds)
                if change.done():
                    await change
                    change = asyncio.create_task(watch.next())
        finally:
            change.cancel()
            await asyncio.gather(change, return_exceptions=True)

    async def _take_authorities(self, connection: Connection) -> bool:
        """Trust whom the controllers are certified by now. Return False if that has to be tried again."""
        try:
            told = (await connection.call("Machiner", 5, "CACert", None, BytesResult)).result.decode(errors="replace")
        except RPCError as error:
            if error.code in (messages.NOT_IMPLEMENTED, messages.TRY_AGAIN):
                return error.code == messages.NOT_IMPLEMENTED
            raise
        try:
            conf = self._file.read()
            wanted = agentconf.with_authorities(conf, told) if told.strip() else conf
            if wanted is not conf:
                await self._prove(((connection.address,),), wanted)
                await asyncio.to_thread(self._file.update, lambda c: agentconf.with_authorities(c, told))
                log.info("%s trusts new authorities", conf.tag)
        except (DialError, AgentConfError) as error:
            self._say(f"new authorities are not trusted yet: {error}")
            return False
        return True

    async def _take(self, told: messages.Servers, connection: Connection) -> bool:
        """Make the file's list what was told. Return False if that has to be tried again."""
        answered = connection.address
        try:
            wanted = usable(told, self._inside(answered), answered)
            self._told = wanted
            if not wanted:
                self._say("the list that was told has no address for this machine; the last one stays")
                return True
            await self._write(wanted, answered)
        except (DialError, AgentConfError) as error:
            self._say(str(error))
            return False
        self._say("")
        return True

    async def _write(self, wanted: Groups, answered: HostPort) -> None:
        """Raises DialError when no new address answers; the file has the new and the old ones then."""
        conf = self._file.read()
        new = {address for group in wanted for address in group}
        if agentconf.with_servers(conf, wanted) is conf:
            if answered not in new:
                self._caller.use_new_list()
            return
        if answered not in new:
            old = tuple(tuple(a for a in group if a not in new) for group in conf.controllers)
            await self._put((*wanted, *old))
            await self._prove(wanted, conf)
        await self._put(wanted)
        self._caller.use_new_list()

    async def _put(self, groups: Groups) -> None:
        conf, written = await asyncio.to_thread(self._file.update, lambda c: agentconf.with_servers(c, groups))
        if written:
            self._writes += 1
            log.info("%s: controllers are at %s", conf.tag, ", ".join(map(str, conf.apiaddresses)))

    async def _prove(self, wanted: Groups, conf: AgentConf) -> None:
        _, connection = await dial.dial(
            order.for_agent(wanted, self._dice),
            lambda address: self._connect(address, conf),
            discard=lambda connection: connection.close(),
            pace=self._pace,
        )
        await connection.close()

    def _inside(self, answered: HostPort) -> tuple[Network, ...]:
        """Return the networks in which this machine finds only itself."""
        try:
            found = interfaces.inside_only(self._own())
        except OSError as error:
            log.warning("this machine's interfaces are not known: %s", error)
            return ()
        # Where a controller has answered from, there is one: it runs in a container on this machine.
        return tuple(network for network in found if not _lies_in(answered.host, network))

    def _say(self, problem: str) -> None:
        if problem and problem != self._problem:
            log.warning("%s: %s", self._file.path, problem)
        self._problem = problem


def usable(told: messages.Servers, inside: Iterable[Network], answered: HostPort) -> Groups:
    """Return what this machine can dial of a list that was told, each controller's best address first. Pure.

    `inside` are networks that lead back into this machine, and `answered` is where the list was told: a machine that
    reaches a controller at a loopback address is the controller's own.
    """
    networks = tuple(inside)
    on_the_same = scopes.scope_of(answered.host) is Scope.LOCAL_MACHINE
    want = Want.MACHINE_OR_CLOUD_LOCAL if on_the_same else Want.CLOUD_LOCAL
    groups = []
    for servers in told:
        named = dict.fromkeys(HostPort(s.value, s.port) for s in servers)
        outside = [a for a in named if not any(_lies_in(a.host, network) for network in networks)]
        ranked = [(place, a) for a in outside if (place := scopes.rank(a.host, want)) is not None]
        groups.append(tuple(address for _, address in sorted(ranked, key=lambda pair: pair[0])))
    return tuple(group for group in groups if group)


def _lies_in(host: str, network: Network) -> bool:
    ip = scopes.parse(host)
    return ip is not None and ip.version == network.version and ip in network

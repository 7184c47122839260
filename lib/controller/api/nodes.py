"""Flow 3, hop 1 to 2: the rows of controllers' API addresses, of spaces, and of the lists that are published.

Everything here is one step of somebody's transaction in the `controller` database. Who writes what:

| table | written by |
|---|---|
| controller_node | dbaccessor: who is a member, and where its node listens |
| controller_api_address | each controller, of itself (workers/addressreporter.py) |
| space, subnet | the operator, or the charm |
| api_servers | the address setter alone (workers/addresssetter.py), through its responsibility |
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from controller import changes
from controller.api import scopes
from controller.api.selection import Controller, Network, Servers, Spaces
from dbaccessor.conf import DEFAULT_SPACE, space_problem
from dbaccessor.database import Transaction
from dbaccessor.dqlite.results import Rows
from dbaccessor.dqlite.wire import Parameters

AGENTS: Final = "agents"
CLIENTS: Final = "clients"
MANAGEMENT_SPACE: Final = "juju-mgmt-space"
# Raised with every new revision of a list (controller.changes).
SUBJECT: Final = "api-servers"


class Asks(Protocol):
    """Something that answers one question: a transaction."""

    async def query(self, sql: str, params: Parameters = ()) -> Rows: ...


class BadSpace(ValueError):
    """A space or a subnet that cannot be. The message names it and what would do."""


@dataclass(frozen=True)
class Published:
    """One list as it is published. `revision` rises with every change of it; `notes` are for people."""

    servers: tuple[Servers, ...]
    revision: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """What the two lists follow from, at one moment."""

    controllers: tuple[Controller, ...]
    spaces: Spaces
    management_space: str


async def report(tx: Transaction, controller_id: str, addresses: Iterable[str], port: int) -> bool:
    """Make these the addresses that this controller reports. Return whether that changed anything.

    Nothing changes for a controller that is no member (it was removed and does not know it yet), nor where there is no
    address: a network that is away for a moment is no news.
    """
    wanted = {(address, port) for address in addresses}
    if not wanted or not (await tx.query(_IS_MEMBER, (controller_id,))).rows:
        return False
    found = await tx.query("SELECT address, port FROM controller_api_address WHERE controller_id = ?", (controller_id,))
    if {(str(address), int(str(number))) for address, number in found.rows} == wanted:
        return False
    await tx.execute("DELETE FROM controller_api_address WHERE controller_id = ?", (controller_id,))
    for address, number in sorted(wanted):
        await tx.execute(
            "INSERT INTO controller_api_address (controller_id, address, port) VALUES (?, ?, ?)",
            (controller_id, address, number),
        )
    return True


_IS_MEMBER = "SELECT 1 FROM controller_node WHERE controller_id = ?"


async def facts(tx: Asks, default_port: int) -> Facts:
    """Return what there is to know of every member. One that has not reported has `default_port`."""
    nodes = await tx.query("SELECT controller_id, dqlite_bind_address FROM controller_node")
    rows = await tx.query("SELECT controller_id, address, port FROM controller_api_address")
    reported: dict[str, list[str]] = {}
    ports: dict[str, int] = {}
    for controller_id, address, port in rows.rows:
        reported.setdefault(str(controller_id), []).append(str(address))
        ports[str(controller_id)] = int(str(port))
    controllers = tuple(
        Controller(str(i), tuple(sorted(reported.get(str(i), ()))), str(bind), ports.get(str(i), default_port))
        for i, bind in nodes.rows
    )
    return Facts(controllers, await spaces(tx), await management_space(tx))


async def management_space(tx: Asks) -> str:
    """Return the space whose addresses agents are sent to, "" where none is set."""
    setting = await tx.query('SELECT value FROM controller_config WHERE "key" = ?', (MANAGEMENT_SPACE,))
    return str(setting.rows[0][0]) if setting.rows else ""


async def forget_departed(tx: Transaction) -> None:
    """Delete what controllers reported that are no members any more."""
    await tx.execute(
        "DELETE FROM controller_api_address WHERE controller_id NOT IN (SELECT controller_id FROM controller_node)"
    )


async def published(tx: Asks, audience: str) -> Published | None:
    """Return the list that is published for this audience, None before there was any."""
    found = await tx.query("SELECT servers, revision, notes FROM api_servers WHERE audience = ?", (audience,))
    if not found.rows:
        return None
    text, revision, told = found.rows[0]
    pairs = msgspec.json.decode(str(text), type=tuple[tuple[str, tuple[str, ...]], ...])
    servers = tuple(
        Servers(controller_id, tuple(map(scopes.hostport, addresses))) for controller_id, addresses in pairs
    )
    return Published(servers, int(str(revision)), notes(told))


def notes(column: object) -> tuple[str, ...]:
    """Return the notes of a row of api_servers."""
    return msgspec.json.decode(str(column), type=tuple[str, ...])


async def publish(tx: Transaction, audience: str, wanted: Published) -> None:
    """Publish this list for this audience; those who watch are told if it is another revision."""
    before = await published(tx, audience)
    if before is None or before.revision != wanted.revision:
        await changes.bump(tx, SUBJECT)
    text = msgspec.json.encode([(s.controller_id, [str(server) for server in s.servers]) for s in wanted.servers])
    await tx.execute(
        "INSERT INTO api_servers (audience, revision, servers, notes) VALUES (?, ?, ?, ?) ON CONFLICT (audience)"
        " DO UPDATE SET revision = excluded.revision, servers = excluded.servers, notes = excluded.notes",
        (audience, wanted.revision, text.decode(), msgspec.json.encode(wanted.notes).decode()),
    )


async def spaces(tx: Asks) -> Spaces:
    """Return which subnet belongs to which space."""
    found = await tx.query("SELECT cidr, space FROM subnet")
    names = await tx.query("SELECT name FROM space")
    return Spaces(
        {ipaddress.ip_network(str(cidr)): str(space) for cidr, space in found.rows},
        frozenset(str(row[0]) for row in names.rows),
    )


async def set_space(tx: Transaction, name: str, subnets: Iterable[str]) -> bool:
    """Make a space of exactly these subnets, taking them from another where they were. Return whether it changed.

    Raises BadSpace, having changed nothing.
    """
    wanted = {str(network) for network in networks(subnets)}
    if problem := space_problem(name):
        raise BadSpace(problem)
    if name == DEFAULT_SPACE:
        raise BadSpace(f"space {name!r} cannot be made: {DEFAULT_SPACE} is whatever lies in no other space")
    before = await spaces(tx)
    if name in before.names and {str(n) for n in before.subnets(name)} == wanted:
        return False
    await tx.execute("INSERT INTO space (name) VALUES (?) ON CONFLICT (name) DO NOTHING", (name,))
    await tx.execute("DELETE FROM subnet WHERE space = ?", (name,))
    for cidr in sorted(wanted):
        await tx.execute(
            "INSERT INTO subnet (cidr, space) VALUES (?, ?) ON CONFLICT (cidr) DO UPDATE SET space = excluded.space",
            (cidr, name),
        )
    return True


async def remove_space(tx: Transaction, name: str) -> bool:
    """Remove a space; its subnets are in the default one then. Return whether it was there."""
    await tx.execute("DELETE FROM subnet WHERE space = ?", (name,))
    return (await tx.execute("DELETE FROM space WHERE name = ?", (name,))).rows_affected > 0


async def remove_subnet(tx: Transaction, subnet: Network) -> None:
    """Take a subnet from the space it is in."""
    await tx.execute("DELETE FROM subnet WHERE cidr = ?", (str(subnet),))


def networks(subnets: Iterable[str]) -> Sequence[Network]:
    """Return these subnets. Raises BadSpace, which names the one that is none."""
    found = []
    for text in subnets:
        try:
            found.append(ipaddress.ip_network(text))
        except ValueError as error:
            raise BadSpace(f"{text!r} is no subnet, as 10.1.0.0/16 or fd00:1::/64 is: {error}") from error
    return found

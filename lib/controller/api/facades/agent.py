"""What agents ask: where the controllers are and whom to trust (Machiner), and a new password of their own (Agent)."""

from __future__ import annotations

from controller.api import messages, passwords
from controller.api.domain import Domain
from controller.api.facade import Caller, Facade, Method
from controller.api.messages import (
    BytesResult,
    EntityPassword,
    EntityPasswords,
    ErrorResult,
    ErrorResults,
    Fault,
    HostPortsResult,
    Nothing,
    NotifyWatchResult,
    RPCError,
    StringsResult,
)

# An agent's secret is 22 characters here. What is much shorter is no 128 random bits.
_FEWEST_CHARACTERS = 20
_MOST_CHARACTERS = 256


def facades(domain: Domain) -> tuple[Facade, ...]:
    """Return the Machiner and the Agent facade."""

    async def host_ports(_: Caller, __: Nothing, ___: str) -> HostPortsResult:
        return HostPortsResult(await domain.addresses.for_agents())

    async def addresses(_: Caller, __: Nothing, ___: str) -> StringsResult:
        return StringsResult(tuple(str(a) for group in await domain.addresses.for_agents() for a in group))

    async def watch(caller: Caller, _: Nothing, __: str) -> NotifyWatchResult:
        return NotifyWatchResult(caller.add_watcher(domain.addresses.watch()))

    async def ca_cert(_: Caller, __: Nothing, ___: str) -> BytesResult:
        return BytesResult(domain.about.ca_cert().encode())

    async def set_passwords(caller: Caller, asked: EntityPasswords, _: str) -> ErrorResults:
        if len(asked.changes) > 1:
            raise RPCError("an agent has one password", messages.BAD_REQUEST)
        return ErrorResults(tuple([await _set(domain, caller, change) for change in asked.changes]))

    machiner = {
        "APIHostPorts": Method(Nothing, host_ports),
        "APIAddresses": Method(Nothing, addresses),
        "WatchAPIHostPorts": Method(Nothing, watch),
        "CACert": Method(Nothing, ca_cert),
    }
    return (
        Facade("Machiner", (5,), machiner, agents=True),
        Facade("Agent", (3,), {"SetPasswords": Method(EntityPasswords, set_passwords)}, agents=True),
    )


async def _set(domain: Domain, caller: Caller, change: EntityPassword) -> ErrorResult:
    if change.tag != caller.identity.tag:
        return ErrorResult(Fault("permission denied", messages.UNAUTHORIZED))
    if not _FEWEST_CHARACTERS <= len(change.password) <= _MOST_CHARACTERS:
        sentence = f"an agent's password has {_FEWEST_CHARACTERS} to {_MOST_CHARACTERS} characters"
        return ErrorResult(Fault(sentence, messages.NOT_VALID))
    kept = passwords.hashed_secret(change.password)
    before = caller.identity.secret_hash
    if not await domain.agents.set_secret_hash(caller.model_uuid, change.tag, kept, caller.place, instead_of=before):
        sentence = f"the secret that {change.tag} logged in with is not valid any more: log in again"
        return ErrorResult(Fault(sentence, messages.UNAUTHORIZED))
    caller.has_new_secret(kept)
    return ErrorResult()

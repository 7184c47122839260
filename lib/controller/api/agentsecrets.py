"""What is kept of agents' secrets: rows of each model's own database, where the machines are too (table agent_secret).

So whoever provides a machine gives its agent the first secret in the same fenced transaction. From then on the agent
replaces it by itself, at its first login: then a machine that somebody brings is there, and its row says so.
An agent logs in to its model; one that names none means the controllers' own.
"""

from __future__ import annotations

from typing import Protocol

from controller.api import scopes
from controller.api.domain import Model
from controller.api.users import Runs, twice_is_once
from controller.workers import machinerows
from dbaccessor.database import Transaction

_CONTROLLER_MODEL = "controller"


class Databases(Protocol):
    """The models, and each one's database."""

    async def models(self) -> tuple[Model, ...]: ...

    def database(self, model_uuid: str) -> Runs: ...


async def provide(tx: Transaction, tag: str, secret_hash: str) -> None:
    """Let the agent of this tag in with that secret alone. A step of a transaction in the model's database."""
    await tx.execute(
        "INSERT INTO agent_secret (tag, secret_hash) VALUES (?, ?)"
        " ON CONFLICT (tag) DO UPDATE SET secret_hash = excluded.secret_hash",
        (tag, secret_hash),
    )


async def withdraw(tx: Transaction, tag: str) -> None:
    """Let the agent of this tag in no more. A step of a transaction in the model's database."""
    await tx.execute("DELETE FROM agent_secret WHERE tag = ?", (tag,))


class AgentSecrets:
    """The agents of all models."""

    def __init__(self, databases: Databases) -> None:
        self._databases = databases

    async def secret_hash(self, model_uuid: str, tag: str) -> str | None:
        """Return what is kept of an agent's secret; None where there is no such agent, or no such model."""
        database = await self._database(model_uuid)
        if database is None:
            return None
        found = await database.run(
            lambda tx: tx.query("SELECT secret_hash FROM agent_secret WHERE tag = ?", (tag,)), read_only=True
        )
        return str(found.rows[0][0]) if found.rows else None

    async def set_secret_hash(self, model_uuid: str, tag: str, hash: str, place: str, *, instead_of: str) -> bool:
        """Replace what is kept, which is `instead_of`. `place` is where the agent's machine is.

        Return False, with nothing changed, if there is no such agent, or something else is kept by now: whoever asks
        may have been cut off for long, and the agent have another secret meanwhile. The same change twice is as once.
        """
        database = await self._database(model_uuid)
        if database is None:
            return False

        async def change(tx: Transaction) -> bool:
            found = await tx.query("SELECT secret_hash FROM agent_secret WHERE tag = ?", (tag,))
            if not found.rows or found.rows[0][0] not in (instead_of, hash):
                return False
            await provide(tx, tag, hash)
            await machinerows.came(tx, tag, _address(place))
            return True

        return await twice_is_once(database, change)

    async def _database(self, model_uuid: str) -> Runs | None:
        for model in await self._databases.models():
            if model.uuid == model_uuid or (not model_uuid and model.name == _CONTROLLER_MODEL):
                return self._databases.database(model.uuid) if model.life != "dead" else None
        return None


def _address(place: str) -> str:
    """Return an address as it is written, ::ffff:10.0.0.1 as 10.0.0.1; "" for what is none."""
    ip = scopes.parse(place)
    return "" if ip is None else str(ip)

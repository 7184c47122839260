"""The controller's configuration as clients see and set it: some keys of the table controller_config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from controller.api import nodes
from controller.api.users import Runs, twice_is_once
from dbaccessor import errors
from dbaccessor.database import Transaction

# Key -> what it is for. Whatever else the table holds is the cluster's own.
KEYS: Final[Mapping[str, str]] = {
    nodes.MANAGEMENT_SPACE: "the space whose addresses agents are sent to",
}


class Settings:
    """Reads and sets them, on any controller."""

    def __init__(self, database: Runs) -> None:
        self._database = database

    async def config(self) -> Mapping[str, str]:
        """Return the keys that are set."""
        found = await self._database.run(
            lambda tx: tx.query('SELECT "key", value FROM controller_config'), read_only=True
        )
        return {str(key): str(value) for key, value in found.rows if key in KEYS}

    async def set(self, changes: Mapping[str, str]) -> None:
        """Set each key; an empty text unsets it. Raises Refused for an unknown key, having changed nothing."""
        unknown = sorted(set(changes) - set(KEYS))
        if unknown:
            raise errors.Refused(f"{unknown[0]} is not a key of the configuration; there is: {', '.join(sorted(KEYS))}")

        async def change(tx: Transaction) -> None:
            for key, value in sorted(changes.items()):
                await tx.execute('DELETE FROM controller_config WHERE "key" = ?', (key,))
                if value:
                    await tx.execute('INSERT INTO controller_config ("key", value) VALUES (?, ?)', (key, value))

        await twice_is_once(self._database, change)

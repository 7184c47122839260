"""The controller's configuration as clients see and set it: the settings of controllerconfig.py, several at once."""

from __future__ import annotations

from collections.abc import Mapping

from controller import controllerconfig
from controller.api.users import Runs, twice_is_once
from dbaccessor.database import Transaction


class Settings:
    """Reads and sets them, on any controller."""

    def __init__(self, database: Runs) -> None:
        self._database = database

    async def config(self) -> Mapping[str, str]:
        """Return the settings that are set. Whatever else the table holds is the cluster's own."""
        found = await self._database.run(
            lambda tx: tx.query('SELECT "key", value FROM controller_config'), read_only=True
        )
        return {str(key): str(value) for key, value in found.rows if key in controllerconfig.KEYS}

    async def set(self, changes: Mapping[str, str]) -> None:
        """Set each; an empty text unsets it. Raises Refused for what cannot be set, and then nothing is."""
        for key, value in changes.items():
            controllerconfig.check(key, value)

        async def change(tx: Transaction) -> None:
            for key, value in sorted(changes.items()):
                await controllerconfig.write(tx, key, value)

        await twice_is_once(self._database, change)

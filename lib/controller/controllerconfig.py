"""The settings of a controller set: `hactl controller-config`, rows of controller_config in the controller database.

A key that others read is one more line in KEYS: what it is for, and what a value must look like.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from controller import changes
from controller.node import Databases
from controller.workers import localprovider
from dbaccessor import errors, retry
from dbaccessor.database import Transaction
from dbaccessor.namespaces import CONTROLLER

LOCAL_PROVIDER: Final = "local-provider"
MANAGEMENT_SPACE: Final = "juju-mgmt-space"
SUBJECT: Final = "controller-config"

_SPACE: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_SET: Final = (
    'INSERT INTO controller_config ("key", value) VALUES (?, ?)'
    ' ON CONFLICT ("key") DO UPDATE SET value = excluded.value'
)


@dataclass(frozen=True)
class Setting:
    """One key. `check` returns the value as it is kept, or raises ValueError."""

    what: str
    check: Callable[[str], str]


def _url(value: str) -> str:
    localprovider.parse_url(value)
    return value


def _space(value: str) -> str:
    if not _SPACE.fullmatch(value):
        raise ValueError(f"{value!r} is no name of a space: lower case letters, digits and single hyphens")
    return value


KEYS: Final[Mapping[str, Setting]] = {
    LOCAL_PROVIDER: Setting("where machines are made: http://HOST:PORT or unix:///PATH", _url),
    MANAGEMENT_SPACE: Setting("the space whose addresses agents dial", _space),
}


def check(key: str, value: str) -> str:
    """Return the value as it is kept; "" unsets every key. Raises Refused, which says what would do."""
    if key not in KEYS:
        raise errors.Refused(f"there is no setting {key}; there are {', '.join(KEYS)}")
    try:
        return KEYS[key].check(value) if value else ""
    except ValueError as error:
        raise errors.Refused(f"{key}: {error}") from None


async def read(tx: Transaction, key: str) -> str:
    """Return a setting's value, "" while it is not set."""
    rows = (await tx.query('SELECT value FROM controller_config WHERE "key" = ?', (key,))).rows
    return str(rows[0][0]) if rows else ""


async def write(tx: Transaction, key: str, value: str) -> None:
    """Set it, or unset it with "". Raises Refused for what check() does not let pass."""
    if kept := check(key, value):
        await tx.execute(_SET, (key, kept))
    else:
        await tx.execute('DELETE FROM controller_config WHERE "key" = ?', (key,))
    await changes.bump(tx, SUBJECT)


class ControllerConfig:
    """The settings, from any controller. Both calls may be repeated after a doubt."""

    def __init__(self, databases: Databases) -> None:
        self._database = databases.database(CONTROLLER)

    async def all(self, *, deadline_seconds: float = 10) -> dict[str, str]:
        """Return every known key with its value, "" for one that is not set."""
        rows = await self._database.read(
            'SELECT "key", value FROM controller_config', deadline_seconds=deadline_seconds
        )
        found = {str(key): str(value) for key, value in rows.rows}
        return {key: found.get(key, "") for key in KEYS}

    async def set(self, key: str, value: str, *, deadline_seconds: float = 10) -> None:
        """Set one key. Raises Refused."""
        check(key, value)
        deadline = asyncio.get_running_loop().time() + deadline_seconds
        while True:
            try:
                await self._database.run(lambda tx: write(tx, key, value), deadline_seconds=retry.left(deadline))
                return
            except errors.Indefinite:
                if retry.left(deadline) <= 0:
                    raise

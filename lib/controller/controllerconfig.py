"""The settings of a controller set, as hactl and clients see and set them: rows of controller_config.

A key that others read is one more line in KEYS: what it is for, and what a value must look like.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from controller import changes
from controller.api import charmspace
from controller.api.nodes import MANAGEMENT_SPACE
from controller.api.users import Runs, twice_is_once
from controller.workers import localprovider
from dbaccessor import conf, errors
from dbaccessor.database import Transaction

LOCAL_PROVIDER: Final = "local-provider"
SUBJECT: Final = "controller-config"

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
    if problem := conf.space_problem(value):
        raise ValueError(problem)
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
    """Set it, or unset it with "". Raises Refused for what check() does not let pass, and for what the charm sets."""
    kept = check(key, value)
    if key == MANAGEMENT_SPACE:
        await charmspace.refuse_setting(tx)
    await put(tx, key, kept)


async def put(tx: Transaction, key: str, value: str) -> None:
    """As write(), for whom the setting belongs to: nothing is checked."""
    if value:
        await tx.execute(_SET, (key, value))
    else:
        await tx.execute('DELETE FROM controller_config WHERE "key" = ?', (key,))
    await changes.bump(tx, SUBJECT)


class ControllerConfig:
    """The settings, from any controller: for hactl, for the workers, and for clients of the API."""

    def __init__(self, database: Runs) -> None:
        self._database = database

    async def all(self, *, deadline_seconds: float = 10) -> dict[str, str]:
        """Return every known key with its value, "" for one that is not set."""
        found = await self._database.run(
            lambda tx: tx.query('SELECT "key", value FROM controller_config'),
            read_only=True,
            deadline_seconds=deadline_seconds,
        )
        kept = {str(key): str(value) for key, value in found.rows}
        # Whatever else the table holds is the cluster's own.
        return {key: kept.get(key, "") for key in KEYS}

    async def config(self) -> Mapping[str, str]:
        """Return the settings that are set."""
        return {key: value for key, value in (await self.all()).items() if value}

    async def set(self, changes: Mapping[str, str]) -> None:
        """Set each; an empty text unsets it. Raises Refused for what cannot be set, and then nothing is.

        It may be repeated after a doubt.
        """
        for key, value in changes.items():
            check(key, value)

        async def change(tx: Transaction) -> None:
            for key, value in sorted(changes.items()):
                await write(tx, key, value)

        await twice_is_once(self._database, change)

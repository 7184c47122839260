"""The people who may log in: rows of the controller database (tables api_user and api_registration).

There is one to begin with, admin, who has no password until she registers with a one-time secret. Of both only a hash
is kept (passwords.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

from controller.api.domain import User
from dbaccessor import errors, retry
from dbaccessor.database import Transaction
from dbaccessor.dqlite.results import Rows

_T = TypeVar("_T")

_COLUMNS: Final = "name, display_name, access, password_hash, created, disabled"
_DEADLINE_SECONDS: Final = 10.0


class Runs(Protocol):
    """What is needed of a Database."""

    async def run(
        self, fn: Callable[[Transaction], Awaitable[_T]], *, read_only: bool = False, deadline_seconds: float = 10
    ) -> _T: ...


class UserStore:
    """The users of one cluster. `now` is the wall clock: a registration ends at a time, on whichever controller."""

    def __init__(self, database: Runs, *, now: Callable[[], float] = time.time) -> None:
        self._database = database
        self._now = now

    async def user(self, name: str) -> User | None:
        """Return the user of this name."""
        found = _users(await self._ask(f"SELECT {_COLUMNS} FROM api_user WHERE name = ?", name))
        return found[0] if found else None

    async def users(self) -> tuple[User, ...]:
        """Return everybody, by name."""
        return _users(await self._ask(f"SELECT {_COLUMNS} FROM api_user ORDER BY name"))

    async def set_password_hash(self, name: str, hash: str) -> bool:
        """Replace what is kept of the password. Return False if there is no such user."""

        async def change(tx: Transaction) -> bool:
            if not await _exists(tx, name):
                return False
            await tx.execute("UPDATE api_user SET password_hash = ? WHERE name = ?", (hash, name))
            return True

        return await self._twice_is_once(change)

    async def open_registration(self, name: str, secret_hash: str, valid_seconds: int) -> bool:
        """Let this user set her password once with the secret; an earlier one ends. False if there is no such user."""
        expires = int(self._now()) + valid_seconds

        async def change(tx: Transaction) -> bool:
            if not await _exists(tx, name):
                return False
            await tx.execute(
                "INSERT INTO api_registration (name, secret_hash, expires) VALUES (?, ?, ?) ON CONFLICT (name)"
                " DO UPDATE SET secret_hash = excluded.secret_hash, expires = excluded.expires",
                (name, secret_hash, expires),
            )
            return True

        return await self._twice_is_once(change)

    async def register(self, name: str, secret_hash: str, password_hash: str) -> bool:
        """Set the password if the secret is the open one, which ends with it. Return whether it was."""

        async def change(tx: Transaction) -> bool:
            # Each hash has its own salt: where this very one is kept, this very call has been carried out.
            kept = await tx.query("SELECT password_hash FROM api_user WHERE name = ?", (name,))
            if kept.rows and kept.rows[0][0] == password_hash:
                return True
            found = await tx.query("SELECT secret_hash, expires FROM api_registration WHERE name = ?", (name,))
            if not found.rows or found.rows[0][0] != secret_hash or int(str(found.rows[0][1])) <= self._now():
                return False
            await tx.execute("DELETE FROM api_registration WHERE name = ?", (name,))
            await tx.execute("UPDATE api_user SET password_hash = ? WHERE name = ?", (password_hash, name))
            return True

        return await self._twice_is_once(change)

    async def _ask(self, sql: str, *params: str) -> Rows:
        return await self._database.run(
            lambda tx: tx.query(sql, params), read_only=True, deadline_seconds=_DEADLINE_SECONDS
        )

    async def _twice_is_once(self, change: Callable[[Transaction], Awaitable[bool]]) -> bool:
        return await twice_is_once(self._database, change)


async def twice_is_once(
    database: Runs, change: Callable[[Transaction], Awaitable[_T]], deadline_seconds: float = _DEADLINE_SECONDS
) -> _T:
    """As Database.run, and what may have happened is done again: for changes of which two are as good as one."""
    deadline = asyncio.get_running_loop().time() + deadline_seconds
    while True:
        try:
            return await database.run(change, deadline_seconds=retry.left(deadline))
        except errors.Indefinite:
            if retry.left(deadline) <= 0:
                raise


async def _exists(tx: Transaction, name: str) -> bool:
    return bool((await tx.query("SELECT 1 FROM api_user WHERE name = ?", (name,))).rows)


def _users(found: Rows) -> tuple[User, ...]:
    return tuple(
        User(str(name), str(display), str(access), None if kept is None else str(kept), str(created), bool(disabled))
        for name, display, access, kept, created, disabled in found.rows
    )

"""Clients of a fault run, in a process of their own: `python -m faultrun.client NAME SEED KIND=COUNT…`.

Each client is a task with a connection of its own and asks one thing after another: first it writes down what it is
going to ask (`invoke`), then what came of it (`result`), as lines of JSON on stdout. Times are CLOCK_MONOTONIC, which
all processes of a machine share. Lines on stdin are JSON, and the last one counts: `map` is controller id -> IP,
`certificates` a folder of certificates to show ("": none). The end of stdin lets every client finish what it asked and
ends the program. KIND is a key of KINDS, or `last`, which reads everything once.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from demo import history

from dbaccessor import errors, tls
from dbaccessor.database import Database, Transaction
from dbaccessor.leader import OutsideConnector

_OP_SECONDS = 5.0  # Longer than most pauses: a question that waited in a stopped leader must count.
_PAUSE_SECONDS = 0.06
_LAST_SECONDS = 60.0

KEYS = ("a", "b", "c")
ACCOUNTS = 5
BALANCE = 100

_SCHEMA = {
    "entries": (
        "CREATE TABLE IF NOT EXISTS entry (writer TEXT NOT NULL, number INTEGER NOT NULL, ticket INTEGER NOT NULL)",
        "CREATE INDEX IF NOT EXISTS entry_number ON entry (writer, number)",
        "CREATE INDEX IF NOT EXISTS entry_ticket ON entry (ticket)",
    ),
    "registers": ("CREATE TABLE IF NOT EXISTS register (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL)",),
    "bank": (
        "CREATE TABLE IF NOT EXISTS account (id INTEGER NOT NULL PRIMARY KEY, balance INTEGER NOT NULL)",
        f"INSERT OR IGNORE INTO account (id, balance) VALUES {', '.join(f'({i}, {BALANCE})' for i in range(ACCOUNTS))}",
    ),
}

_READ_ENTRIES = "SELECT writer, number, ticket FROM entry ORDER BY ticket"
_READ_REGISTERS = "SELECT name, value FROM register ORDER BY name"
_READ_ACCOUNTS = "SELECT id, balance FROM account ORDER BY id"


class Client:
    """One client: a name, dice, and a database to ask; `to` makes a handle to a database by its name."""

    database_name = ""

    def __init__(self, name: str, seed: int, to: Callable[[str], Database], stop: asyncio.Event) -> None:
        self.name = name
        self.dice = random.Random(f"{seed} {name}")
        self.database = to(self.database_name)
        self._stop = stop
        self._asked = 0

    async def run(self) -> None:
        """Ask until told to stop."""
        await self._make_tables()
        while not self._stop.is_set():
            await self.ask()
            await self.rest()
        self.database.close()

    async def rest(self) -> None:
        """Pause between two questions, less when told to stop."""
        await self._rest(self.dice.uniform(0.2, 1.8) * _PAUSE_SECONDS)

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            pass

    async def ask(self) -> None:
        """Ask one thing."""
        raise NotImplementedError

    async def record(self, op: str, question: Callable[[], Awaitable[dict[str, Any]]], **facts: Any) -> None:
        """Write down the question, ask it, and write down what came of it; `question` returns what it learnt."""
        self._asked += 1
        tell("invoke", client=self.name, id=self._asked, op=op, sent=time.monotonic(), **facts)
        learnt: dict[str, Any] = {}
        outcome, reason = "acknowledged", ""
        try:
            learnt = await question()
        except errors.Indefinite as error:
            outcome, reason = "indefinite", str(error)
        except errors.DbAccessorError as error:
            outcome, reason = "refused", f"{type(error).__name__}: {error}"
        tell(
            "result", client=self.name, id=self._asked, outcome=outcome, reason=reason, done=time.monotonic(), **learnt
        )

    async def write(self, body: Callable[[Transaction], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        return await self.database.run(body, deadline_seconds=_OP_SECONDS)

    async def read(self, sql: str, params: tuple[str, ...] = ()) -> list[tuple[Any, ...]]:
        return list((await self.database.read(sql, params, deadline_seconds=_OP_SECONDS)).rows)

    async def _make_tables(self) -> None:
        async def make(tx: Transaction) -> None:
            for statement in _SCHEMA[self.database_name]:
                await tx.execute(statement)

        while not self._stop.is_set():
            try:
                await self.database.run(make, deadline_seconds=_OP_SECONDS)
                return
            except errors.DbAccessorError:
                await self.rest()  # Indefinite is as good as either: every statement may be repeated.


class Append(Client):
    """Appends numbered rows. The ticket is the row's place in the one order that all writers share.

    Two leaders that both acknowledge would give one ticket twice; a leader that lost rows gives an old one again.
    """

    database_name = "entries"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._number = 0

    async def ask(self) -> None:
        self._number += 1  # Never used again, whatever comes of it.
        mine = (self.name, self._number)

        async def append(tx: Transaction) -> dict[str, Any]:
            await tx.execute(
                "INSERT INTO entry (writer, number, ticket) SELECT ?, ?, coalesce(max(ticket), 0) + 1 FROM entry", mine
            )
            found = await tx.query("SELECT ticket FROM entry WHERE writer = ? AND number = ?", mine)
            return {"ticket": found.rows[-1][0]}

        await self.record("append", lambda: self.write(append), number=self._number)


class Count(Client):
    """Reads how many rows there are, and the last ticket."""

    database_name = "entries"

    async def ask(self) -> None:
        async def count() -> dict[str, Any]:
            ((rows, last),) = await self.read("SELECT count(*), coalesce(max(ticket), 0) FROM entry")
            return {"rows": rows, "last": last}

        await self.record("count", count)


class Register(Client):
    """Reads and writes a few registers. Every value is written once, so a read names the write it saw."""

    database_name = "registers"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._values = 0
        self._seen: dict[str, str | None] = {}

    async def ask(self) -> None:
        key = self.dice.choice(KEYS)
        match self.dice.choice(("read", "read", "write", "swap")):
            case "read":
                await self._read(key)
            case "write":
                await self._write(key)
            case "swap":
                await self._swap(key)

    def _value(self) -> str:
        self._values += 1
        return f"{self.name}-{self._values}"

    async def _read(self, key: str) -> None:
        async def read() -> dict[str, Any]:
            rows = await self.read("SELECT value FROM register WHERE name = ?", (key,))
            self._seen[key] = rows[0][0] if rows else None
            return {"value": self._seen[key]}

        await self.record("read", read, key=key)

    async def _write(self, key: str) -> None:
        value = self._value()

        async def write(tx: Transaction) -> dict[str, Any]:
            await tx.execute(
                "INSERT INTO register VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                (key, value),
            )
            return {}

        await self.record("write", lambda: self.write(write), key=key, value=value)

    async def _swap(self, key: str) -> None:
        """Set a new value if the one last seen is still there. A swap that changes no row is a read of the other."""
        expected, value = self._seen.get(key), self._value()
        if expected is None:
            await self._read(key)
            return

        async def swap(tx: Transaction) -> dict[str, Any]:
            changed = await tx.execute(
                "UPDATE register SET value = ? WHERE name = ? AND value = ?", (value, key, expected)
            )
            if changed.rows_affected:
                return {"swapped": True}
            found = await tx.query("SELECT value FROM register WHERE name = ?", (key,))
            self._seen[key] = found.rows[0][0] if found.rows else None
            return {"swapped": False, "value": self._seen[key]}

        await self.record("swap", lambda: self.write(swap), key=key, new=value, expected=expected)


class Late(Register):
    """Reads seldom. It asks a leader that was stopped meanwhile, long after another one has written."""

    async def ask(self) -> None:
        await self._read(self.dice.choice(KEYS))

    async def rest(self) -> None:
        await self._rest(self.dice.uniform(0.3, 1.0))


class Bank(Client):
    """Moves money between accounts, and reads all of them; their sum never changes."""

    database_name = "bank"

    async def ask(self) -> None:
        if self.dice.random() < 0.5:
            await self.record("balances", self._balances)
        else:
            await self._transfer()

    async def _balances(self) -> dict[str, Any]:
        if self.dice.random() < 0.5:
            return {"balances": [balance for _, balance in await self.read(_READ_ACCOUNTS)]}

        # One account at a time: only a transaction shows all of one moment.
        async def one_by_one(tx: Transaction) -> list[Any]:
            each = [await tx.query("SELECT balance FROM account WHERE id = ?", (i,)) for i in range(ACCOUNTS)]
            return [found.rows[0][0] for found in each]

        return {"balances": await self.database.run(one_by_one, read_only=True, deadline_seconds=_OP_SECONDS)}

    async def _transfer(self) -> None:
        source, target = self.dice.sample(range(ACCOUNTS), 2)
        amount = self.dice.randint(1, 20)

        async def transfer(tx: Transaction) -> dict[str, Any]:
            taken = await tx.execute(
                "UPDATE account SET balance = balance - ? WHERE id = ? AND balance >= ?", (amount, source, amount)
            )
            if taken.rows_affected:
                await tx.execute("UPDATE account SET balance = balance + ? WHERE id = ?", (amount, target))
            return {"moved": bool(taken.rows_affected)}

        await self.record("transfer", lambda: self.write(transfer))


KINDS: dict[str, type[Client]] = {"append": Append, "count": Count, "register": Register, "late": Late, "bank": Bank}


async def read_everything(to: Callable[[str], Database]) -> None:
    """Write down what there is at the end. Raises DbAccessorError when it cannot be read in time."""
    found = {}
    for name, sql in (("entries", _READ_ENTRIES), ("registers", _READ_REGISTERS), ("bank", _READ_ACCOUNTS)):
        database = to(name)

        # A write first: whoever answers then leads, and has everything.
        async def look(tx: Transaction, sql: str = sql) -> list[tuple[Any, ...]]:
            await tx.execute("CREATE TABLE IF NOT EXISTS looked (at REAL NOT NULL)")
            await tx.execute("INSERT INTO looked (at) VALUES (?)", (time.monotonic(),))
            return list((await tx.query(sql)).rows)

        deadline = time.monotonic() + _LAST_SECONDS
        while True:
            try:
                found[name] = await database.run(look, deadline_seconds=_OP_SECONDS)
                break
            except errors.DbAccessorError:
                if time.monotonic() > deadline:
                    raise
        database.close()
    tell("last", **found)


def tell(event: str, **facts: Any) -> None:
    os.write(1, history.line(event, **facts))


async def _main(name: str, seed: int, wanted: dict[str, int]) -> None:
    commands = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    told: dict[str, Any] = json.loads(await commands.readline())
    stop = asyncio.Event()
    # Without certificates nothing is under TLS, and that does not change in a run.
    keyring = tls.Keyring(Path(told["certificates"])) if told["certificates"] else None

    async def listen() -> None:
        nonlocal told
        while line := await commands.readline():
            told = json.loads(line)
            if keyring is not None:
                keyring.directory = Path(told["certificates"])
        stop.set()

    def outside(database: str) -> Database:
        return Database(OutsideConnector(lambda: told["map"], keyring=keyring), database)

    async with asyncio.TaskGroup() as group:
        listening = group.create_task(listen())
        for kind, count in wanted.items():
            if kind == "last":
                await read_everything(outside)
                listening.cancel()
                continue
            for number in range(count):
                client = KINDS[kind](f"{name}-{kind}{number}", seed, outside, stop)
                group.create_task(client.run())


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], int(sys.argv[2]), {k: int(n) for k, n in (a.split("=") for a in sys.argv[3:])}))

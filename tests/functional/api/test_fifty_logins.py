"""Fifty commands log in at once, with one store, at three API servers: all are let in, and the store loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path

import pytest

from apiserver import Served
from controller.api.client.entries import Account, Entry
from controller.api.client.store import ACCOUNTS, CONTROLLERS, COOKIES, LOCK, Store
from fakedomain import UUID, servers

PROCESSES = 50
COMMAND = """
import asyncio, sys
from pathlib import Path
from controller.api.client.client import Client
from controller.api.client.store import Store
from controller.commands.client import PACE

async def come_in():
    store = Store(Path(sys.argv[1]))
    sys.stdin.read()  # All begin at once.
    first = store.find("prod").entry.api_endpoints[0]
    async with await Client.connect(store, "prod", pace=PACE) as client:
        await client.call("Pinger", 1, "Ping")
    print(first, client.connection.address)

asyncio.run(come_in())
"""


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_fifty_processes_that_log_in_at_once_are_all_let_in_and_lose_nothing(tmp_path: Path):
    store = Store(tmp_path / "data")

    async def play() -> list[str]:
        first = Served(tmp_path)
        all_three = [first, *(Served(tmp_path, controller_id=str(n), like=first) for n in (1, 2))]
        async with contextlib.AsyncExitStack() as stack:
            for served in all_three:
                served.fakes.users.give("admin", "pw")
                await served.start()
                stack.push_async_callback(served.stop)
            addresses = [str(served.address) for served in all_three]
            for served in all_three:
                served.fakes.addresses.clients = servers(*[[a] for a in addresses])
            # What the login is to bring: the other two addresses. And another cluster that nobody may touch.
            store.add("prod", Entry(UUID, (addresses[0],), first.ca_cert), Account("admin", "pw"))
            store.add("other", Entry("uuid-other", ("10.0.0.1:17070",), first.ca_cert), Account("eve", "hers"))
            command = [sys.executable, "-c", COMMAND, str(store.directory)]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
            pipe = asyncio.subprocess.PIPE
            told = [
                await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)
                for _ in range(PROCESSES)
            ]
            ended = await asyncio.gather(*(process.communicate(b"") for process in told))
            problems = [error.decode() for (_, error), p in zip(ended, told, strict=True) if p.returncode]
            assert problems == []
            assert set(store.find("prod").entry.api_endpoints) == set(addresses)
            return [out.decode() for out, _ in ended]

    said = asyncio.run(play())

    for line in said:
        first, connected = line.split()
        assert first == connected, "the last good address lets everybody in, however many come"
    assert store.find("prod").account == Account("admin", "pw")
    assert store.find("other").account == Account("eve", "hers")
    assert store.controllers().current == "other"
    assert {p.name for p in store.directory.iterdir()} == {CONTROLLERS, ACCOUNTS, LOCK, COOKIES}

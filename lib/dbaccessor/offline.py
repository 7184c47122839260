"""One node that serves nobody but this process, for a while: how offline tools get content into a data directory."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

from dbaccessor import errors
from dbaccessor.dqlite.connection import Connection
from dbaccessor.dqlite.node import Node

_LEAD_SECONDS = 20.0
_PAUSE_SECONDS = 0.02
_STATEMENT_SECONDS = 120.0


class OfflineNode:
    """Made by `running`."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def connect(self) -> Connection:
        """Return a fresh connection to the node; the caller closes it."""
        reader, writer = await asyncio.open_unix_connection(self._path)
        return await Connection.open(reader, writer, deadline_seconds=_STATEMENT_SECONDS)


@contextlib.asynccontextmanager
async def running(directory: Path, dqlite_id: int, name: str) -> AsyncIterator[OfflineNode]:
    """Start the only member of the cluster in `directory`; yield it once it leads, and stop it at the end.

    It listens on an abstract socket that only this process may use, and reaches nobody. Raises DbAccessorError.
    """
    socket_name = f"ha-controller-offline-{secrets.token_hex(8)}"
    node = Node(dqlite_id, name, directory, bind_address="@" + socket_name, connect=_nobody, roles=False)
    await asyncio.to_thread(node.start)
    try:
        offline = OfflineNode("\0" + socket_name)
        await _wait_until_leading(offline, dqlite_id, name)
        yield offline
    finally:
        await asyncio.to_thread(node.stop)


def _nobody(name: str) -> int:
    raise ConnectionRefusedError(f"an offline node connects to nobody, not to {name}")


async def _wait_until_leading(offline: OfflineNode, dqlite_id: int, name: str) -> None:
    try:
        async with asyncio.timeout(_LEAD_SECONDS), await offline.connect() as connection:
            while True:
                leader = await connection.leader()
                if leader is not None and leader[0] == dqlite_id:
                    return
                await asyncio.sleep(_PAUSE_SECONDS)
    except TimeoutError as error:
        raise errors.NotReady(f"{name} does not lead its own cluster within {_LEAD_SECONDS:g} s") from error

"""The sockets manifold: configchange.socket and control.socket, open for as long as the engine runs.

The node needs it, not the other way round: so somebody answers before the node starts and until it has stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path

from dbaccessor import confsocket
from dbaccessor.confsocket import Handler

NAME = "sockets"

Routes = Mapping[tuple[str, str], Handler]


class Sockets:
    """Serves the routes of both sockets of a state directory, on threads of their own."""

    def __init__(self, state_dir: Path, configchange: Routes, control: Routes) -> None:
        self._servers = (
            confsocket.Server(state_dir / confsocket.CONFIG_CHANGE, configchange),
            confsocket.Server(state_dir / confsocket.CONTROL, control),
        )

    async def run(self) -> None:
        """Serve until cancelled. Raises OSError when a socket cannot be made."""
        with contextlib.ExitStack() as stack:
            for server in self._servers:
                stack.enter_context(server)
            await asyncio.Event().wait()

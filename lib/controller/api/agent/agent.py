"""Flow 3, hops 4 and 6: one agent, which is a caller and an updater over one agent.conf, and the file that shows both.

Any number of agents may run in one process; agentd runs one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import ssl
from pathlib import Path
from typing import Any, Final

import msgspec

from controller.api import connection, dial
from controller.api.agent.agentconf import AgentConf, BadAgentConf
from controller.api.agent.agentfile import AgentConfFile
from controller.api.agent.caller import Caller, Connect, Patience
from controller.api.agent.updater import Updater
from controller.api.connection import Connection
from controller.api.dial import Pace
from controller.api.scopes import HostPort

log = logging.getLogger(__name__)

SCHEMA: Final = 1
STATE_FILE: Final = "agentd-state.json"

# A controller that is frozen is noticed after twice this time; each agent costs so many pings.
_PING_SECONDS = 5.0
_LOOK_SECONDS = 0.2


class TLSConnect:
    """Dials over TLS, for the agent's own model, trusting the authorities that agent.conf names then."""

    def __init__(self, ping_seconds: float = _PING_SECONDS) -> None:
        self._ping_seconds = ping_seconds
        self._of = ""
        self._context: ssl.SSLContext | None = None

    async def __call__(self, address: HostPort, conf: AgentConf) -> Connection:
        """Raises what connection.connect raises, and BadAgentConf for authorities that cannot be read."""
        if self._context is None or conf.cacert != self._of:
            try:
                self._context = connection.client_context(conf.cacert)
            except ValueError as error:
                raise BadAgentConf(f"cacert: {error}; enrol this machine again") from error
            self._of = conf.cacert
        return await connection.connect(
            address,
            self._context,
            model_uuid=conf.model.removeprefix("model-"),
            ping_seconds=self._ping_seconds,
        )


class Agent:
    """The agent of one agent.conf. `state_path`: where it shows what it does, for people and tests."""

    def __init__(
        self,
        conf_path: Path,
        state_path: Path | None = None,
        *,
        connect: Connect | None = None,
        pace: Pace = dial.AGENT,
        patience: Patience | None = None,
        dice: random.Random | None = None,
    ) -> None:
        self._state_path = state_path or conf_path.with_name(STATE_FILE)
        self._shown: dict[str, Any] = {}
        file = AgentConfFile(conf_path)
        connect = connect or TLSConnect()
        self.caller = Caller(file, connect, pace=pace, patience=patience, dice=dice)
        self.updater = Updater(file, self.caller, connect, pace=pace, dice=dice)

    async def run(self) -> None:
        """Stay connected and follow the list until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for worker in (self.caller.run(), self.updater.run(), self._keep_showing()):
                    group.create_task(worker)
        finally:
            self._state_path.unlink(missing_ok=True)

    def report(self) -> dict[str, Any]:
        """Return the document of the state file."""
        return {"schema": SCHEMA, "pid": os.getpid(), "caller": self.caller.report(), "updater": self.updater.report()}

    async def _keep_showing(self) -> None:
        while True:
            now = self.report()
            if now != self._shown:
                self._show(now)
            await asyncio.sleep(_LOOK_SECONDS)

    def _show(self, now: dict[str, Any]) -> None:
        """Replace the state file as a whole. It is news and no record, so it need not survive a power failure."""
        temporary = self._state_path.with_name(f".{self._state_path.name}.new")
        try:
            temporary.write_bytes(msgspec.json.encode(now) + b"\n")
            temporary.rename(self._state_path)
        except OSError as error:
            log.warning("%s cannot be written: %s", self._state_path, error.strerror)
        else:
            self._shown = now

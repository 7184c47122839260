"""Asks the charm for a hook when the db-state changed: by the command in HA_CONTROLLER_NOTIFY, where there is one."""

from __future__ import annotations

import asyncio
import logging

log = logging.getLogger("controllerd")

_NOTIFY_PAUSE_SECONDS = 2.0
_NOTIFY_LIMIT_SECONDS = 120.0


class Notifier:
    """Asks the charm for a hook when the db-state changed: optional, one at a time, and not more often than needed."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._due = asyncio.Event()

    def ask(self) -> None:
        self._due.set()

    async def run(self) -> None:
        if not self._command:
            return
        while True:
            await self._due.wait()
            self._due.clear()
            await self._once()
            # What changes in quick succession (roles settling) becomes one hook.
            await asyncio.sleep(_NOTIFY_PAUSE_SECONDS)

    async def _once(self) -> None:
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL
            )
        except OSError as error:
            log.warning("cannot run %s: %s; update-status will do", self._command[0], error)
            return
        try:
            async with asyncio.timeout(_NOTIFY_LIMIT_SECONDS):
                status = await process.wait()
            if status:
                log.warning("%s ended with %d; update-status will do", self._command[0], status)
        except TimeoutError:
            log.warning("%s took more than %g s", self._command[0], _NOTIFY_LIMIT_SECONDS)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

"""A cloud beside the model: instances by uuid, each a host of its own, and a log of all it did that only grows.

Three promises that a caller can build on: a uuid has one instance at a time; starting and stopping may be repeated
as often as one likes; and a uuid that was stopped never starts again, not even one that had not been started yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from localjuju.cloudlog import CloudLog

# Two cores boot so many hosts at once about as fast as one after another, and the units live on beside them.
_LAUNCHES = 4
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class CloudError(Exception):
    """What was asked was not done; the text says why."""


class Gone(CloudError):
    """This uuid was stopped. It never starts again."""


class Full(CloudError):
    """No room now; there is some when another instance has been stopped."""


class BadSpec(CloudError):
    """The request itself is wrong."""


class LaunchFailed(CloudError):
    """The host did not come up. It may the next time."""


class Launcher(Protocol):
    """Makes hosts. `launch` leaves nothing behind when it raises or is cancelled."""

    async def launch(self, instance: str, spec: Mapping[str, Any]) -> str:
        """Return the new host's address. Raises Full, BadSpec or LaunchFailed."""
        ...

    async def wait_down(self, instance: str) -> None:
        """Return when the host is down, for whatever reason."""
        ...

    async def destroy(self, instance: str) -> None:
        """Return when nothing of the host is left. It may be gone already."""
        ...


@dataclass
class Instance:
    """One host from the decision to make it until nothing of it is left. `life` is all of that."""

    uuid: str
    id: str
    spec: Mapping[str, Any]
    life: asyncio.Task[None] | None = None
    state: str = "starting"
    address: str = ""
    trouble: CloudError | None = None
    up: asyncio.Event = field(default_factory=asyncio.Event)
    stop_wanted: asyncio.Event = field(default_factory=asyncio.Event)

    def shown(self) -> dict[str, Any]:
        return {
            "uuid": self.uuid,
            "instance": self.id,
            "state": self.state,
            "address": self.address,
            "hostname": self.spec["hostname"],
            "tags": self.spec.get("tags", {}),
        }


class Cloud:
    """All instances there are. Whoever asks says who it is, for the log alone."""

    def __init__(self, launcher: Launcher, log: CloudLog) -> None:
        self._launcher = launcher
        self._log = log
        self._instances: dict[str, Instance] = {}
        self._stopped: set[str] = set()
        self._count = 0
        self._turns = asyncio.Semaphore(_LAUNCHES)

    async def start(self, uuid: str, spec: Mapping[str, Any], asker: str) -> dict[str, Any]:
        """Return the uuid's instance once it runs; make it if there is none. Raises CloudError.

        Whoever stops waiting does not stop the start: only `stop` does.
        """
        self._log.add("asked-start", uuid, by=asker)
        if not _UUID.fullmatch(uuid):
            raise BadSpec(f"{uuid!r} is no uuid")
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", str(spec.get("hostname", ""))):
            raise BadSpec(f"{spec.get('hostname')!r} is no hostname: lower case letters, digits and hyphens")
        if uuid in self._stopped:
            raise Gone(f"{uuid} was stopped, and never starts again")
        instance = self._instances.get(uuid)
        if instance is None:
            self._count += 1
            instance = self._instances[uuid] = Instance(uuid, f"i-{self._count}", spec)
            self._log.add("start", uuid, instance=instance.id, by=asker, tags=spec.get("tags", {}))
            instance.life = asyncio.create_task(self._live(instance))
        await instance.up.wait()
        if instance.trouble is not None:
            raise instance.trouble
        if instance.state != "running":
            raise Gone(f"{uuid} is going down")
        return instance.shown()

    async def stop(self, uuid: str, asker: str) -> None:
        """Return when nothing of the uuid's instance is left. There need not be one."""
        self._log.add("asked-stop", uuid, by=asker)
        self._stopped.add(uuid)
        instance = self._instances.get(uuid)
        if instance is None or instance.life is None:
            return
        if not instance.stop_wanted.is_set():
            self._log.add("stop", uuid, instance=instance.id, by=asker)
            instance.stop_wanted.set()
        await asyncio.shield(instance.life)

    def list(self, tags: Mapping[str, str]) -> list[dict[str, Any]]:
        """Return the instances that have all of these tags, those that are starting included."""
        wanted = tags.items()
        return [i.shown() for i in self._instances.values() if wanted <= dict(i.spec.get("tags", {})).items()]

    async def _live(self, instance: Instance) -> None:
        """An instance's whole life. Never raises: what went wrong is told to whoever asked for it."""
        launching = asyncio.create_task(self._launch(instance))
        stopping = asyncio.create_task(instance.stop_wanted.wait())
        watching: asyncio.Task[None] | None = None
        try:
            await asyncio.wait({launching, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if launching.done() and launching.exception() is None and not stopping.done():
                instance.state = "running"
                self._log.add("running", instance.uuid, instance=instance.id, address=instance.address)
                instance.up.set()
                watching = asyncio.create_task(self._launcher.wait_down(instance.id))
                await asyncio.wait({watching, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (launching, stopping, watching):
                if task is not None:
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError, CloudError):
                        await task
        await self._bury(instance, wanted=instance.stop_wanted.is_set())

    async def _launch(self, instance: Instance) -> None:
        async with self._turns:
            try:
                instance.address = await self._launcher.launch(instance.id, instance.spec)
            except CloudError as error:
                instance.trouble = error
                raise
            except Exception as error:
                instance.trouble = LaunchFailed(repr(error))
                raise instance.trouble from error

    async def _bury(self, instance: Instance, *, wanted: bool) -> None:
        instance.state = "stopping"
        if instance.trouble is None:
            await self._launcher.destroy(instance.id)
        if wanted:
            instance.trouble = Gone(f"{instance.uuid} was stopped while it started")
        elif instance.trouble is None:
            # Lost: its host went down by itself. As in other clouds it does not come back.
            self._stopped.add(instance.uuid)
            instance.trouble = Gone(f"{instance.uuid} went down")
        event = "stopped" if wanted else "failed" if not instance.up.is_set() else "lost"
        self._log.add(event, instance.uuid, instance=instance.id, reason=str(instance.trouble))
        del self._instances[instance.uuid]
        instance.up.set()

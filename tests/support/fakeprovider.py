"""A provider in memory that keeps the promises of workers/provider.py, with troubles that the test orders."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from controller.workers.provider import Gone, Instance, ProviderError, Refused, Spec

Step = Callable[[str], Awaitable[None]]


class FakeCloud:
    """What all providers of one test share. `made` and `ended` are its log: uuids in order."""

    def __init__(self, name: str = "http://cloud:1") -> None:
        self.name = name
        self.instances: dict[str, Instance] = {}
        self.tags: dict[str, str] = {}
        self.specs: dict[str, Spec] = {}
        self.stopped: set[str] = set()
        self.made: list[str] = []
        self.ended: list[str] = []
        # By uuid, "" for every one: what each start says instead, until it is used up.
        self.start_troubles: dict[str, list[ProviderError]] = {}
        self.stop_troubles: list[ProviderError] = []
        self.list_troubles: list[ProviderError] = []
        self.start_seconds = 0.0
        self.under_way = 0
        self.most_under_way = 0

    def make(self, uuid: str, tag: str, spec: Spec | None = None) -> Instance:
        """An instance that nobody asked this cloud for."""
        self.made.append(uuid)
        self.instances[uuid] = Instance(uuid, f"i-{len(self.made)}", f"10.0.0.{len(self.made)}")
        self.tags[uuid] = tag
        self.specs[uuid] = spec or Spec("unknown")
        return self.instances[uuid]


class FakeProvider:
    """One model's part of it. `step` is called before and after each thing it does."""

    def __init__(
        self, cloud: FakeCloud, tag: str = "model", step: Callable[[str], Awaitable[None]] | None = None
    ) -> None:
        self._cloud = cloud
        self._tag = tag
        self._step = step or _no_step

    @property
    def name(self) -> str:
        return self._cloud.name

    async def start(self, uuid: str, spec: Spec) -> Instance:
        await self._step("before start")
        cloud = self._cloud
        cloud.under_way += 1
        cloud.most_under_way = max(cloud.most_under_way, cloud.under_way)
        try:
            await asyncio.sleep(cloud.start_seconds)
        finally:
            cloud.under_way -= 1
        if "-" not in uuid or not spec.hostname.islower():
            raise Refused("no uuid, or no hostname")
        troubles = cloud.start_troubles.get(uuid) or cloud.start_troubles.get("")
        if troubles:
            raise troubles.pop(0)
        if uuid in cloud.stopped:
            raise Gone(f"{uuid} was stopped")
        found = cloud.instances.get(uuid) or cloud.make(uuid, self._tag, spec)
        await self._step("after start")
        return found

    async def stop(self, uuid: str) -> None:
        await self._step("before stop")
        if self._cloud.stop_troubles:
            raise self._cloud.stop_troubles.pop(0)
        self._cloud.stopped.add(uuid)
        if self._cloud.instances.pop(uuid, None) is not None:
            self._cloud.ended.append(uuid)
        await self._step("after stop")

    async def list(self) -> tuple[Instance, ...]:
        await self._step("before list")
        if self._cloud.list_troubles:
            raise self._cloud.list_troubles.pop(0)
        found = tuple(i for u, i in self._cloud.instances.items() if self._cloud.tags[u] == self._tag)
        await self._step("after list")
        return found


async def _no_step(what: str) -> None:
    pass

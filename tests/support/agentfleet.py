"""Many agents in one process, and a watcher of their files: for a run of localjuju, whose network this is started in.

    python agentfleet.py FOLDER

`FOLDER/<tag>/agent.conf` are the agents; `FOLDER/dead.json` lists addresses of which it is certain that nobody serves
there now; what is seen stands in `FOLDER/fleet.json`, and every broken promise in its `broken`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sys
from pathlib import Path

import msgspec

from controller.api.agent import agentconf
from controller.api.agent.agent import Agent

_LOOK_SECONDS = 0.1


class Seen(msgspec.Struct):
    """One agent: where it is connected ("": nowhere) for the how manieth time, what its file says, its changes."""

    address: str = ""
    connections: int = 0
    addresses: tuple[str, ...] = ()
    changes: int = 0
    writes: int = 0


class Fleet(msgspec.Struct):
    """What the process shows of all of them."""

    agents: dict[str, Seen] = {}
    broken: list[str] = []
    looks: int = 0


class Watcher:
    """Looks at all files again and again, and reads each that is another one than before."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths = {path.parent.name: path for path in sorted(folder.glob("*/agent.conf"))}
        self._agents = {tag: Agent(path, dice=random.Random(tag)) for tag, path in self._paths.items()}
        self._marks: dict[str, tuple[int, int, int]] = {}
        self._texts: dict[str, str] = dict.fromkeys(self._paths, "")
        self._known: dict[str, set[str]] = {tag: set() for tag in self._paths}
        self._fleet = Fleet({tag: Seen() for tag in self._paths})

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for agent in self._agents.values():
                group.create_task(agent.run())
            while True:
                dead = frozenset(msgspec.json.decode((self._folder / "dead.json").read_bytes(), type=list[str]))
                for tag in self._paths:
                    self._look(tag, dead)
                    await asyncio.sleep(0)  # The agents are tasks of this very loop.
                self._fleet.looks += 1
                self._show()
                await asyncio.sleep(_LOOK_SECONDS)

    def _look(self, tag: str, dead: frozenset[str]) -> None:
        seen = self._fleet.agents[tag]
        with self._paths[tag].open() as file:  # Both of one moment.
            about = os.fstat(file.fileno())
            mark = about.st_ino, about.st_mtime_ns, about.st_size
            if mark != self._marks.get(tag):
                self._read(tag, seen, file.read())
        self._marks[tag] = mark
        addresses = set(seen.addresses)
        if addresses <= dead and (left := self._known[tag] - dead):
            self._break(f"{tag}: nobody serves at {addresses}, and it knew {left}")
        report = self._agents[tag].caller.report()
        seen.address = str(report.get("address", "")) if report["connected"] else ""
        seen.connections = int(report["connections"])
        seen.writes = int(self._agents[tag].updater.report()["writes"])

    def _read(self, tag: str, seen: Seen, text: str) -> None:
        if text == self._texts[tag]:
            self._break(f"{tag}: rewritten without a change")
        self._texts[tag] = text
        try:
            conf = agentconf.parse(text)
        except agentconf.AgentConfError as error:
            self._break(f"{tag}: torn: {error}")
            return
        if not conf.apiaddresses:
            self._break(f"{tag}: the list is empty")
        if conf.tag != tag or not conf.cacert or not (conf.apipassword or conf.oldpassword):
            self._break(f"{tag}: something of it is lost")
        now = tuple(sorted(map(str, conf.apiaddresses)))
        seen.changes += now != seen.addresses
        seen.addresses = now
        self._known[tag].update(now)

    def _break(self, how: str) -> None:
        if how not in self._fleet.broken:
            self._fleet.broken.append(how)

    def _show(self) -> None:
        new = self._folder / ".fleet.json.new"
        new.write_bytes(msgspec.json.encode(self._fleet))
        new.rename(self._folder / "fleet.json")


if __name__ == "__main__":
    logging.basicConfig(level="ERROR")
    asyncio.run(Watcher(Path(sys.argv[1])).run())

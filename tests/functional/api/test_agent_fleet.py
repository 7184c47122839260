"""A hundred agents while controllers die, come back, join, leave and move: nobody is stranded, nothing is torn."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from apicontroller import Controllers, agent_conf
from controller.api.agent import agentconf
from controller.api.agent.agent import Agent

# What is promised, from the moment in which there is a controller that can let agents in, on a machine that is not busy
# with something else. A hundred agents here are a hundred machines' work for two cores.
CONNECTED_SECONDS = 5.0
_LOOK_SECONDS = 0.05
PASSWORD = "0123456789abcdefghij"


@dataclass
class Seen:
    """One agent's file as it was last read: which file, what it says, and all addresses that it ever said."""

    mark: tuple[int, int, int] = (0, 0, 0)
    text: str = ""
    addresses: frozenset[str] = frozenset()
    known: frozenset[str] = frozenset()


class Fleet:
    """The agents, the faults, and what must hold at every moment."""

    def __init__(self, folder: Path, seed: int, count: int, limit_seconds: float) -> None:
        self.folder = folder
        self.count = count
        self.limit_seconds = limit_seconds
        self.dice = random.Random(seed)
        self.controllers = Controllers(folder, block=79)
        self.agents: dict[str, Agent] = {}
        self.publishes = 0
        self.steps: Counter[str] = Counter()
        self.slowest = 0.0
        self.alive_until: dict[str, float] = {}
        self.seen: dict[str, Seen] = {}
        self.reads = self.looks = 0

    def conf(self, tag: str) -> Path:
        return self.folder / tag / "agent.conf"

    def enrol(self) -> None:
        tags = [f"machine-{n}" for n in range(self.count)]
        self.controllers.world.secrets = dict.fromkeys(tags, PASSWORD)
        self.controllers.write()
        addresses = [self.controllers.addresses[n] for n in sorted(self.controllers.living)]
        for tag in tags:
            self.conf(tag).parent.mkdir()
            agent_conf(self.conf(tag), tag, self.controllers.cacert, addresses, PASSWORD)
            self.agents[tag] = Agent(self.conf(tag), dice=random.Random(f"{tag}"))

    # Faults. Each leaves at least one controller that is published and lives.

    async def start(self, n: int, at: str = "") -> None:
        self.controllers.start(n, at=at)
        await asyncio.to_thread(self.controllers.wait_for, n)

    def publish(self) -> None:
        self.controllers.publish(*sorted(self.members))
        self.publishes += 1

    def kill(self, n: int) -> None:
        self.note_living()
        self.controllers.kill(n)

    def note_living(self) -> None:
        now = asyncio.get_running_loop().time()
        for n in self.controllers.living:
            self.alive_until[self.controllers.addresses[n]] = now

    async def lose_one_and_bring_it_back(self) -> None:
        n = self.dice.choice(sorted(self.members))
        self.kill(n)
        await self.settled()
        await self.start(n, self.controllers.addresses[n])

    async def lose_two_at_once(self) -> None:
        lost = self.dice.sample(sorted(self.members), 2)
        for n in lost:
            self.kill(n)
        await self.settled()
        for n in lost:
            await self.start(n, self.controllers.addresses[n])

    async def lose_one_for_another(self) -> None:
        n = self.dice.choice(sorted(self.members))
        self.kill(n)
        new = max(self.controllers.addresses) + 1
        await self.start(new)
        self.members.symmetric_difference_update({n, new})
        self.publish()

    async def move_one_while_another_is_down(self) -> None:
        moves, down = self.dice.sample(sorted(self.members), 2)
        self.kill(down)
        self.kill(moves)
        await self.start(moves)
        self.publish()
        await self.settled()
        await self.start(down, self.controllers.addresses[down])

    async def add_one(self) -> None:
        n = max(self.controllers.addresses) + 1
        await self.start(n)
        self.members.add(n)
        self.publish()

    async def remove_one(self) -> None:
        n = self.dice.choice(sorted(self.members))
        self.members.remove(n)
        self.publish()
        await asyncio.sleep(self.dice.uniform(0, 0.5))
        self.kill(n)

    async def move_one(self) -> None:
        n = self.dice.choice(sorted(self.members))
        self.kill(n)
        await self.start(n)
        self.publish()

    async def move_all_one_after_another(self) -> None:
        for n in sorted(self.members):
            self.kill(n)
            await self.start(n)
            self.publish()
            await self.settled()

    async def lose_the_quorum(self) -> None:
        self.controllers.world.quorum = False
        self.controllers.write()
        n = self.dice.choice(sorted(self.members))
        self.kill(n)
        await asyncio.sleep(self.dice.uniform(0.5, 3))
        self.controllers.world.quorum = True
        self.controllers.write()
        await self.settled()
        await self.start(n, self.controllers.addresses[n])

    async def lose_all_at_once_and_the_quorum(self) -> None:
        """Nobody is connected any more, and controllers that are back say no until there is a quorum."""
        self.controllers.world.quorum = False
        self.controllers.write()
        for n in sorted(self.members):
            self.kill(n)
        for n in sorted(self.members):
            await self.start(n, self.controllers.addresses[n])
        await asyncio.sleep(self.dice.uniform(1, 6))
        assert len(self.late()) == self.count, "nobody can be let in without a quorum"
        self.controllers.world.quorum = True
        self.controllers.write()

    # What must hold.

    async def settled(self) -> None:
        """Within the promised time each agent is connected to a living controller and has the published list."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while late := self.late():
            assert loop.time() - began < self.limit_seconds, f"{len(late)} are late: {dict(list(late.items())[:3])}"
            await asyncio.sleep(_LOOK_SECONDS)
        self.slowest = max(self.slowest, loop.time() - began)

    def late(self) -> dict[str, object]:
        living = {self.controllers.addresses[n] for n in self.controllers.living}
        published = frozenset(address for group in self.controllers.world.published for address in group)
        return {
            tag: (agent.caller.report(), agent.updater.report())
            for tag, agent in self.agents.items()
            if agent.caller.report().get("address") not in living & published
            or tag not in self.seen  # Its file has not been looked at for the first time.
            or self.seen[tag].addresses != published
        }

    async def watch_every_file(self) -> None:
        """Look at all files again and again, and read each that is another one than before."""
        while True:
            self.looks += 1
            for tag in self.agents:
                self.look_at(tag)
                await asyncio.sleep(0)  # The agents are tasks of this very loop.
            await asyncio.sleep(_LOOK_SECONDS)

    def look_at(self, tag: str) -> None:
        """It is never torn, empty, rewritten without a change, or without an address that lives or just lived."""
        self.note_living()
        before = self.seen.setdefault(tag, Seen())
        with self.conf(tag).open() as file:  # Both of one moment.
            about = os.fstat(file.fileno())
            mark = about.st_ino, about.st_mtime_ns, about.st_size
            text = before.text if mark == before.mark else file.read()
        if mark != before.mark:
            self.reads += 1
            assert text != before.text, f"{tag}: rewritten without a change"
            assert about.st_mode & 0o777 == 0o600
            addresses = frozenset(map(str, self.whole(tag, text).apiaddresses))
            assert addresses, f"{tag}: the list is empty"
            self.seen[tag] = Seen(mark, text, addresses, before.known | addresses)
        now = self.seen[tag]
        # At every look, and not only when the file has changed: it may also have failed to change.
        recent = {a for a, at in self.alive_until.items() if at > asyncio.get_running_loop().time() - 2}
        there = {self.controllers.addresses[n] for n in self.controllers.living}
        if now.addresses != before.addresses or now.known & there:
            assert now.addresses & recent, (
                f"{tag}: no address of {set(now.addresses)} lives; it knew {now.known & there}"
            )

    def whole(self, tag: str, text: str) -> agentconf.AgentConf:
        """Return what the file says, which is all that was ever in it: nothing is torn off."""
        conf = agentconf.parse(text)
        assert text.endswith("later: [kept]\n") or "\nlater: [kept]\n" in text
        assert (conf.tag, conf.apipassword, conf.cacert) == (tag, PASSWORD, self.controllers.cacert)
        return conf

    async def play(self, seconds: float) -> None:
        self.members = {0, 1, 2}
        for n in sorted(self.members):
            self.controllers.start(n)
        for n in sorted(self.members):
            await asyncio.to_thread(self.controllers.wait_for, n)
        self.enrol()
        self.publish()
        faults: list[Callable[[], Awaitable[None]]] = [
            self.lose_one_and_bring_it_back,
            self.lose_two_at_once,
            self.lose_one_for_another,
            self.lose_all_at_once_and_the_quorum,
            self.add_one,
            self.remove_one,
            self.move_one,
            self.move_one_while_another_is_down,
            self.move_all_one_after_another,
            self.lose_the_quorum,
        ]
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.watch_every_file())]
            tasks += [group.create_task(agent.run()) for agent in self.agents.values()]
            await asyncio.sleep(0.2)
            await self.settled()
            end = loop.time() + seconds
            round_: list[Callable[[], Awaitable[None]]] = []
            while loop.time() < end or round_:
                if not round_:
                    round_ = self.dice.sample(faults, len(faults))
                fault = round_.pop()
                if fault == self.add_one and len(self.members) >= 5:
                    fault = self.remove_one
                elif fault == self.remove_one and len(self.members) <= 3:
                    fault = self.add_one
                await fault()
                await self.settled()
                self.steps[fault.__name__] += 1
            for task in tasks:
                task.cancel()
        for tag, agent in self.agents.items():
            writes = agent.updater.report()["writes"]
            assert writes <= 2 * self.publishes, f"{tag} wrote {writes} times for {self.publishes} lists"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "seconds", "limit_seconds"),
    [
        pytest.param(25, 1, 4 * CONNECTED_SECONDS, id="each-fault-once"),
        pytest.param(100, 300, CONNECTED_SECONDS, marks=pytest.mark.long, id="a-hundred-for-five-minutes"),
    ],
)
@pytest.mark.timeout(900)
def test_no_agent_is_ever_stranded_while_controllers_come_and_go(
    tmp_path: Path, count: int, seconds: float, limit_seconds: float
):
    seed = int(os.environ.get("HA_CONTROLLER_SEEDS", "41").split()[0])
    fleet = Fleet(tmp_path, seed, count, limit_seconds)
    with fleet.controllers:
        asyncio.run(fleet.play(seconds))
    told = f"{fleet.looks} looks, {fleet.reads} files read, slowest {fleet.slowest:.1f} s"
    print(f"seed {seed}: {dict(fleet.steps)}, {told}")
    kinds = {name for name in fleet.steps if name not in ("add_one", "remove_one")}
    assert len(kinds) == 8, f"every fault has its turn in every round: {kinds}"
    assert {"add_one", "remove_one"} & set(fleet.steps)
    assert fleet.reads > count, "and files did change"

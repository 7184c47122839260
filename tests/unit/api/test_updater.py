"""The agent's updater: what of a published list reaches agent.conf, and when the old one goes."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from controller.api import messages
from controller.api.agent import updater
from controller.api.agent.agentconf import AgentConf
from controller.api.agent.agentfile import AgentConfFile
from controller.api.agent.caller import Caller, Patience
from controller.api.agent.updater import Updater
from controller.api.dial import Pace
from controller.api.interfaces import Interface
from controller.api.scopes import HostPort
from fakecontrollers import World, host

PACE = Pace(interval=0.02, attempt=0.2, total=5)
PATIENCE = Patience(first_pause=0.01, longest_pause=0.05, refused_pause=0.2)
TEXT = """\
# format 2.0
tag: machine-0
cacert: the authority
apiaddresses:
- 10.0.0.1:17070
- 10.0.1.1:17070
- 10.0.2.1:17070
apipassword: first
future: x
"""


def bridge(name: str, *addresses: str) -> Interface:
    return Interface(name, tuple(map(ipaddress.ip_interface, addresses)))


class Story:
    def __init__(self, root: Path) -> None:
        self.path = root / "agent.conf"
        self.path.write_text(TEXT)
        self.file = AgentConfFile(self.path)
        self.world = World(3)
        dice = random.Random(5)
        self.interfaces: list[Interface] = []
        self.caller = Caller(self.file, self.world.connect, pace=PACE, patience=PATIENCE, dice=dice)
        self.updater = Updater(
            self.file,
            self.caller,
            self.world.connect,
            own=lambda: self.interfaces,
            pace=PACE,
            again_seconds=0.05,
            authorities_seconds=0.1,
            dice=dice,
        )

    @property
    def conf(self) -> AgentConf:
        return self.file.read()

    @property
    def listed(self) -> set[HostPort]:
        return set(self.conf.apiaddresses)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(worker.run()) for worker in (self.caller, self.updater)]
        try:
            yield
            assert not any(task.done() for task in tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert self.world.connected() == {}, "nothing is left open"

    async def until(self, fact: Callable[[], object], what: str) -> None:
        deadline = asyncio.get_running_loop().time() + 10
        while not fact():
            assert asyncio.get_running_loop().time() < deadline, f"{what}; {self.updater.report()}; {self.listed}"
            await asyncio.sleep(0.005)

    async def settled(self) -> None:
        """Until the list that is published has been taken, or refused."""
        wanted = [[str(a) for a in group] for group in self.world.published if group]
        await self.until(lambda: self.updater.report()["servers"] == wanted, "the list is known")
        await self.until(lambda: self.world.connected(), "there is a connection")


def play(root: Path, script: Callable[[Story], Awaitable[None]]) -> Story:
    async def run() -> Story:
        story = Story(root)
        async with story.running():
            await script(story)
        return story

    return asyncio.run(run())


def test_the_same_list_at_the_start_writes_nothing(tmp_path: Path):
    story = play(tmp_path, lambda story: story.settled())

    assert story.path.read_text() == TEXT
    assert story.updater.report()["writes"] == 0


def test_a_published_list_is_in_the_file_and_the_rest_of_it_stays(tmp_path: Path):
    async def script(story: Story) -> None:
        await story.settled()
        story.world.publish([host(0)], [host(1), host(1, 2)], [host(2)], [host(3)])
        await story.until(lambda: len(story.listed) == 5, "the new list")
        await story.until(lambda: story.updater.report()["writes"] == 1, "it has noticed that it wrote")

    story = play(tmp_path, script)

    assert story.conf.controllers == ((host(0),), (host(1), host(1, 2)), (host(2),), (host(3),))
    assert "future: x\n" in story.path.read_text()
    assert story.updater.report()["writes"] == 1


def test_another_order_writes_nothing(tmp_path: Path):
    async def script(story: Story) -> None:
        await story.settled()
        story.world.publish([host(2)], [host(0)], [host(1)])
        await story.settled()

    assert play(tmp_path, script).path.read_text() == TEXT


@pytest.mark.parametrize(
    "published",
    [[], [[]], [[HostPort("127.0.0.1", 17070)], [HostPort("fe80::1", 17070)]], [[HostPort("10.7.7.1", 17070)]]],
)
def test_a_list_without_any_address_for_this_machine_changes_nothing(tmp_path: Path, published: list[list[HostPort]]):
    async def script(story: Story) -> None:
        story.interfaces = [bridge("lxdbr0", "10.7.7.1/24")]
        await story.settled()
        story.world.publish(*published)
        await story.until(lambda: "has no address for this machine" in story.updater.report()["problem"], "it is said")
        story.world.publish([host(0)], [host(1)], [host(2)])
        await story.until(lambda: not story.updater.report()["problem"], "the next list is taken")

    assert play(tmp_path, script).path.read_text() == TEXT


def test_old_addresses_go_only_after_a_new_one_has_answered(tmp_path: Path):
    async def script(story: Story) -> None:
        await story.settled()
        old = {host(0), host(1), host(2)}
        story.world.publish([host(8)], [host(9)])
        await story.until(lambda: story.listed == old | {host(8), host(9)}, "the new ones come beside the old ones")
        await story.until(lambda: "no controller can be reached" in story.updater.report()["problem"], "it is said")
        await story.until(lambda: story.world.dialled.count(host(8)) > 3, "it is tried again")
        assert (story.listed, story.updater.report()["writes"]) == (old | {host(8), host(9)}, 1)
        # One who answers with a wrong certificate is no proof.
        story.world.controllers[2].foreign = True
        story.world.at[host(9)] = story.world.controllers[2]
        await story.until(lambda: "no controller can be trusted" in story.updater.report()["problem"], "it is said")
        assert story.listed == old | {host(8), host(9)}
        story.world.controllers[2].foreign = False
        await story.until(lambda: story.listed == {host(8), host(9)}, "the old ones go")
        await story.until(lambda: story.caller.report().get("address") == str(host(9)), "and the connection follows")
        await story.until(lambda: story.updater.report()["problem"] == "", "nothing is left to say")

    play(tmp_path, script)


def test_while_new_addresses_do_not_answer_a_newer_list_is_taken(tmp_path: Path):
    async def script(story: Story) -> None:
        await story.settled()
        story.world.publish([host(9)])
        await story.until(lambda: host(9) in story.listed, "beside the old ones")
        story.world.publish([host(0)], [host(1)], [host(2)])
        await story.until(lambda: story.listed == {host(0), host(1), host(2)}, "back again")

    play(tmp_path, script)


def test_the_address_that_told_is_proof_enough(tmp_path: Path):
    async def script(story: Story) -> None:
        await story.settled()
        mine = (await story.caller.connected()).connection.address
        del story.world.dialled[:]
        story.world.publish([mine], [host(9)])
        await story.until(lambda: story.listed == {mine, host(9)}, "the new list")
        await story.until(lambda: story.updater.report()["writes"] == 1, "it has noticed that it wrote")
        assert story.world.dialled == []

    play(tmp_path, script)


def test_a_removed_controller_is_left_for_one_of_the_list(tmp_path: Path):
    async def script(story: Story) -> None:
        await story.settled()
        mine = (await story.caller.connected()).connection.address
        others = [host(n) for n in range(3) if host(n) != mine]
        story.world.publish(*([other] for other in others))
        await story.until(lambda: story.listed == set(others), "the new list")
        await story.until(lambda: story.caller.report().get("address") in set(map(str, others)), "another controller")

    play(tmp_path, script)


def test_a_list_that_changed_while_nobody_was_connected_is_taken_by_the_next_connection(tmp_path: Path):
    async def script(story: Story) -> None:
        await story.settled()
        first = await story.caller.connected()
        for controller in story.world.controllers:
            controller.die()
        await first.gone.wait()
        story.world.publish([host(0)], [host(1)], [host(2)], [host(3)])
        story.world.controllers[1].alive = True
        await story.until(lambda: host(3) in story.listed, "the new list")

    play(tmp_path, script)


def test_a_file_that_cannot_be_written_now_is_written_later(tmp_path: Path):
    async def script(story: Story) -> None:
        await story.settled()
        story.path.rename(story.path.with_suffix(".away"))
        story.world.publish([host(0)], [host(1)], [host(2)], [host(3)])
        await story.until(lambda: "is not there" in story.updater.report()["problem"], "it is said")
        story.path.with_suffix(".away").rename(story.path)
        await story.until(lambda: host(3) in story.listed, "the new list")
        await story.until(lambda: story.updater.report()["problem"] == "", "nothing is left to say")

    play(tmp_path, script)


def test_new_authorities_are_trusted_once_a_controller_shows_a_certificate_of_theirs(tmp_path: Path):
    async def script(story: Story) -> None:
        await story.settled()
        # They are said before the controllers have certificates of theirs.
        story.world.authorities = "the next authority"
        await story.until(lambda: "not trusted yet" in story.updater.report()["problem"], "it is said")
        assert "no controller can be trusted" in story.updater.report()["problem"]
        assert story.conf.cacert == "the authority"
        story.world.certified_by = {"the authority", "the next authority"}
        await story.until(lambda: story.conf.cacert == "the next authority", "they are trusted")
        await story.until(lambda: story.updater.report()["problem"] == "", "nothing is left to say")
        story.world.certified_by = {"the next authority"}
        (await story.caller.connected()).connection.controller.die()
        await story.until(lambda: story.world.connected(), "and the agent goes on under them")
        story.world.authorities = "  "
        await asyncio.sleep(0.3)
        assert story.conf.cacert == "the next authority", "none at all is no news"

    play(tmp_path, script)


# What can be used of a list, as a pure function.


def servers(*groups: list[str]) -> messages.Servers:
    return tuple(tuple(messages.HostPort(value=value, port=17070) for value in group) for group in groups)


def chosen(told: messages.Servers, inside: list[str] | None = None, answered: str = "10.0.0.1") -> list[list[Any]]:
    networks = [ipaddress.ip_network(n) for n in inside or ()]
    return [[a.host for a in group] for group in updater.usable(told, networks, HostPort(answered, 17070))]


def test_each_controller_s_addresses_are_in_local_order_and_those_of_a_machine_or_link_are_dropped():
    told = servers(["8.8.8.8", "127.0.0.1", "fd00::1", "10.0.0.1", "fe80::1"], ["169.254.1.1"], ["8.8.4.4"])

    assert chosen(told) == [["10.0.0.1", "fd00::1", "8.8.8.8"], ["8.8.4.4"]]


def test_addresses_of_this_machine_s_own_bridges_are_dropped():
    told = servers(["10.0.0.1", "10.0.3.1", "10.0.3.77", "fd42::1"], ["10.0.3.5"])

    assert chosen(told, ["10.0.3.0/24", "fd42::/64"]) == [["10.0.0.1"]]


def test_a_machine_that_reaches_its_controller_at_a_loopback_address_is_the_controller_s_own():
    told = servers(["127.0.0.10"], ["127.0.0.11", "10.0.0.1"])

    assert chosen(told, answered="127.0.0.10") == [["127.0.0.10"], ["127.0.0.11", "10.0.0.1"]]
    assert chosen(told, answered="10.0.0.1") == [["10.0.0.1"]]


def test_a_bridge_behind_which_a_controller_has_answered_is_no_dead_end(tmp_path: Path):
    async def script(story: Story) -> None:
        story.interfaces = [bridge("lxdbr0", "10.0.0.254/16")]
        await story.settled()
        story.world.publish([host(0)], [host(1)], [host(2)], [host(3)])
        await story.until(lambda: host(3) in story.listed, "the new list")

    play(tmp_path, script)

"""The agent's caller: who is dialled, what the login does, and what becomes of a connection that is lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from controller.api import messages
from controller.api.agent import agentconf
from controller.api.agent.agentconf import AgentConf
from controller.api.agent.agentfile import AgentConfFile
from controller.api.agent.caller import Caller, Patience
from controller.api.dial import Pace
from controller.api.messages import Epoch, RPCError
from fakecontrollers import TAG, World, host

PACE = Pace(interval=0.02, attempt=0.3, total=5)
PATIENCE = Patience(first_pause=0.01, longest_pause=0.05, refused_pause=0.2, ping=0.1, pong=0.1)
TEXT = """\
# format 2.0
tag: machine-0
nonce: once
cacert: the authority
apiaddresses:
- 10.0.0.1:17070
- 10.0.1.1:17070
- 10.0.2.1:17070
apipassword: first
"""


class Story:
    def __init__(self, root: Path, text: str = TEXT, count: int = 3) -> None:
        self.path = root / "agent.conf"
        self.path.write_text(text)
        self.file = AgentConfFile(self.path)
        self.world = World(count)
        self.caller = Caller(self.file, self.world.connect, pace=PACE, patience=PATIENCE, dice=random.Random(5))

    @property
    def conf(self) -> AgentConf:
        return self.file.read()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.caller.run())
        try:
            yield
            assert not task.done(), "a caller never ends by itself"
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        assert self.world.connected() == {}, "nothing is left open"

    async def until(self, fact: Callable[[], object], what: str) -> None:
        deadline = asyncio.get_running_loop().time() + 10
        while not fact():
            assert asyncio.get_running_loop().time() < deadline, f"{what}; {self.caller.report()}"
            await asyncio.sleep(0.005)

    async def until_problem(self, words: str) -> None:
        await self.until(lambda: words in str(self.caller.report().get("problem", "")), words)


def play(root: Path, script: Callable[[Story], Awaitable[None]], text: str = TEXT) -> Story:
    async def run() -> Story:
        story = Story(root, text)
        await script(story)
        return story

    return asyncio.run(run())


def test_it_connects_logs_in_and_says_to_whom(tmp_path: Path):
    async def script(story: Story) -> None:
        assert story.caller.report() == {
            "tag": "",
            "connections": 0,
            "connected": False,
            "problem": "not connected yet",
        }
        async with story.running():
            connected = await story.caller.connected()
            assert story.world.connected() == {connected.connection.controller.number: 1}
            (heard,) = connected.connection.controller.heard
            assert (heard.auth_tag, heard.credentials, heard.nonce, heard.epoch) == (TAG, "first", "once", None)
            report = story.caller.report()
            assert (report["tag"], report["connected"], report["connections"]) == (TAG, True, 1)
            assert report["address"] == str(connected.connection.address)
            assert story.world.cacerts == {"the authority"}

    assert play(tmp_path, script).path.read_text() == TEXT


def test_a_lost_controller_is_replaced_by_another_at_once_and_comes_last(tmp_path: Path):
    async def script(story: Story) -> None:
        async with story.running():
            first = await story.caller.connected()
            del story.world.dialled[:]
            first.connection.controller.die()
            await first.gone.wait()
            second = await story.caller.connected()
            assert second.connection.controller is not first.connection.controller
            assert story.world.dialled == [second.connection.address], "the one that was lost is not tried first"

    play(tmp_path, script)


def test_with_all_controllers_away_it_goes_on_until_one_is_back(tmp_path: Path):
    async def script(story: Story) -> None:
        for controller in story.world.controllers:
            controller.alive = False
        async with story.running():
            await story.until_problem("no controller can be reached")
            assert "connection refused" in story.caller.report()["problem"]
            await story.until(lambda: len(story.world.dialled) > 12, "it tries again")
            story.world.controllers[1].alive = True
            connected = await story.caller.connected()
            assert connected.connection.controller_id == "1"

    play(tmp_path, script)


def test_a_silent_controller_costs_an_interval(tmp_path: Path):
    async def script(story: Story) -> None:
        story.world.controllers[0].silent = story.world.controllers[1].silent = True
        async with story.running():
            connected = await story.caller.connected()
            assert connected.connection.controller_id == "2"

    play(tmp_path, script)


def test_a_controller_that_answers_nothing_any_more_is_left(tmp_path: Path):
    async def script(story: Story) -> None:
        async with story.running():
            first = await story.caller.connected()
            await story.until(lambda: first.connection.pings > 1, "it pings")
            first.connection.controller.silent = True
            await first.gone.wait()
            assert "a ping failed" in story.caller.report()["problem"]
            assert (await story.caller.connected()).connection.controller is not first.connection.controller

    play(tmp_path, script)


def test_somebody_else_s_certificate_is_said_and_never_logged_in_to(tmp_path: Path):
    async def script(story: Story) -> None:
        for controller in story.world.controllers:
            controller.foreign = True
        async with story.running():
            await story.until_problem("no controller can be trusted")
            assert all(controller.heard == [] for controller in story.world.controllers)

    play(tmp_path, script)


def test_a_password_that_somebody_else_gave_is_replaced(tmp_path: Path):
    async def script(story: Story) -> None:
        async with story.running():
            await story.caller.connected()
            assert story.conf.oldpassword == "first"
            assert story.conf.apipassword == story.world.passwords[TAG] != "first"
            assert len(story.conf.apipassword) >= 22, "128 bits and more"
        first = story.conf.apipassword
        async with story.running():
            await story.caller.connected()
            assert story.conf.apipassword == first, "its own password stays"

    play(tmp_path, script, TEXT.replace("apipassword: first", "apipassword: ''\noldpassword: first"))


@pytest.mark.parametrize("where", ["before the controller took it", "after, and the answer was lost"])
def test_killed_between_the_two_steps_of_a_new_password_it_finds_the_one_that_works(tmp_path: Path, where: str):
    async def script(story: Story) -> None:
        story.world.passwords[TAG] = "new" if where.startswith("after") else "first"
        async with story.running():
            await story.caller.connected()
            assert story.conf.apipassword == story.world.passwords[TAG] != "first"
            if where.startswith("after"):
                assert story.conf.apipassword == "new"

    play(tmp_path, script, TEXT.replace("apipassword: first", "apipassword: new\noldpassword: first"))


def test_an_answer_that_is_lost_leaves_a_password_that_works(tmp_path: Path):
    async def script(story: Story) -> None:
        story.world.forgets_passwords = True
        async with story.running():
            await story.until(lambda: story.world.passwords[TAG] != "first", "the password was set")
            story.world.forgets_passwords = False
            await story.caller.connected()
            assert story.conf.apipassword == story.world.passwords[TAG]

    play(tmp_path, script, TEXT.replace("apipassword: first", "oldpassword: first"))


def test_a_password_that_is_set_long_after_it_was_asked_for_strands_nobody(tmp_path: Path):
    async def script(story: Story) -> None:
        story.world.parks_passwords = True
        async with story.running():
            await story.until(lambda: story.world.parked, "a controller is cut off while it sets the password")
            story.world.parks_passwords = False
            await story.caller.connected()
            assert story.world.passwords[TAG] == story.conf.apipassword != "first"
            story.world.carry_out_parked()
            assert story.world.passwords[TAG] in (story.conf.apipassword, story.conf.oldpassword)
            for controller in story.world.controllers:
                for connection in list(controller.connections):
                    connection.end("the connection broke")
            await story.until(lambda: story.caller.report()["connections"] == 2, "it is let in again")

    play(tmp_path, script, TEXT.replace("apipassword: first", "oldpassword: first"))


def test_a_password_that_is_not_taken_keeps_the_old_one_and_is_said(tmp_path: Path):
    async def script(story: Story) -> None:
        story.world.password_error = "no room"
        async with story.running():
            await story.until_problem("does not take a new password: no room")
            assert story.conf.oldpassword == "first" == story.world.passwords[TAG]

    play(tmp_path, script, TEXT.replace("apipassword: first", "oldpassword: first"))


def test_an_agent_that_is_not_let_in_says_what_to_do_and_asks_rarely(tmp_path: Path):
    async def script(story: Story) -> None:
        story.world.passwords[TAG] = "another"
        async with story.running():
            await story.until_problem("does not let machine-0 in (invalid entity name or password): if it is to stay")
            logins = sum(len(c.heard) for c in story.world.controllers)
            await asyncio.sleep(0.05)
            assert sum(len(c.heard) for c in story.world.controllers) == logins, "half of 0.2 s at least"
            story.world.passwords[TAG] = "first"
            await story.caller.connected()

    play(tmp_path, script)


@pytest.mark.parametrize("code", [messages.TRY_AGAIN, messages.REDIRECT, ""])
def test_a_controller_that_cannot_log_anybody_in_is_passed_over(tmp_path: Path, code: str):
    async def script(story: Story) -> None:
        for controller in story.world.controllers[:2]:
            controller.login_error = RPCError("not now", code)
        async with story.running():
            connected = await story.caller.connected()
            assert connected.connection.controller_id == "2"

    play(tmp_path, script)


def test_the_newest_epoch_is_kept_and_an_older_one_refused_and_told(tmp_path: Path):
    old, new = Epoch(1, "a"), Epoch(2, "b")

    async def script(story: Story) -> None:
        one, two, three = story.world.controllers
        one.epoch = two.epoch = three.epoch = old
        async with story.running():
            first = await story.caller.connected()
            assert story.conf.epoch == old
            # Everybody but one goes on with a new epoch; that one was left behind and does not know it.
            for controller in story.world.controllers:
                controller.epoch = new if controller is not first.connection.controller else old
            first.connection.end("the connection broke")
            await first.gone.wait()
            second = await story.caller.connected()
            assert second.connection.controller is not first.connection.controller
            assert story.conf.epoch == new
            for controller in story.world.controllers:
                if controller is not first.connection.controller:
                    controller.die()
            await story.until_problem("go to another controller")
            assert first.connection.controller.heard[-1].epoch == new, "it was told"
            # One that does not compare by itself is refused here.
            first.connection.controller.epoch = None
            await story.until_problem("is of no epoch, and epoch 2 is known: that controller was left behind")
            first.connection.controller.epoch = Epoch(2, "rival")
            await story.until_problem("is of another epoch 2 than the one that is known")
            assert story.conf.epoch == new

    play(tmp_path, script)


def test_a_list_without_its_address_moves_it_and_one_with_it_does_not(tmp_path: Path):
    async def script(story: Story) -> None:
        async with story.running():
            first = await story.caller.connected()
            mine = first.connection.address
            story.file.update(lambda c: agentconf.with_servers(c, [(mine,), (host(7),)]))
            story.caller.use_new_list()
            await asyncio.sleep(0.05)
            assert not first.gone.is_set()
            others = [(host(n),) for n in range(3) if host(n) != mine]
            story.file.update(lambda c: agentconf.with_servers(c, others))
            story.caller.use_new_list()
            await first.gone.wait()
            second = await story.caller.connected()
            assert second.connection.address != mine

    play(tmp_path, script)


def test_a_new_list_ends_a_pause(tmp_path: Path):
    async def script(story: Story) -> None:
        story.caller = Caller(
            story.file,
            story.world.connect,
            pace=PACE,
            patience=Patience(first_pause=60, longest_pause=60, refused_pause=60),
        )
        for n in range(3):
            del story.world.at[host(n)]
        story.world.at[host(9)] = story.world.controllers[0]
        async with story.running():
            await story.until_problem("no controller can be reached")
            story.file.update(lambda c: agentconf.with_servers(c, [(host(9),)]))
            story.caller.use_new_list()
            connected = await story.caller.connected()
            assert connected.connection.address == host(9)

    play(tmp_path, script)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TEXT.replace("# format 2.0", "# format 3.0"), "format 3.0 is newer"),
        (TEXT.replace("apipassword: first", ""), "there is no password"),
        ("# format 2.0\ntag: machine-0\napipassword: x\n", "apiaddresses is empty"),
        ("torn", "first line"),
    ],
)
def test_a_file_that_cannot_be_used_is_said_and_looked_at_again(tmp_path: Path, text: str, words: str):
    async def script(story: Story) -> None:
        async with story.running():
            await story.until_problem(words)
            assert str(story.path) in story.caller.report()["problem"]
            story.path.write_text(TEXT)
            await story.caller.connected()

    play(tmp_path, script, text)


def test_a_hundred_agents_spread_over_the_controllers(tmp_path: Path):
    async def run() -> None:
        world = World(3)
        world.passwords = {f"machine-{n}": "first" for n in range(100)}
        dice = random.Random(11)
        async with asyncio.TaskGroup() as group:
            tasks = []
            for n in range(100):
                path = tmp_path / f"agent-{n}.conf"
                path.write_text(TEXT.replace("machine-0", f"machine-{n}"))
                agent = Caller(AgentConfFile(path), world.connect, pace=PACE, patience=PATIENCE, dice=dice)
                tasks.append(group.create_task(agent.run()))
            async with asyncio.timeout(20):
                while sum(world.connected().values()) < 100:
                    await asyncio.sleep(0.01)
            counts = world.connected()
            for task in tasks:
                task.cancel()
        # 33 each is expected; less than 18 has a chance of one in two thousand.
        assert min(counts.values()) >= 18, counts
        assert len(counts) == 3

    asyncio.run(run())


def test_patience_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError):
        Patience(first_pause=3, longest_pause=2)

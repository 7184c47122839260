"""What a new machine's agent begins with: one secret whoever starts the machine, and a file that an agent takes."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

import jumpingloop
from controller.api import passwords
from controller.api.agent import agentconf
from controller.api.messages import Epoch, HostPort
from controller.workers import enrolment, machinerows
from controller.workers.computeprovisioner import ComputeProvisioner, Pace
from controller.workers.enrolment import Draft
from controller.workers.machines import Machine
from controller.workers.provider import Spec
from dbaccessor import errors
from fakeprovider import FakeCloud, FakeProvider
from fencedsqlite import FencedStore, Store

UUID = "00000000-0000-4000-8000-000000000000"
CACERT = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"
DRAFT = Draft(
    "m-uuid",
    "c-uuid",
    CACERT,
    (
        (HostPort(value="10.0.0.1", port=17070), HostPort(value="fd00::1", port=17070)),
        (HostPort(value="10.0.0.2", port=1),),
    ),
    Epoch(2, "tag"),
)
PATH = "/var/lib/ha-agent/agent.conf"


class Killed(Exception):
    """The process ends here."""


class World:
    def __init__(self) -> None:
        self.store = Store(
            "0001-model.sql", "0002-machine.sql", "0003-agents.sql", "0004-enrolment.sql", "0005-machine-provider.sql"
        )
        self.cloud = FakeCloud()
        self.drafts = 0
        self.trouble: errors.DbAccessorError | None = None

    async def draft(self) -> Draft | None:
        self.drafts += 1
        if self.trouble is not None:
            raise self.trouble
        return DRAFT

    def holder(self, token: int, step=None) -> ComputeProvisioner:
        async def find():
            return FakeProvider(self.cloud, step=step)

        database = FencedStore(self.store, token, step)
        return ComputeProvisioner(
            database, lambda: None, find, lambda m: Spec(f"machine-{m.number}"), Pace(), draft=self.draft
        )

    async def apart(self, body):
        return await FencedStore(self.store, self.store.fence).run(body)

    async def work(self, provisioner: ComputeProvisioner, *states: str, seconds: float = 60) -> None:
        """Until the machines are in these states, or the provisioner ends."""
        task = asyncio.create_task(provisioner.run())
        try:
            async with asyncio.timeout(seconds):
                while not task.done() and self.states() != list(states):
                    await asyncio.sleep(0.05)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Killed):
                await task

    def states(self) -> list[str]:
        return [row[0] for row in self.store.rows("SELECT state FROM machine ORDER BY number")]

    def secrets(self) -> list[str]:
        return [row[0] for row in self.store.rows("SELECT secret FROM machine_enrolment")]

    def kept(self) -> dict[str, str]:
        return dict(self.store.rows("SELECT tag, secret_hash FROM agent_secret"))

    def handed_out(self) -> agentconf.AgentConf:
        (text,) = [f.text for f in self.cloud.specs[UUID].files if f.path == PATH]
        return agentconf.parse(text)


def test_a_machine_starts_with_a_file_that_its_agent_takes_and_the_secret_is_nowhere_else():
    async def story() -> None:
        world = World()
        await world.apart(lambda tx: machinerows.add(tx, [UUID]))
        await world.work(world.holder(1), "started")
        conf = world.handed_out()
        assert (conf.tag, conf.model, conf.controller) == ("machine-0", "model-m-uuid", "controller-c-uuid")
        assert (conf.cacert, conf.epoch) == (CACERT, Epoch(2, "tag"))
        assert [[str(a) for a in group] for group in conf.controllers] == [
            ["10.0.0.1:17070", "[fd00::1]:17070"],
            ["10.0.0.2:1"],
        ]
        assert conf.apipassword == ""
        assert passwords.secret_matches(conf.oldpassword, world.kept()["machine-0"])
        assert world.secrets() == []

        await world.apart(lambda tx: machinerows.remove(tx, [0]))
        await world.work(world.holder(1), "stopped")
        assert world.kept() == {}, "it is let in no more"

    jumpingloop.run(story())


def test_wherever_a_holder_is_killed_the_agent_is_let_in_with_what_its_machine_was_started_with():
    async def until_killed(at: int) -> bool:
        """Return whether the first holder got further than that many steps."""
        world = World()
        await world.apart(lambda tx: machinerows.add(tx, [UUID]))
        steps = 0

        async def step(_: str) -> None:
            nonlocal steps
            steps += 1
            if steps > at:
                raise Killed

        await world.work(world.holder(1, step), "started")
        through = world.states() == ["started"]
        await world.work(world.holder(2), "started")
        conf = world.handed_out()
        assert world.states() == ["started"]
        assert world.cloud.made == [UUID], "one instance, whoever asked"
        assert passwords.secret_matches(conf.oldpassword, world.kept()["machine-0"]), f"killed after {at} steps"
        assert world.secrets() == []
        return through

    async def story() -> None:
        at = 0
        while not await until_killed(at):
            at += 1
            assert at < 50
        assert at >= 4, "it was killed in the middle of things"

    jumpingloop.run(story())


def test_a_secret_that_the_agent_has_replaced_is_left_alone():
    async def story() -> None:
        world = World()
        await world.apart(lambda tx: machinerows.add(tx, [UUID]))
        first = await world.apart(lambda tx: enrolment.secret_of(tx, Machine(UUID, 0)))
        await world.apart(lambda tx: tx.execute("UPDATE agent_secret SET secret_hash = 'its own'"))

        assert await world.apart(lambda tx: enrolment.secret_of(tx, Machine(UUID, 0))) == first
        assert world.kept() == {"machine-0": "its own"}

    jumpingloop.run(story())


def test_while_nothing_can_be_said_of_controllers_no_machine_is_begun():
    async def story() -> None:
        world = World()
        world.trouble = errors.NotReady("no certificate yet")
        await world.apart(lambda tx: machinerows.add(tx, [UUID]))
        provisioner = world.holder(1)
        with pytest.raises(TimeoutError):
            await world.work(provisioner, "started", seconds=3)
        assert (world.states(), world.secrets(), world.cloud.made) == (["pending"], [], [])
        assert "no certificate yet" in str(provisioner.report()["trouble"])
        assert 3 <= world.drafts <= 8, "it asks again, and not all the time"
        world.trouble = None
        await world.work(provisioner, "started")

    jumpingloop.run(story())

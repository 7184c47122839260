"""The charm's management space on rows: brought in line, taken away again, and nobody else's meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

import jumpingloop
from controller.api import charmspace, nodes
from controller.api.spaces import SpaceService
from controller.controllerconfig import ControllerConfig
from controller.workers import spacekeeper
from controller.workers.spacekeeper import SpaceKeeper
from dbaccessor import errors
from dbaccessor.conf import ControllerConf, ManagementSpace
from sqlitedatabase import SqliteDatabase

LIB = Path(__file__).parents[3] / "lib"
PATCHES = [LIB / "dbaccessor/schema/0001-controller.sql", *sorted((LIB / "controller/schema/controller").glob("*.sql"))]
MGMT = ManagementSpace("mgmt", ("10.1.0.0/24", "fd00:1::/64"))
_T = TypeVar("_T")


class Rows:
    """A database, and the keeper of one controller whose configuration the test sets."""

    def __init__(self) -> None:
        self.database = SqliteDatabase(*PATCHES)
        self.conf: ControllerConf | None = None
        self.application = "ctl"
        self.keeper = SpaceKeeper(self.database, lambda: self.conf)
        self.config = ControllerConfig(self.database)
        self.spaces = SpaceService(self.database)

    def configure(self, generation: int, space: ManagementSpace | None, cluster: str = "u-1") -> bool:
        self.conf = ControllerConf(
            controller_id="0",
            generation=generation,
            cluster_uuid=cluster,
            management_space=space,
            application=self.application,
        )
        return self.look()

    def look(self) -> bool:
        return jumpingloop.run(self.keeper.look())

    def do(self, step: Callable[[SqliteDatabase], Awaitable[_T]]) -> _T:
        return jumpingloop.run(self.database.run(step))

    def shown(self) -> tuple[str, dict[str, list[str]]]:
        """The setting, and the spaces with their subnets."""
        found = jumpingloop.run(self.spaces.all())
        return found.management_space, {s.name: list(s.subnets) for s in found.spaces if s.name != "alpha"}

    def operator_sets(self, space: str, *subnets: str) -> None:
        jumpingloop.run(self.spaces.set(space, subnets))
        jumpingloop.run(self.config.set({"juju-mgmt-space": space}))


NOTHING: tuple[str, dict[str, list[str]]] = ("", {})


def test_the_rows_follow_what_the_configuration_says_and_then_nothing_is_written():
    them = Rows()

    assert them.configure(3, MGMT)
    assert them.shown() == ("mgmt", {"mgmt": list(MGMT.subnets)})
    writes = them.database.writes
    assert not them.look()
    assert not them.do(lambda tx: spacekeeper.bring_in_line(tx, them.conf))
    assert them.database.writes == writes

    assert them.configure(4, ManagementSpace("mgmt", ("10.2.0.0/24",)))
    assert them.shown() == ("mgmt", {"mgmt": ["10.2.0.0/24"]})
    assert them.configure(5, ManagementSpace("other"))
    assert them.shown() == ("other", {"other": []}), "the space of the old name is gone; one without subnets is a space"
    assert them.configure(6, None)
    assert them.shown() == NOTHING


def test_a_set_without_the_option_is_the_operator_s_alone():
    them = Rows()
    them.operator_sets("blue", "10.1.0.0/24")
    writes = them.database.writes

    assert not them.configure(3, None)
    assert not them.configure(4, None)

    assert them.shown() == ("blue", {"blue": ["10.1.0.0/24"]})
    assert them.database.writes == writes


def test_the_option_overrules_what_an_operator_had_set_and_takes_its_subnets():
    them = Rows()
    them.operator_sets("blue", "10.1.0.0/24", "10.1.0.128/25", "10.7.0.0/16")

    them.configure(3, MGMT)

    assert them.shown() == ("mgmt", {"mgmt": list(MGMT.subnets), "blue": ["10.7.0.0/16"]})
    assert them.do(nodes.spaces).of("10.1.0.200") == "mgmt", "a narrower subnet would have kept it"


def test_what_somebody_changed_behind_its_back_is_put_right():
    them = Rows()
    them.configure(3, MGMT)
    them.database.sqlite.execute("DELETE FROM subnet")
    them.database.sqlite.execute("DELETE FROM controller_config WHERE \"key\" = 'juju-mgmt-space'")

    async def play() -> None:
        task = asyncio.create_task(them.keeper.run())
        await asyncio.sleep(12)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    jumpingloop.run(play())

    assert them.shown() == ("mgmt", {"mgmt": list(MGMT.subnets)})


def test_a_controller_whose_unit_lags_behind_undoes_nothing():
    them = Rows()
    them.configure(5, MGMT)

    assert not them.configure(4, None)
    assert not them.configure(4, ManagementSpace("old"))
    assert them.shown() == ("mgmt", {"mgmt": list(MGMT.subnets)})
    assert them.configure(6, None)
    assert not them.configure(5, MGMT)
    assert them.shown() == NOTHING


def test_another_cluster_s_generations_count_for_nothing():
    """As where a backup was restored into a new set of controllers."""
    them = Rows()
    them.configure(50, MGMT)

    assert them.configure(2, ManagementSpace("fresh"), cluster="u-2")

    assert them.shown() == ("fresh", {"fresh": []})


def test_whoever_else_would_set_the_space_is_refused_and_told_who_can():
    them = Rows()
    them.configure(3, MGMT)
    how = "`juju config ctl juju-mgmt-space=…`"
    refused = [
        (them.config.set({"juju-mgmt-space": "blue"}), how),
        (them.config.set({"juju-mgmt-space": ""}), how),
        (them.config.set({"juju-mgmt-space": "blue", "local-provider": "http://h:1"}), how),
        (them.spaces.set("mgmt", ("10.9.0.0/24",)), "juju bind ctl management="),
        (them.spaces.remove("mgmt"), how),
        (them.spaces.set("blue", ("10.9.0.0/24", "10.1.0.0/24")), "10.1.0.0/24 is of space mgmt"),
        (them.spaces.set("blue", ("fd00:1::/96",)), "fd00:1::/96 is of space mgmt"),
    ]

    for asked, named in refused:
        with pytest.raises(errors.Refused, match="the charm's option juju-mgmt-space") as error:
            jumpingloop.run(asked)
        assert named in str(error.value)

    assert them.shown() == ("mgmt", {"mgmt": list(MGMT.subnets)})
    assert jumpingloop.run(them.config.all())["local-provider"] == "", "all of a request, or nothing of it"


def test_a_configuration_that_does_not_name_the_application_leaves_a_place_for_it():
    them = Rows()
    them.application = ""
    them.configure(3, MGMT)

    with pytest.raises(errors.Refused, match="juju config <application> juju-mgmt-space="):
        jumpingloop.run(them.config.set({"juju-mgmt-space": ""}))

    them.application = "ctl"  # The unit was refreshed to a charm that says it.
    assert them.configure(3, MGMT)
    assert not them.look()
    with pytest.raises(errors.Refused, match="juju config ctl juju-mgmt-space="):
        jumpingloop.run(them.config.set({"juju-mgmt-space": ""}))


def test_what_is_not_the_charm_s_may_still_be_set_and_all_of_it_once_the_option_is_unset():
    them = Rows()
    them.configure(3, MGMT)

    jumpingloop.run(them.config.set({"local-provider": "http://h:1"}))
    jumpingloop.run(them.spaces.set("wide", ("10.0.0.0/8",)))
    assert them.do(nodes.spaces).of("10.1.0.7") == "mgmt", "the charm's subnet is narrower"
    jumpingloop.run(them.spaces.remove("wide"))
    with pytest.raises(errors.Refused, match="no subnet"):
        jumpingloop.run(them.spaces.set("bad", ("10.1.0.1/24",)))

    them.configure(4, None)
    them.operator_sets("mgmt", "10.1.0.0/24")
    assert them.shown() == ("mgmt", {"mgmt": ["10.1.0.0/24"]})


def test_the_mark_is_no_setting():
    them = Rows()
    them.configure(3, MGMT)

    assert set(jumpingloop.run(them.config.all())) == {"local-provider", "juju-mgmt-space"}
    assert jumpingloop.run(them.spaces.all()).charm_space == "mgmt"
    with pytest.raises(errors.Refused, match="there is no setting"):
        jumpingloop.run(them.config.set({"charm-space": ""}))
    assert them.do(charmspace.mark).space == "mgmt"


def test_it_goes_on_after_an_error_and_waits_for_a_configuration():
    them = Rows()

    async def play() -> None:
        task = asyncio.create_task(them.keeper.run())
        await asyncio.sleep(3)
        them.conf = ControllerConf(controller_id="0", generation=1, management_space=MGMT)
        them.database.trouble = errors.NotReady("no leader")
        await asyncio.sleep(1)
        assert them.keeper.report()["problem"] == "no leader"
        await asyncio.sleep(1)
        assert them.keeper.report() == {"space": "mgmt (10.1.0.0/24, fd00:1::/64)", "changes": 1, "problem": ""}
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    jumpingloop.run(play())

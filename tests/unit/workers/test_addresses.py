"""The reporter and the address setter, on rows: what is written, what is not, and who is woken."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

import jumpingloop
from controller.api import nodes
from controller.api.nodes import BadSpace, Published
from controller.workers.addressreporter import AddressReporter
from controller.workers.addresssetter import AddressSetter
from dbaccessor import errors
from sqlitedatabase import SqliteDatabase

LIB = Path(__file__).parents[3] / "lib"
PATCHES = (
    LIB / "dbaccessor/schema/0001-controller.sql",
    LIB / "controller/schema/controller/0001-models.sql",
    LIB / "controller/schema/controller/0002-api-addresses.sql",
)
_T = TypeVar("_T")


class Controllers:
    """A database with members, and what one does to it."""

    def __init__(self, *members: str) -> None:
        self.database = SqliteDatabase(*PATCHES)
        self.setter = AddressSetter(self.database, 17070)
        for number in members:
            self.join(number)

    def join(self, number: str) -> None:
        self.database.sqlite.execute(
            "INSERT INTO controller_node (controller_id, dqlite_node_id, name, dqlite_bind_address, generation)"
            " VALUES (?, ?, ?, ?, 1)",
            (number, f"7{number}", f"controller-{number}-7{number}", f"10.0.0.{number}"),
        )

    def leave(self, number: str) -> None:
        self.database.sqlite.execute("DELETE FROM controller_node WHERE controller_id = ?", (number,))

    def set(self, space: str) -> None:
        self.database.sqlite.execute(
            'INSERT INTO controller_config ("key", value) VALUES (?, ?) ON CONFLICT ("key") DO UPDATE SET value = ?',
            (nodes.MANAGEMENT_SPACE, space, space),
        )

    def do(self, step: Callable[[SqliteDatabase], Awaitable[_T]]) -> _T:
        return jumpingloop.run(self.database.run(step))

    def report(self, number: str, *addresses: str, port: int = 17070) -> bool:
        return self.do(lambda tx: nodes.report(tx, number, addresses, port))

    def look(self) -> bool:
        return jumpingloop.run(self.setter.look())

    def published(self, audience: str) -> Published | None:
        return self.do(lambda tx: nodes.published(tx, audience))

    def list(self, audience: str) -> dict[str, list[str]]:
        found = self.published(audience)
        assert found is not None
        return {s.controller_id: [str(server) for server in s.servers] for s in found.servers}

    def told(self) -> int:
        """How often those who watch were told."""
        found = self.database.sqlite.execute("SELECT count FROM change_counter WHERE subject = ?", (nodes.SUBJECT,))
        return int(found.fetchone()[0])

    def revisions(self) -> tuple[int, int]:
        found = [self.published(audience) for audience in (nodes.AGENTS, nodes.CLIENTS)]
        assert all(found)
        return tuple(f.revision for f in found)


def test_both_lists_are_published_and_then_nothing_is_written_for_nothing():
    them = Controllers("1", "2")
    them.report("1", "10.1.0.1", "8.8.8.8")

    assert them.look()

    assert them.list(nodes.AGENTS) == {"1": ["10.1.0.1:17070", "8.8.8.8:17070"], "2": ["10.0.0.2:17070"]}
    assert them.list(nodes.CLIENTS) == {"1": ["8.8.8.8:17070", "10.1.0.1:17070"], "2": ["10.0.0.2:17070"]}
    writes = them.database.writes
    assert not them.look()
    assert not them.report("1", "8.8.8.8", "10.1.0.1")
    assert not them.look()
    assert them.database.writes == writes
    assert them.revisions() == (1, 1)


def test_a_new_address_raises_the_revision_of_both():
    them = Controllers("1")
    them.look()

    them.report("1", "10.0.0.1", "10.0.0.100")
    them.look()

    assert them.revisions() == (2, 2)


def test_the_management_space_set_changed_and_unset_moves_the_agents_list_alone():
    them = Controllers("1", "2")
    them.report("1", "10.0.0.1", "10.1.0.1", "10.2.0.1")
    them.report("2", "10.0.0.2", "10.1.0.2")
    them.do(lambda tx: nodes.set_space(tx, "blue", ["10.1.0.0/16"]))
    them.do(lambda tx: nodes.set_space(tx, "red", ["10.2.0.0/16"]))
    them.look()
    everything = them.list(nodes.AGENTS)

    them.set("blue")
    them.look()
    assert them.list(nodes.AGENTS) == {"1": ["10.1.0.1:17070"], "2": ["10.1.0.2:17070"]}
    assert them.setter.report()["notes"] == []

    them.set("red")
    them.look()
    assert them.list(nodes.AGENTS) == {"1": ["10.2.0.1:17070"], "2": ["10.0.0.2:17070", "10.1.0.2:17070"]}
    (note,) = them.setter.report()["notes"]
    assert "controller 2 has no address in juju-mgmt-space red" in note
    assert them.setter.report()["fallbacks"] == ["2"]
    assert them.published(nodes.AGENTS).notes == (note,)

    them.set("nowhere")
    them.look()
    assert them.list(nodes.AGENTS) == everything
    (note,) = them.setter.report()["notes"]
    assert "no space has that name" in note

    revision, _ = them.revisions()
    told = them.told()
    them.set("")
    them.look()
    assert them.list(nodes.AGENTS) == everything
    assert them.published(nodes.AGENTS).notes == ()
    assert them.told() == told
    assert them.revisions() == (revision, 1), "the list is the same, so nobody is woken; clients' never moved"


def test_a_member_that_left_is_in_no_list_and_its_rows_go():
    them = Controllers("1", "2")
    them.report("2", "10.0.0.2", "10.7.0.2")
    them.look()

    them.leave("2")
    them.look()

    assert them.list(nodes.AGENTS) == {"1": ["10.0.0.1:17070"]}
    assert them.database.sqlite.execute("SELECT count(*) FROM controller_api_address").fetchone() == (0,)
    assert not them.report("2", "10.0.0.2"), "one that was removed and does not know it yet reports nothing"


def test_a_member_that_reports_nothing_any_more_keeps_what_it_reported():
    them = Controllers("1")
    them.report("1", "10.5.0.1")

    assert not them.report("1")
    them.look()

    assert them.list(nodes.AGENTS) == {"1": ["10.5.0.1:17070"]}


def test_an_incomplete_discovery_leaves_the_last_list_published():
    them = Controllers("1")
    them.look()
    before = them.list(nodes.AGENTS)

    them.leave("1")
    assert not them.look()

    assert them.list(nodes.AGENTS) == before
    assert "the last list stays published" in them.setter.report()["notes"][0]


def test_spaces_take_subnets_from_one_another_and_bad_ones_are_named():
    them = Controllers("1")
    assert them.do(lambda tx: nodes.set_space(tx, "blue", ["10.1.0.0/16", "fd00::/64"]))
    assert not them.do(lambda tx: nodes.set_space(tx, "blue", ["fd00::/64", "10.1.0.0/16"]))
    assert them.do(lambda tx: nodes.set_space(tx, "red", ["10.1.0.0/16"]))
    spaces = them.do(nodes.spaces)
    assert (spaces.of("10.1.0.1"), spaces.of("fd00::1"), spaces.of("10.2.0.1")) == ("red", "blue", "alpha")

    for name, subnets, named in [
        ("blue", ["10.1.0.1/16"], "10.1.0.1/16"),
        ("blue", ["here"], "'here' is no subnet"),
        ("alpha", ["10.1.0.0/16"], "'alpha' cannot be made"),
        ("", [], "'' is no name of a space"),
        ("My Net", ["10.1.0.0/16"], "'My Net' is no name of a space"),  # It could never be the management space.
    ]:
        with pytest.raises(BadSpace, match=named):
            them.do(lambda tx, n=name, s=subnets: nodes.set_space(tx, n, s))
    assert them.do(nodes.spaces) == spaces

    assert them.do(lambda tx: nodes.set_space(tx, "blue", [])), "a space without subnets is still a space"
    assert them.do(nodes.spaces).knows("blue")
    assert them.do(lambda tx: nodes.remove_space(tx, "red"))
    assert not them.do(lambda tx: nodes.remove_space(tx, "red"))
    assert them.do(nodes.spaces).of("10.1.0.1") == "alpha"


def test_the_setter_goes_on_after_an_error_of_the_database_and_says_it_once(caplog: pytest.LogCaptureFixture):
    them = Controllers("1")

    async def play() -> None:
        task = asyncio.create_task(them.setter.run())
        them.database.trouble = errors.NotReady("no leader")
        await asyncio.sleep(0.5)
        assert them.setter.report()["problem"] == "no leader"
        await asyncio.sleep(1)
        assert (them.setter.report()["problem"], them.setter.report()["published"]) == ("", 1)
        them.join("2")
        them.setter.nudge()
        await asyncio.sleep(0.01)
        assert them.setter.report()["published"] == 2, "a nudge does not wait for the next look"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    jumpingloop.run(play())

    assert [r.message for r in caplog.records if "no leader" in r.message] == [
        "the lists of addresses stay as they are: no leader"
    ]


class Fenced(Exception):
    """As the leases raise it: another holder has raised the fence."""


def test_a_setter_that_is_not_responsible_any_more_ends():
    them = Controllers("1")
    them.database.trouble = Fenced("another holder")

    with pytest.raises(Fenced):
        jumpingloop.run(them.setter.run())

    assert them.published(nodes.AGENTS) is None


def test_the_reporter_writes_when_the_network_changes_and_looks_after_its_rows():
    them = Controllers("1")
    own: list[str] = ["10.0.0.1"]
    asked = 0

    def addresses() -> tuple[tuple[str, ...], int]:
        nonlocal asked
        asked += 1
        if own == ["error"]:
            raise OSError("the kernel does not answer")
        return tuple(sorted(own)), 17070

    reporter = AddressReporter(them.database, "1", addresses)

    def rows() -> list[str]:
        return [r[0] for r in them.database.sqlite.execute("SELECT address FROM controller_api_address ORDER BY 1")]

    async def play() -> None:
        task = asyncio.create_task(reporter.run())
        await asyncio.sleep(5.5)
        assert (rows(), them.database.writes, asked) == (["10.0.0.1"], 1, 6)
        own[:] = ["10.0.0.9", "10.0.0.8"]
        await asyncio.sleep(1)
        assert rows() == ["10.0.0.8", "10.0.0.9"]
        own[:] = []
        await asyncio.sleep(1)
        assert rows() == ["10.0.0.8", "10.0.0.9"], "a network that is away for a moment is no news"
        own[:] = ["error"]
        await asyncio.sleep(1)
        assert reporter.report()["problem"] == "the kernel does not answer"
        own[:] = ["10.0.0.8", "10.0.0.9"]
        them.database.sqlite.execute("DELETE FROM controller_api_address")
        await asyncio.sleep(40)
        assert rows() == ["10.0.0.8", "10.0.0.9"]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    jumpingloop.run(play())

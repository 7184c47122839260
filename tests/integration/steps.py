"""The steps, in their order, each beginning where the one before it ended. Written once, for every backend."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from cluster import APP, Cluster, CommandFailed, View


async def deploy_makes_one_controller_that_says_it_is_not_ha(cluster: Cluster, charm: Path) -> None:
    await cluster.deploy(charm)

    view = await cluster.wait(lambda v: v.all_active(1), "one active unit", 1200)
    assert view.version.startswith("1.")
    assert "not HA" in view.app_message
    results = await cluster.get_cluster(f"{APP}/0")
    assert (results["members"], results["voters"], results["ha"], results["health"]) == ("1", "1", "false", "healthy")


async def two_more_units_make_three_voters_of_one_cluster(cluster: Cluster, _: Path) -> None:
    await cluster.add_units(2)

    view = await cluster.wait(lambda v: v.all_active(3) and "3 voters" in v.app_message, "three voters", 1200)
    told = [await cluster.get_cluster(name) for name in sorted(view.units)]
    assert len({results["cluster-uuid"] for results in told}) == 1
    assert len({results["leader"] for results in told}) == 1
    assert {(results["ha"], results["may-lose"]) for results in told} == {("true", "1")}


async def a_killed_leader_is_replaced_and_comes_back(cluster: Cluster, _: Path) -> None:
    killed, since = await _leader(cluster)

    await cluster.kill(killed)

    await _until(
        cluster,
        killed,
        lambda s: s["state"] == "serving" and s["since"] != since and s["cluster"]["health"] == "healthy",
        "it serves anew, in a healthy cluster",
    )
    await cluster.wait(lambda v: v.all_active(3), "all three active")
    told = [await cluster.get_cluster(name) for name in sorted((await cluster.view()).units)]
    assert {results["members"] for results in told} == {"3"}
    assert len({results["leader"] for results in told}) == 1


async def a_unit_with_two_addresses_is_blocked_until_bound_and_nobody_else_minds(cluster: Cluster, _: Path) -> None:
    known = set((await cluster.view()).units)
    space = await cluster.add_unit_with_two_addresses()

    def is_blocked(view: View) -> bool:
        return any(u.status == "blocked" for name, u in view.units.items() if name not in known)

    view = await cluster.wait(is_blocked, "the new unit is blocked", 1200)
    (blocked,) = (u for name, u in view.units.items() if name not in known)
    assert blocked.message.startswith("several local-cloud addresses: ")
    assert f"run `juju bind {APP} db-cluster=<space>`" in blocked.message
    assert all(view.units[name].status == "active" for name in known)

    await cluster.bind(space)
    await cluster.wait(lambda v: v.all_active(4), "all four active, without a further word", 900)


async def units_removed_in_order_leave_one_writable_controller_of_the_same_cluster(cluster: Cluster, _: Path) -> None:
    uuid = (await cluster.get_cluster(f"{APP}/0"))["cluster-uuid"]
    for leaving in sorted((await cluster.view()).units, reverse=True)[:-1]:
        left = len((await cluster.view()).units) - 1
        await cluster.remove_unit(leaving)
        await cluster.wait(lambda v, left=left: v.all_active(left), f"{left} left and active", 900)
        await _until(
            cluster,
            f"{APP}/0",
            lambda s, left=left: len(s["cluster"]["members"]) == left and s["cluster"]["leader"] is not None,
            f"{left} members",
        )

    results = await cluster.get_cluster(f"{APP}/0")
    assert (results["cluster-uuid"], results["members"], results["voters"]) == (uuid, "1", "1")
    assert results["epoch"] == "1"  # Nobody was left behind: no reconfiguration was forced.


Step = Callable[[Cluster, Path], Awaitable[None]]
ALL: tuple[Step, ...] = (
    deploy_makes_one_controller_that_says_it_is_not_ha,
    two_more_units_make_three_voters_of_one_cluster,
    a_killed_leader_is_replaced_and_comes_back,
    a_unit_with_two_addresses_is_blocked_until_bound_and_nobody_else_minds,
    units_removed_in_order_leave_one_writable_controller_of_the_same_cluster,
)


async def _leader(cluster: Cluster) -> tuple[str, str]:
    """The unit whose node leads, and since when it serves."""
    for name in (await cluster.view()).units:
        results = await cluster.get_cluster(name)
        if results["status"]["controller-id"] == results["leader"]:
            return name, results["status"]["since"]
    raise AssertionError("no unit leads")


async def _until(cluster: Cluster, unit: str, fits: Callable[[dict[str, Any]], bool], what: str) -> None:
    """Wait until controllerd on this unit says so; juju status may be a hook behind."""
    seen = "nothing yet"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        try:
            status = (await cluster.get_cluster(unit))["status"]
        except CommandFailed as why:  # It may be down at this moment.
            seen = str(why)
        else:
            seen = json.dumps(status)
            if status["cluster"] is not None and fits(status):
                return
        await asyncio.sleep(1)
    raise AssertionError(f"{what} on {unit}: {seen}")

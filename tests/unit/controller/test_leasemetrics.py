"""What is counted of leases, off the report of a manager that really did it, and that the reference names all of it."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

import jumpingloop
from controller import leasemetrics
from controller.leases import Denied, Key, Manager
from controller.leases import timing as timings
from controller.leases.clock import Clock
from controller.leases.keeper import LOSSES
from dbaccessor.identity import Epoch
from leasetable import MemoryStore, Table

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "metrics.md"
TIMING = timings.for_latency(10)
DURATION = TIMING.duration_seconds


def key(name: str) -> Key:
    return Key("singular-controller", name, name)


def manager_of(table: Table, holder: str) -> tuple[Manager, MemoryStore]:
    loop = asyncio.get_running_loop()
    store, clock = MemoryStore(table, 0.001), Clock(lambda: 1000 + loop.time(), lambda: 50 + loop.time(), lambda: 1.7e9)
    return Manager(store, holder, lambda: Epoch(0, ""), timing=TIMING, clock=clock), store


def page(manager: Manager | None) -> dict[tuple[str, ...], float]:
    """What Prometheus would read."""
    told: dict[str, Any] = {"state": "started", **({} if manager is None else {"report": manager.report()})}

    class Registry:
        def collect(self):
            return leasemetrics.collect({"manifolds": {"lease-manager": told}})

    text = generate_latest(Registry()).decode()  # type: ignore[arg-type]
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture(scope="module")
def told() -> dict[tuple[str, ...], float]:
    """The page of a manager that claimed three, extended and gave up one, was denied one, and took that one over."""

    async def story() -> dict[tuple[str, ...], float]:
        table = Table()
        (mine, store), (theirs, other) = manager_of(table, "0"), manager_of(table, "1")
        running = [asyncio.create_task(each.run()) for each in (mine, theirs)]
        for name in "abc":
            await mine.claim(key(name), DURATION)
        await mine.claim(key("a"), 2 * DURATION)
        await mine.revoke(key("a"))
        await theirs.claim(key("x"), DURATION)
        with pytest.raises(Denied):
            await mine.claim(key("x"), DURATION)
        other.cut = True
        running[1].cancel()
        await mine.wait_until_free(key("x"))
        await mine.claim(key("x"), DURATION)
        # Lost in each of the ways.
        del table.rows[key("b")]
        await asyncio.sleep(2)
        mine.held(key("c")).end("c of 0.1 met the fence of controller 7, 0.9")  # type: ignore[union-attr]
        await asyncio.sleep(2)
        store.cut = True
        await asyncio.sleep(DURATION)
        found = page(mine)
        running[0].cancel()
        return found

    return jumpingloop.run(story())


def test_what_was_claimed_kept_given_up_and_taken_over_is_counted(told: dict[tuple[str, ...], float]):
    name = "ha_controller_lease_"
    assert told[name + "claims_total", "granted"] == 4
    assert told[name + "claims_total", "denied"] == 1
    assert told[name + "extensions_total",] == 1
    assert told[name + "revocations_total",] == 1
    assert told[name + "renewals_total", "done"] > 5
    assert told[name + "renewals_total", "failed"] >= 1
    assert told[name + "lookups_total", "done"] > 10
    assert told[name + "lookups_total", "failed"] >= 1
    assert told[name + "held",] == 0
    assert 0 < told[name + "least_seconds_left",] < DURATION


def test_each_loss_is_counted_by_its_reason(told: dict[tuple[str, ...], float]):
    lost = {kind: told["ha_controller_lease_losses_total", kind] for kind in LOSSES}

    assert lost == {"late": 1, "taken-over": 0, "freed": 1, "fenced": 1}


def test_the_time_to_take_over_is_a_histogram_around_the_duration(told: dict[tuple[str, ...], float]):
    name = "ha_controller_lease_takeover_seconds"

    assert told[name + "_count",] == 1
    assert DURATION <= told[name + "_sum",] <= DURATION + TIMING.poll_seconds + 0.1
    assert told[name + "_bucket", "4.0"] == 0
    assert told[name + "_bucket", "5.5"] == told[name + "_bucket", "+Inf"] == 1


def test_a_holder_that_finds_another_in_its_row_has_lost_it_to_that_one():
    async def story() -> None:
        table = Table()
        manager, store = manager_of(table, "0")
        running = asyncio.create_task(manager.run())
        await manager.claim(key("a"), DURATION)
        other, _ = manager_of(table, "1")
        # As after a recovery of the cluster from older data: another holds what this one renews still.
        row, changed = table.rows[key("a")]
        attempt = other._attempt(key("a"), row, row.duration_ms)
        table.rows[key("a")] = attempt.row, changed + 1
        await asyncio.sleep(2)
        assert page(manager)["ha_controller_lease_losses_total", "taken-over"] == 1
        running.cancel()
        store.cut = True

    jumpingloop.run(story())


def test_where_no_manager_runs_nothing_is_told():
    assert page(None) == {}


def test_every_series_has_its_line_in_the_reference_and_the_reference_names_no_other(
    told: dict[tuple[str, ...], float],
):
    documented = set(re.findall(r"^\| `(ha_controller_lease_\w+)`", PAGE.read_text(), re.MULTILINE))

    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name, *_ in told} == documented

"""What is counted, under which names, and that nothing of it grows or costs without bound."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dbaccessor import dbmetrics, errors
from dbaccessor.database import Database, Transaction
from dbaccessor.metrics import Metrics
from fakenode import FakeNode, failure, obliging

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "metrics.md"


def member(controller_id: str, role: str = "voter", **changes: Any) -> dict[str, Any]:
    return {
        "controller-id": controller_id,
        "dqlite-id": 1000 + int(controller_id),
        "address": f"10.6.6.1{controller_id}:17666",
        "role": role,
        "leader": controller_id == "0",
        "answers": True,
        "here": controller_id == "1",
    } | changes


def status(*members: dict[str, Any], leader: str | None = "0", may_lose: int = 1, **changes: Any) -> dict[str, Any]:
    cluster = {
        "leader": leader,
        "may-lose": may_lose,
        "epoch": {"number": 3, "tag": "9f"},
        "dropped": ["2"],
        "members": list(members),
    }
    return {
        "controller-id": "1",
        "version": "0.1.0",
        "dqlite-version": "1.18.7",
        "dqlite-proven": True,
        "state": "serving",
        "reason": "as told",
        "waits": [{"for": "address", "since": "", "reason": "", "remedy": ""}],
        "conf": {"generation": 7, "problem": None},
        "leader-changes": 2,
        "ready-seconds": 1.5,
        "log-frames": 900,
        "last-handover": {"result": "done", "seconds": 0.25, "at": ""},
        "cluster": cluster if members else None,
    } | changes


def page(counted: Metrics, document: dict[str, Any] | None = None) -> dict[tuple[str, ...], float]:
    """Read the page as Prometheus does: (name, label=value, …) -> number."""
    text = counted.text(document if document is not None else status()).decode()
    return {
        (sample.name, *(f"{key}={value}" for key, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def names(found: dict[tuple[str, ...], float], namespace: str) -> set[tuple[str, ...]]:
    return {key for key in found if f"namespace={namespace}" in key}


def test_requests_are_counted_by_how_they_ended():
    counted = Metrics()
    space = counted.namespace("controller")
    endings: list[BaseException | None] = [
        None,
        None,
        errors.NotReady("x"),
        errors.NotLeader("x"),
        errors.Indefinite("x"),
        errors.Refused("x"),
        ZeroDivisionError(),
        asyncio.CancelledError(),
    ]
    for ending in endings:
        # Measuring swallows nothing.
        outcome = contextlib.nullcontext() if ending is None else pytest.raises(type(ending))
        with outcome, space.request() as request:
            request.attempt()
            assert page(counted)["juju_db_requests_total", "namespace=controller"] == 1
            if ending is not None:
                raise ending

    found = page(counted)
    assert found["juju_db_requests_total", "namespace=controller"] == 0
    assert found["juju_db_success_total", "namespace=controller"] == 2
    assert found["juju_db_txn_requests_total", "namespace=controller"] == 8
    assert found["juju_db_txn_retries_total", "namespace=controller"] == 0
    assert {
        error: found["juju_db_errors_total", f"error={error}", "namespace=controller"]
        for error in ("retryable", "indefinite", "refused", "unknown")
    } == {"retryable": 2, "indefinite": 1, "refused": 1, "unknown": 2}
    assert found["juju_db_duration_seconds_count", "namespace=controller", "result=success"] == 2
    assert found["juju_db_duration_seconds_count", "namespace=controller", "result=error"] == 6


def test_a_request_that_told_its_error_without_raising_it_counts_as_ended_in_that():
    space = Metrics().namespace("controller")
    refused, lost, late = errors.Refused("x"), errors.Indefinite("x"), errors.NotReady("x")
    for told in ((refused, late), (late, refused), (refused, lost), (lost, refused)):
        with space.request() as request:
            for error in told:
                request.fail(error)
            assert request.failed
    assert space.success == 0
    assert space.errors == {"retryable": 1, "indefinite": 2, "refused": 1, "unknown": 0}
    assert sum(space.failed.counts) == 4


def test_a_database_counts_its_transactions_reads_retries_and_connections():
    async def play() -> None:
        counted = Metrics()
        busy = 2

        def script(asked: Any) -> object:
            nonlocal busy
            if asked.text == "BEGIN IMMEDIATE" and busy:
                busy -= 1
                return failure(5, "database is locked")
            return obliging(asked)

        async with FakeNode(script) as node:
            database = Database(node, "data").measure(counted.namespace("data"))

            async def write(transaction: Transaction) -> None:
                assert page(counted)["juju_db_requests_total", "namespace=data"] == 1
                await transaction.execute("DELETE FROM t")

            await database.run(write)
            await database.read("SELECT 1")
            database.close()

        found = page(counted)
        assert found["juju_db_requests_total", "namespace=data"] == 0
        assert found["juju_db_success_total", "namespace=data"] == 2
        assert found["juju_db_txn_requests_total", "namespace=data"] == 4
        assert found["juju_db_txn_retries_total", "namespace=data"] == 2
        assert found["ha_controller_db_connections_total", "namespace=data"] == len(node.connections)
        report = counted.databases()["data"]
        assert report["last-ping-attempts"] == 1
        # Each busy BEGIN ended its connection; the last two were given back for good, by close().
        assert report["db-replacements"] == 2
        assert re.fullmatch(r"\d+\.\d{3}m?s", report["max-ping-duration"])

    asyncio.run(play())


def test_a_read_that_is_none_is_refused_at_once_and_counted():
    async def play() -> None:
        counted = Metrics()
        async with FakeNode() as node:
            database = Database(node, "data").measure(counted.namespace("data"))
            with pytest.raises(errors.Refused, match="DELETE yields no rows"):
                await database.read("DELETE FROM t")
            database.close()
        assert page(counted)["juju_db_errors_total", "error=refused", "namespace=data"] == 1
        assert not node.asked

    asyncio.run(play())


def test_those_that_wait_for_their_turn_are_the_queue():
    async def play() -> None:
        counted = Metrics()
        async with FakeNode() as node:
            database = Database(node, "data").measure(counted.namespace("data"))

            async def begin() -> None:
                async with database.transaction():
                    pass

            async with database.transaction():
                waiting = [asyncio.create_task(begin()) for _ in range(3)]
                while page(counted)["ha_controller_db_queue_length", "namespace=data"] < 3:
                    await asyncio.sleep(0)
                assert page(counted)["juju_db_requests_total", "namespace=data"] == 4
            await asyncio.gather(*waiting)
            database.close()
        assert page(counted)["ha_controller_db_queue_length", "namespace=data"] == 0

    asyncio.run(play())


def test_a_forgotten_namespace_leaves_no_series_and_what_still_runs_in_it_does_no_harm():
    counted = Metrics()
    counted.namespace("kept")
    before = set(page(counted))
    for number in range(3):
        gone = counted.namespace(f"gone-{number}")
        with gone.request() as request:
            request.attempt()
            counted.forget(f"gone-{number}")
    counted.forget("never there")

    assert set(page(counted)) == before
    assert list(counted.databases()) == ["kept"]


def test_the_same_name_has_the_same_counts():
    counted = Metrics()

    assert counted.namespace("a") is counted.namespace("a")


def test_two_workers_count_apart():
    one, other = Metrics(), Metrics()
    one.refused("epoch")

    assert page(one)["ha_controller_db_connections_refused_total", "reason=epoch"] == 1
    assert ("ha_controller_db_connections_refused_total", "reason=epoch") not in page(other)


def test_confirmations_are_counted():
    counted = Metrics()
    for result in ("beside", "unconfirmed", "beside", "after"):
        counted.confirmed(result)

    found = page(counted)
    assert found["ha_controller_db_confirm_rounds_total", "result=beside"] == 2
    assert found["ha_controller_db_confirm_rounds_total", "result=unconfirmed"] == 1
    assert found["ha_controller_db_confirm_rounds_total", "result=after"] == 1


def test_actions_are_counted_as_done_or_failed():
    counted = Metrics()
    with counted.action("PutAside"):
        pass
    with pytest.raises(OSError), counted.action("PutAside"):
        raise OSError
    found = page(counted)

    assert found["ha_controller_db_actions_total", "action=put-aside", "result=done"] == 1
    assert found["ha_controller_db_actions_total", "action=put-aside", "result=failed"] == 1
    assert found["ha_controller_db_actions_total", "action=reconfigure", "result=done"] == 0


def test_the_state_of_a_healthy_cluster():
    found = page(Metrics(), status(member("0"), member("1"), member("2", answers=False), member("3", "stand-by")))

    expected = {
        ("ha_controller_info", "controller_id=1", "dqlite_version=1.18.7", "version=0.1.0"): 1,
        ("ha_controller_dqlite_proven",): 1,
        ("ha_controller_state", "state=serving"): 1,
        ("ha_controller_state", "state=waiting"): 0,
        ("ha_controller_waiting", "topic=address"): 1,
        ("ha_controller_conf_generation",): 7,
        ("ha_controller_conf_problem",): 0,
        ("ha_controller_db_leader_changes_total",): 2,
        ("ha_controller_db_ready_seconds",): 1.5,
        ("ha_controller_db_log_frames",): 900,
        ("ha_controller_db_last_handover_seconds", "result=done"): 0.25,
        ("ha_controller_db_role", "role=voter"): 1,
        ("ha_controller_db_role", "role=spare"): 0,
        ("ha_controller_db_members", "role=voter"): 3,
        ("ha_controller_db_members", "role=stand-by"): 1,
        ("ha_controller_db_members", "role=spare"): 0,
        ("ha_controller_db_members_answering",): 3,
        ("ha_controller_db_has_leader",): 1,
        ("ha_controller_db_leading",): 0,
        ("ha_controller_db_quorum_margin",): 1,
        ("ha_controller_db_epoch",): 3,
        ("ha_controller_db_dropped",): 1,
    }
    assert expected.items() <= found.items()


@pytest.mark.parametrize(
    ("document", "margin"),
    [
        (status(member("0"), member("1"), may_lose=0), 0),
        (status(member("0"), member("1"), may_lose=0, leader=None), -1),
        (status(), -1),
    ],
)
def test_a_lost_quorum_is_told_from_one_that_has_none_to_spare(document: dict[str, Any], margin: int):
    assert page(Metrics(), document)["ha_controller_db_quorum_margin",] == margin


def test_what_is_not_known_yet_is_left_out():
    found = page(Metrics(), status(**{"ready-seconds": None, "last-handover": None, "log-frames": None}))

    assert ("ha_controller_db_ready_seconds",) not in found
    assert ("ha_controller_db_log_frames",) not in found
    assert not any(key[0] == "ha_controller_db_last_handover_seconds" for key in found)


def test_every_series_has_its_line_in_the_reference_and_the_reference_names_no_other():
    counted = Metrics()
    counted.namespace("data")
    counted.refused("epoch")
    found = {re.sub(r"_(bucket|count|sum)$", "", key[0]) for key in page(counted, status(member("1")))}
    documented = set(re.findall(r"^\| `((?:juju|ha_controller)\w+)`", PAGE.read_text(), re.MULTILINE))

    # What is counted above this package has its own test.
    above = ("ha_controller_engine_", "ha_controller_api_", "ha_controller_lease_", "ha_controller_machine")
    assert found == {name for name in documented if not name.startswith(above)}


def test_measuring_a_request_costs_little_beside_the_fastest_one():
    """A read beside the leader takes 100 µs. The median of many, so that a busy machine does not decide."""
    space = Metrics().namespace("data")
    took: list[float] = []
    for _ in range(2000):
        started = time.perf_counter()
        with space.request() as request:
            request.attempt()
            request.answered()
        took.append(time.perf_counter() - started)

    assert sorted(took)[len(took) // 2] < 50e-6


def test_durations_are_written_with_their_unit():
    assert dbmetrics._duration(0.0012345) == "1.234ms"
    assert dbmetrics._duration(12.5) == "12.500s"

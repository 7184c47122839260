"""Models on three real controllers: made and destroyed by whoever comes first, and each the work of exactly one."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

import hactl
from loopback import Cluster

PROMISED_SECONDS = 5.0


def engines(cluster: Cluster, n: int) -> dict[str, Any]:
    """The reports of the engines of models, by the model's name; {} while there is none."""
    try:
        report = cluster.request(n, "GET", "/report")[1]
    except ConnectionError:
        return {}
    told = report["manifolds"]["model-worker-manager"].get("report") or {"models": {}}
    return {engine["name"]: engine for engine in told["models"].values()}


def holds(cluster: Cluster, n: int, model: str) -> bool:
    engine = engines(cluster, n).get(model, {"manifolds": {}})
    flag = engine["manifolds"].get("is-responsible", {}).get("report") or {}
    return bool(flag.get("holds"))


def holders(cluster: Cluster, model: str, *numbers: int) -> list[int]:
    return [n for n in numbers if holds(cluster, n, model)]


def databases(cluster: Cluster, n: int) -> list[str]:
    found: list[str] = cluster.request(n, "GET", "/databases")[1]["databases"]
    return found


def leases(cluster: Cluster, n: int) -> dict[str, dict[str, Any]]:
    """The rows of the table, by the uuid of the model."""
    question = {"namespace": "leases", "sql": "SELECT model, holder, token_epoch, token_count FROM lease"}
    rows = cluster.request(n, "POST", "/sql", document=question)[1]["rows"]
    return {model: {"holder": holder, "token": (epoch, count)} for model, holder, epoch, count in rows}


def models(cluster: Cluster, n: int) -> dict[str, dict[str, Any]]:
    return {model["name"]: model for model in hactl.ask(cluster.state_dir(n), "models")["models"]}


@pytest.fixture
def three(cluster: Cluster) -> Cluster:
    cluster.form(3)
    cluster.wait(lambda: all("controller" in engines(cluster, n) for n in range(3)), "all know their own model")
    cluster.wait(lambda: len(holders(cluster, "controller", 0, 1, 2)) == 1, "one is responsible for it")
    return cluster


def test_the_controllers_own_model_is_there_from_the_beginning_and_stays(cluster: Cluster):
    cluster.form(1)
    cluster.wait(lambda: holds(cluster, 0, "controller"), "it is responsible")

    uuid = models(cluster, 0)["controller"]["uuid"]
    assert f"model-{uuid}" in databases(cluster, 0)
    done = hactl.run(cluster.state_dir(0), "destroy-model", "--yes", "controller")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "hactl: the model controller is the controllers' own: it is there as long as they are\n"

    assert cluster.terminate(0) == 0
    cluster.start(0)
    cluster.wait(lambda: holds(cluster, 0, "controller"), "it is responsible again")
    assert models(cluster, 0)["controller"]["uuid"] == uuid


def test_models_are_added_listed_and_destroyed_and_a_name_may_be_used_again(cluster: Cluster):
    cluster.form(1)
    cluster.wait(lambda: holds(cluster, 0, "controller"), "it is responsible")

    added = hactl.ask(cluster.state_dir(0), "add-model", "staging")
    assert models(cluster, 0)["staging"] == added | {"life": "alive"}
    again = hactl.run(cluster.state_dir(0), "add-model", "staging")
    assert (again.returncode, again.stdout) == (1, "")
    assert f"there is a model staging already ({added['uuid']}, alive)" in again.stderr
    assert hactl.run(cluster.state_dir(0), "add-model", "Staging").returncode == 1
    listed = hactl.run(cluster.state_dir(0), "models").stdout.splitlines()
    assert [line.split()[:2] for line in listed] == [["MODEL", "LIFE"], ["controller", "alive"], ["staging", "alive"]]
    cluster.wait(lambda: holds(cluster, 0, "staging"), "it is responsible for the new one")

    gone = hactl.ask(cluster.state_dir(0), "destroy-model", "--yes", "staging")
    assert (gone["uuid"], gone["life"]) == (added["uuid"], "dead")
    assert f"model-{added['uuid']}" not in databases(cluster, 0)
    cluster.wait(lambda: "staging" not in engines(cluster, 0), "its engine is stopped")
    cluster.wait(lambda: leases(cluster, 0)[added["uuid"]]["holder"] == "", "its lease is given up")
    assert hactl.run(cluster.state_dir(0), "destroy-model", "--yes", "staging").returncode == 1

    assert hactl.ask(cluster.state_dir(0), "add-model", "staging")["uuid"] != added["uuid"]


def test_without_a_word_nothing_is_destroyed(cluster: Cluster):
    cluster.form(1)
    cluster.wait(lambda: holds(cluster, 0, "controller"), "it is responsible")
    hactl.ask(cluster.state_dir(0), "add-model", "staging")

    assert hactl.run(cluster.state_dir(0), "destroy-model", "staging").returncode == 1
    assert models(cluster, 0)["staging"]["life"] == "alive"


def test_two_controllers_that_race_make_one_model_and_destroy_it_once(three: Cluster):
    for number in range(3):
        added = [hactl.start(three.state_dir(n), "add-model", f"race-{number}") for n in (0, 1)]
        done = [hactl.finish(process) for process in added]

        assert sorted(d.returncode for d in done) == [0, 1], done
        loser = next(d for d in done if d.returncode)
        assert f"there is a model race-{number} already" in loser.stderr
    there = models(three, 2)
    assert sorted(there) == ["controller", "race-0", "race-1", "race-2"]
    for name in there:
        three.wait(lambda name=name: all(name in engines(three, n) for n in range(3)), f"all run {name}'s workers")
        three.wait(lambda name=name: len(holders(three, name, 0, 1, 2)) == 1, f"one is responsible for {name}")

    for number in range(3):
        destroyed = [hactl.start(three.state_dir(n), "destroy-model", "--yes", f"race-{number}") for n in (0, 2)]
        done = [hactl.finish(process) for process in destroyed]
        # Who comes when it is gone already is told so.
        assert 0 in [d.returncode for d in done], done
        assert all(d.returncode == 0 or f"there is no model race-{number}" in d.stderr for d in done), done
    assert list(models(three, 1)) == ["controller"]
    left = [name for name in databases(three, 0) if name.startswith("model-")]
    assert left == [f"model-{there['controller']['uuid']}"]
    three.wait(lambda: all(list(engines(three, n)) == ["controller"] for n in range(3)), "no engine is left")


def take_over(cluster: Cluster, model: str, others: list[int], limit_seconds: float) -> float:
    return cluster.wait(lambda: holders(cluster, model, *others), f"another is responsible for {model}", limit_seconds)


def test_after_a_killed_holder_another_is_responsible_in_time_and_with_a_higher_token(three: Cluster, capsys):
    hactl.ask(three.state_dir(0), "add-model", "staging")
    uuid = models(three, 0)["staging"]["uuid"]
    three.wait(lambda: len(holders(three, "staging", 0, 1, 2)) == 1, "one is responsible")
    (holder,) = holders(three, "staging", 0, 1, 2)
    others = [n for n in range(3) if n != holder]
    before = leases(three, others[0])[uuid]["token"]

    three.kill(holder)
    took = take_over(three, "staging", others, 30)

    with capsys.disabled():
        print(f"\nkill -9 of the holder: another is responsible after {took:.2f} s")
    # What is promised, one second, and what this test adds by asking every 50 ms on a busy machine.
    assert took < PROMISED_SECONDS + 1 + 1
    after = leases(three, others[0])[uuid]
    assert after["token"] > before
    assert after["holder"] == str(holders(three, "staging", *others)[0])

    three.start(holder)
    three.wait(lambda: "staging" in engines(three, holder), "the one that was killed is back", 40)
    time.sleep(1)
    assert len(holders(three, "staging", 0, 1, 2)) == 1


def test_a_clean_stop_of_the_holder_hands_over_at_once(three: Cluster, capsys):
    (holder,) = holders(three, "controller", 0, 1, 2)
    others = [n for n in range(3) if n != holder]

    three.signal(holder, signal.SIGTERM)
    took = take_over(three, "controller", others, 30)

    with capsys.disabled():
        print(f"\nSIGTERM to the holder: another is responsible after {took:.2f} s")
    assert took < 2.0
    three.wait(lambda: not three.alive(holder), "it ends", 20)
    log = (three.root / f"{holder}.log").read_text()
    assert log.index("is given up: the lease manager ends") < log.index("stopping the node")


def test_a_controller_that_leaves_gives_up_what_it_holds_first(three: Cluster, capsys):
    (holder,) = holders(three, "controller", 0, 1, 2)
    others = [n for n in range(3) if n != holder]

    started = time.monotonic()
    status, answer = three.request(holder, "POST", "/leave", timeout_seconds=40)
    left = time.monotonic() - started
    take_over(three, "controller", others, 10)
    took = time.monotonic() - started

    assert (status, answer["left"]) == (200, True), answer
    with capsys.disabled():
        print(f"\nleave of the holder took {left:.2f} s; another is responsible {took:.2f} s after it began")
    log = (three.root / f"{holder}.log").read_text()
    assert log.index("is given up: the lease manager ends") < log.index("leaving: ")
    assert engines(three, holder) == {}
    assert three.terminate(holder) == 0


def test_without_a_quorum_nobody_is_responsible_and_with_it_one_is_again(three: Cluster):
    (holder,) = holders(three, "controller", 0, 1, 2)
    others = [n for n in range(3) if n != holder]

    three.kill(*others)
    three.wait(lambda: not holds(three, holder, "controller"), "the holder steps down by its own clock", 15)
    done = hactl.run(three.state_dir(holder), "models")
    assert (done.returncode, done.stdout) == (4, "")
    three.start(*others)

    three.wait(lambda: len(holders(three, "controller", 0, 1, 2)) == 1, "one is responsible again", 30)
    three.wait(lambda: hactl.run(three.state_dir(holder), "engine").returncode == 0, "and nothing has failed")
    assert hactl.ask(three.state_dir(holder), "add-model", "after")["life"] == "alive"

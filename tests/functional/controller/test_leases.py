"""What hactl says about leases, and what becomes of their rows when their model is gone."""

from __future__ import annotations

import pytest

import hactl
from loopback import Cluster


def rows(cluster: Cluster, sql: str, namespace: str = "controller") -> list[list[object]]:
    found: list[list[object]] = cluster.request(0, "POST", "/sql", document={"namespace": namespace, "sql": sql})[1][
        "rows"
    ]
    return found


def held(cluster: Cluster, *models: str) -> bool:
    done = hactl.run(cluster.state_dir(0), "leases")
    found = {line.split()[0]: line.split()[2] for line in done.stdout.splitlines()[1:]}
    return done.returncode == 0 and found == dict.fromkeys(("(controllers)", *models), "0")


def test_leases_are_shown_by_name_with_holder_and_token(cluster: Cluster):
    cluster.form(1)
    cluster.wait(lambda: held(cluster, "controller"), "a lone controller holds all there is")
    hactl.ask(cluster.state_dir(0), "add-model", "staging")
    cluster.wait(lambda: held(cluster, "controller", "staging"), "and the new one's")

    told = hactl.ask(cluster.state_dir(0), "leases")
    assert told["holder"] == "0"
    assert {(lease["holder"], lease["token"], lease["late-renewals"]) for lease in told["leases"]} == {("0", "1.1", 0)}


def test_before_there_is_a_database_it_says_so(cluster: Cluster):
    cluster.start(0)
    cluster.wait(lambda: cluster.state(0) == "waiting", "it waits")

    done = hactl.run(cluster.state_dir(0), "leases")
    assert (done.returncode, done.stdout) == (4, "")
    assert "lease-manager does not run here now" in done.stderr


@pytest.mark.slow
def test_leases_and_fences_of_models_that_are_gone_are_pruned_and_no_others(cluster: Cluster):
    cluster.form(1)
    cluster.wait(lambda: held(cluster, "controller"), "it is responsible")
    gone = [hactl.ask(cluster.state_dir(0), "add-model", f"gone-{n}")["uuid"] for n in range(2)]
    kept = hactl.ask(cluster.state_dir(0), "add-model", "kept")["uuid"]
    cluster.wait(lambda: held(cluster, "controller", "gone-0", "gone-1", "kept"), "all are held")
    for n in range(2):
        hactl.ask(cluster.state_dir(0), "destroy-model", "--yes", f"gone-{n}")
    fences = {str(name) for (name,) in rows(cluster, "SELECT name FROM fence")}
    assert {f"singular-controller/{uuid}/{uuid}" for uuid in gone} <= fences
    # The holder of one died with its model: nobody renews it, nobody waits for it.
    stranded = "11111111-2222-4333-8444-555555555555"
    row = f"'{stranded}', '{stranded}', 'dead', 'x', 1, 7, 9, 1500, 1, 0, 1"
    insert = f"INSERT INTO lease SELECT namespace, {row} FROM lease LIMIT 1"
    done = cluster.request(0, "POST", "/sql/write", document={"namespace": "leases", "sql": insert, "apply": True})
    assert done == (200, {"rows-affected": 1, "applied": True})

    assert cluster.terminate(0) == 0
    cluster.start(0)  # The pruner begins at once.

    def left() -> set[object]:
        return {model for (model,) in rows(cluster, "SELECT model FROM lease", "leases")}

    cluster.wait(lambda: cluster.serving(0), "it serves again")
    cluster.wait(lambda: not left() & {*gone}, "the leases that were given up are gone")
    cluster.wait(lambda: stranded not in left(), "and the one that was not", 40)
    cluster.wait(lambda: held(cluster, "controller", "kept"), "all that is in use is there")
    fences = {str(name) for (name,) in rows(cluster, "SELECT name FROM fence")}
    assert not {f"singular-controller/{uuid}/{uuid}" for uuid in gone} & fences
    assert {kept, "loopback"} <= left()

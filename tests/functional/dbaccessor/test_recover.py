"""hactl recover on the state directories of real controllers that were killed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import signal
from pathlib import Path

import pytest

from dbaccessor.dqlite import node, nodedir
from dbaccessor.identity import node_name
from loopback import Cluster
from offline import database, hactl, insert, rows, told
from stepwise import enumerate_steps


@pytest.fixture
def cluster(tmp_path: Path):
    with Cluster(tmp_path) as made:
        yield made


def state(directory: Path) -> dict[str, str]:
    """Every file below a directory, by its content."""
    return {
        str(p.relative_to(directory)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(directory.rglob("*"))
        if p.is_file()
    }


def reason(cluster: Cluster, n: int) -> str:
    return str(cluster.status(n).get("reason", ""))


def waits_for(cluster: Cluster, n: int, topic: str) -> bool:
    return any(w["for"] == topic for w in cluster.status(n).get("waits", []))


def identity(directory: Path) -> dict:
    return json.loads((directory / "identity.json").read_text())


def test_three_killed_one_wiped_the_newest_is_recovered_and_grows_again(cluster):
    cluster.form(3)
    insert(cluster, range(3), range(20))
    cluster.kill(0, 1, 2)
    shutil.rmtree(cluster.state_dir(1) / "dqlite")
    directories = [cluster.state_dir(n) for n in range(3)]
    before = [state(d) for d in directories]

    plan = told(hactl("recover", *directories, "--format", "json"))

    assert [state(d) for d in directories] == before, "a dry run changes nothing"
    (chosen,) = [d for d in plan["directories"] if d["chosen"]]
    assert chosen["directory"] != str(directories[1])
    assert plan["refusal"] == ""
    survivor = int(chosen["controller-id"])

    done = hactl("recover", *directories, "--apply")
    assert done.returncode == 0, done.stdout + done.stderr
    assert identity(directories[2 - survivor])["superseded"]["number"] == 2

    cluster.start(survivor)
    cluster.wait(lambda: cluster.serving(survivor), "the recovered one serves alone")
    assert cluster.roles(survivor) == {survivor: "voter"}
    assert cluster.epoch(survivor) == 2
    cluster.start(*(n for n in range(3) if n != survivor))
    cluster.wait(lambda: cluster.role_counts(survivor) == (3, 0, 0), "the others are members again", 60)
    cluster.wait(lambda: cluster.serving(0, 1, 2), "all serve")
    insert(cluster, range(3), [20])
    assert rows(cluster, range(3)) == list(range(21)), "every acknowledged row is there"
    cluster.wait(lambda: not cluster.status(survivor)["cluster"]["dropped"], "those left behind have all been seen")


def test_a_log_with_one_very_large_entry_is_whole_and_tells_its_end(cluster):
    cluster.form(1)
    insert(cluster, [0], [1])
    data = cluster.state_dir(0) / "dqlite"
    before = nodedir.last_entry_on_disk(data)

    async def write() -> None:
        where = database(cluster, [0])

        async def large(tx):
            await tx.execute("CREATE TABLE large AS SELECT zeroblob(68000000) AS z")

        await where.run(large, deadline_seconds=60)
        where.close()

    asyncio.run(write())
    running = nodedir.last_entry_on_disk(data)
    insert(cluster, [0], [2])
    cluster.kill(0)

    known = identity(cluster.state_dir(0))
    last = node.last_entry(data, known["dqlite-id"], node_name(known["controller-id"], known["dqlite-id"]))
    assert before < running < last
    assert nodedir.last_entry_on_disk(data) == last
    (found,) = told(hactl("recover", cluster.state_dir(0), "--format", "json"))["directories"]
    assert (found["term"], found["index"], found["damage"]) == (last.term, last.index, "")


def test_recovering_the_one_behind_says_what_is_lost_and_loses_no_more(cluster):
    cluster.form(3)
    insert(cluster, range(3), range(5))
    behind = next(n for n in range(3) if n != cluster.leader(0))
    cluster.kill(behind)
    others = [n for n in range(3) if n != behind]
    insert(cluster, others, range(5, 30))
    cluster.kill(*others)

    directories = [cluster.state_dir(behind), cluster.state_dir(others[0])]
    refused = told(hactl("recover", *directories, "--format", "json"))
    (newest,) = [d for d in refused["directories"] if d["chosen"]]
    assert newest["controller-id"] == str(others[0])

    plan = told(hactl("recover", *directories, "--use", directories[0], "--format", "json"))
    (loss,) = plan["losses"]
    assert loss["directory"] == str(directories[1])
    assert loss["entries"] >= 25
    assert {k["controller-id"] for k in plan["not-given"]} == {str(others[1])}

    done = hactl("recover", *directories, "--use", directories[0], "--apply")
    assert done.returncode == 0, done.stderr
    assert f"{loss['entries']} entries" in done.stdout
    assert "local-provider= keeps them" in " ".join(done.stdout.split()), "machines that only the lost data knew"
    cluster.start(behind)
    cluster.wait(lambda: cluster.serving(behind), "it serves")
    assert rows(cluster, [behind]) == list(range(5))


def test_data_put_aside_is_put_back_into_the_state_directory(cluster):
    """decide: "the cluster exists, this controller is its last one, and its data is not here: put the data back"."""
    cluster.form(1)
    insert(cluster, [0], range(7))
    cluster.kill(0)
    # A copy back from elsewhere: another fingerprint, so it is put aside and not started.
    data = cluster.state_dir(0) / "dqlite"
    shutil.copytree(data, data.with_name("copy"))
    shutil.rmtree(data)
    data.with_name("copy").rename(data)
    cluster.configure([0])
    cluster.start(0)
    cluster.wait(lambda: "its data is not here" in reason(cluster, 0), "it waits for its data")
    assert "hactl recover" in cluster.status(0)["waits"][0]["remedy"]
    (aside,) = (cluster.state_dir(0) / "aside").iterdir()

    running = hactl("recover", aside, "--into", cluster.state_dir(0), "--apply")
    assert running.returncode == 1
    assert "stop it first" in running.stderr

    cluster.terminate(0)
    assert hactl("recover", aside).returncode == 1, "where to is not clear"
    done = hactl("recover", aside, "--into", cluster.state_dir(0), "--apply")
    assert done.returncode == 0, done.stdout + done.stderr
    cluster.start(0)
    cluster.wait(lambda: cluster.serving(0), "it serves")
    assert rows(cluster, [0]) == list(range(7))


def test_two_epochs_of_one_number_wait_for_a_person_and_the_one_not_named_yields(cluster):
    """decide: "the members are in two epochs of one number: decide which data counts, with hactl recover"."""
    cluster.form(2)
    insert(cluster, range(2), range(3))
    cluster.kill(0, 1)
    # Each goes on alone while the other is off: what a mistaken operator, or two, can do.
    for n in range(2):
        assert hactl("recover", cluster.state_dir(n), "--apply").returncode == 0
        cluster.start(n)
        cluster.wait(lambda n=n: cluster.serving(n), "it serves alone")
        insert(cluster, [n], [100 + n])
        cluster.kill(n)
    cluster.start(0, 1)
    cluster.wait(
        lambda: any(w["for"] == "epoch" for w in cluster.status(0).get("waits", [])), "the rivals see each other"
    )
    cluster.terminate(0)
    cluster.terminate(1)

    directories = [cluster.state_dir(n) for n in range(2)]
    undecided = hactl("recover", *directories, "--apply")
    assert undecided.returncode == 1
    assert "--use" in undecided.stdout
    assert hactl("recover", *directories, "--use", directories[1], "--apply").returncode == 0

    cluster.start(0, 1)
    cluster.wait(lambda: cluster.role_counts(1) == (2, 0, 0) and cluster.serving(0, 1), "one cluster", 60)
    assert cluster.epoch(0) == cluster.epoch(1) == 3
    assert rows(cluster, range(2)) == [0, 1, 2, 101]


def test_a_damaged_log_is_named_and_salvaged_only_when_told(cluster):
    """decide: "the node cannot start on its data: mend what it says, … or use hactl recover"."""
    cluster.form(1)
    insert(cluster, [0], range(40))
    assert cluster.terminate(0) == 0  # An orderly stop closes the open segment.
    segment = max((cluster.state_dir(0) / "dqlite").glob("0*-0*"))
    content = bytearray(segment.read_bytes())
    # What controllerd makes at its start stands before the rows, and what it gives up at its end behind them.
    content[len(content) * 4 // 5] ^= 0xFF
    segment.write_bytes(content)
    cluster.start(0)
    cluster.wait(lambda: "cannot start on its data" in reason(cluster, 0), "it says so")
    assert "hactl recover" in cluster.status(0)["waits"][0]["remedy"]
    cluster.terminate(0)

    refused = hactl("recover", cluster.state_dir(0))
    assert refused.returncode == 1
    assert segment.name in refused.stdout
    done = hactl("recover", cluster.state_dir(0), "--salvage", "--apply")
    assert done.returncode == 0, done.stdout + done.stderr
    cluster.start(0)
    cluster.wait(lambda: cluster.serving(0), "it serves")
    kept = rows(cluster, [0])
    assert kept == list(range(len(kept)))
    assert 10 < len(kept) < 40


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_cluster_that_lives_is_not_ended_by_a_member_that_is_stopped(tmp_path: Path, tls: bool):
    with Cluster(tmp_path, tls=tls) as cluster:
        _a_stopped_member_of_a_living_cluster(cluster)


def _a_stopped_member_of_a_living_cluster(cluster: Cluster) -> None:
    cluster.form(3)
    cluster.kill(0)
    cluster.wait(lambda: cluster.leader(1) in (1, 2), "the others lead")

    refused = hactl("recover", cluster.state_dir(0), "--apply")

    assert refused.returncode == 1
    assert "that cluster lives" in refused.stderr
    cluster.start(0)
    cluster.wait(lambda: cluster.serving(0) and cluster.role_counts(1) == (3, 0, 0), "it comes back as itself", 40)
    assert cluster.epoch(0) == 1


def test_a_running_controller_is_never_touched(cluster):
    cluster.form(1)
    cluster.signal(0, signal.SIGSTOP)

    assert hactl("recover", cluster.state_dir(0), "--apply").returncode == 1
    cluster.signal(0, signal.SIGCONT)
    cluster.wait(lambda: cluster.serving(0), "it serves")


@pytest.mark.long
def test_a_recovery_killed_at_any_step_is_completed_or_undone_by_the_next_start(tmp_path: Path):
    def run(cluster: Cluster, step: int) -> bool:
        cluster.form(1)
        insert(cluster, [0], range(3))
        cluster.kill(0)
        crashed = hactl("recover", cluster.state_dir(0), "--apply", crash=step).returncode == -signal.SIGKILL
        cluster.start(0)
        cluster.wait(lambda: cluster.serving(0), f"it serves after a kill at step {step}", 60)
        assert rows(cluster, [0]) == [0, 1, 2]
        assert cluster.epoch(0) in ((1, 2) if crashed else (2,))
        left = {p.name for p in cluster.state_dir(0).iterdir()}
        assert not left & {"journal.json", "dqlite.new"}
        if cluster.epoch(0) == 2:
            # What there was lies aside, whole, and says so itself.
            (aside,) = (cluster.state_dir(0) / "aside").iterdir()
            (found,) = told(hactl("recover", aside, "--into", tmp_path / "x", "--format", "json"))["directories"]
            assert (found["epoch"]["number"], found["damage"], found["problem"]) == (1, "", "")
        return crashed

    assert enumerate_steps(tmp_path, run, at_once=4) > 10, "the steps of a recovery were counted"


def test_a_second_run_goes_on_where_a_killed_one_stopped(cluster):
    cluster.form(1)
    insert(cluster, [0], range(3))
    cluster.kill(0)
    for step in (3, 9, 14, 18):
        hactl("recover", cluster.state_dir(0), "--apply", crash=step)
    done = hactl("recover", cluster.state_dir(0), "--apply")
    assert done.returncode == 0, done.stdout + done.stderr
    cluster.start(0)
    cluster.wait(lambda: cluster.serving(0), "it serves")
    assert rows(cluster, [0]) == [0, 1, 2]

"""Whole controllers on loopback: real controllerd processes and libdqlite, configurations written by the test."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import socket
import statistics
import time
from collections.abc import Iterable
from typing import Any

import pytest

from dbaccessor import errors
from dbaccessor.database import Database
from loopback import Cluster
from rows import read, write

# Addresses of clusters that run beside each other in one test.
BLOCKS = (91, 92, 93)


def identity(cluster: Cluster, n: int) -> dict:
    return json.loads((cluster.state_dir(n) / "identity.json").read_text())


def test_without_an_address_it_waits_visibly_and_goes_on_when_one_is_written(cluster):
    cluster.start(0)
    cluster.wait(lambda: cluster.state(0) == "waiting", "it waits")
    (wait,) = cluster.status(0)["waits"]
    assert wait["for"] == "bind-address"
    assert wait["since"]

    cluster.configure([], told=[0])
    cluster.wait(lambda: "no address" in cluster.status(0)["reason"], "the reason follows the file")

    cluster.configure([0], bootstrapped=False)
    cluster.wait(lambda: cluster.serving(0), "it serves")
    assert cluster.status(0)["waits"] == []


def test_seven_controllers_end_in_three_voters_three_stand_bys_and_a_spare(cluster):
    cluster.form(7)

    assert all(cluster.serving(n) for n in range(7))
    # A spare hears of the roles from the leader, in its own time.
    cluster.wait(lambda: cluster.status(6)["cluster"]["may-lose"] == 1, "the spare knows what may be lost")


def test_a_killed_leader_is_replaced_and_comes_back_as_itself(cluster):
    cluster.form(3)
    before = identity(cluster, 0)
    leader = cluster.leader(1)
    others = [n for n in range(3) if n != leader]

    cluster.kill(leader)
    cluster.wait(lambda: cluster.leader(others[0]) in others, "another leads")
    cluster.start(leader)
    cluster.wait(lambda: cluster.serving(leader) and cluster.role_counts(others[0]) == (3, 0, 0), "it is back")

    assert identity(cluster, 0)["dqlite-id"] == before["dqlite-id"]


@pytest.mark.parametrize("pause_seconds", [0.1, 3.0])
def test_the_founder_whose_data_was_wiped_rejoins_under_a_new_id_and_founds_nothing(cluster, pause_seconds):
    cluster.form(3)
    write(cluster, 0, 1, 2, value=1)
    before = identity(cluster, 0)

    cluster.kill(0)
    shutil.rmtree(cluster.state_dir(0) / "dqlite")
    # Conf files are older than "bootstrapped" may be: the founder is even told that it may found the cluster.
    cluster.configure(range(3), bootstrapped=False)
    time.sleep(pause_seconds)  # The two cases that differ inside the library.
    cluster.start(0)

    def ids() -> set[int]:
        return {m["dqlite-id"] for m in cluster.status(1)["cluster"]["members"]}

    cluster.wait(lambda: cluster.serving(0) and before["dqlite-id"] not in ids(), "it is a member again", 40)
    cluster.wait(lambda: cluster.role_counts(1) == (3, 0, 0), "there are three voters", 40)

    after = identity(cluster, 0)
    assert after["dqlite-id"] != before["dqlite-id"]
    assert after["cluster-uuid"] == before["cluster-uuid"]
    assert after["epoch"] == before["epoch"]
    write(cluster, 0, 1, 2, value=2)
    assert read(cluster, 0, 1, 2) == [1, 2]
    cluster.wait(lambda: cluster.leader(0) == cluster.leader(1) == cluster.leader(2) is not None, "all follow one")


def test_an_orderly_shrink_to_one_loses_nothing_and_keeps_the_epoch(cluster):
    cluster.form(3)
    for value in range(5):
        write(cluster, 0, 1, 2, value=value)

    # The leader among those that leave, and both at once.
    leaving = [n for n in range(3) if n != 0]
    for n in leaving:
        status, answer = cluster.request(n, "POST", "/leave", timeout_seconds=40)
        assert (status, answer["left"]) == (200, True), answer
        assert cluster.terminate(n) == 0
    cluster.configure([0], departed=["1", "2"])
    cluster.wait(lambda: cluster.roles(0) == {0: "voter"}, "one member")

    write(cluster, 0, value=5)
    assert read(cluster, 0) == list(range(6))
    assert cluster.status(0)["cluster"]["epoch"]["number"] == 1
    assert cluster.status(0)["cluster"]["health"] == "healthy"


def test_two_leave_at_the_same_time_the_leader_among_them(cluster):
    cluster.form(3)
    leader = cluster.leader(0)
    survivor = (leader + 1) % 3
    leaving = [n for n in range(3) if n != survivor]

    async def both() -> list:
        return await asyncio.gather(*(asyncio.to_thread(cluster.request, n, "POST", "/leave", 40) for n in leaving))

    for status, answer in asyncio.run(both()):
        assert (status, answer["left"]) == (200, True), answer
    cluster.wait(lambda: cluster.roles(survivor) == {survivor: "voter"}, "one member")
    write(cluster, survivor, value=1)


def test_one_that_left_without_a_word_is_removed_within_ten_seconds_of_the_file(cluster):
    cluster.form(3)
    gone = cluster.leader(0)
    stay = [n for n in range(3) if n != gone]
    cluster.kill(gone)
    cluster.configure(stay, departed=[str(gone)])

    took = cluster.wait(
        lambda: all(cluster.roles(n) == dict.fromkeys(stay, "voter") for n in stay), "two members, as the file says"
    )

    assert took < 10
    assert cluster.epoch(stay[0]) == 1, "by an ordinary removal"
    write(cluster, *stay, value=1)


def test_a_row_that_a_departed_member_left_behind_is_deleted_by_whoever_leads(cluster):
    """As if the leader had died after raft's removal, before it came to the row."""
    cluster.form(3)
    node = identity(cluster, 2)
    status, answer = cluster.request(2, "POST", "/leave", timeout_seconds=40)
    assert (status, answer["left"]) == (200, True), answer
    assert cluster.terminate(2) == 0
    row = (node["controller-id"], str(node["dqlite-id"]), f"controller-2-{node['dqlite-id']}", cluster.address(2), 1)

    async def put_back() -> None:
        async def insert(tx):
            await tx.execute("INSERT INTO controller_node VALUES (?, ?, ?, ?, ?, 0, 0)", row)

        with contextlib.closing(Database(cluster.connector(0, 1), "controller")) as where:
            await where.run(insert)

    def rows() -> list[str]:
        question = {"sql": "SELECT controller_id FROM controller_node ORDER BY controller_id"}
        return [i for (i,) in cluster.request(0, "POST", "/sql", document=question)[1]["rows"]]

    asyncio.run(put_back())
    assert rows() == ["0", "1", "2"], "it has not departed, so it might be joining"
    cluster.configure([0, 1], departed=["2"])

    cluster.wait(lambda: rows() == ["0", "1"], "its row is gone, and no other")


@pytest.mark.parametrize("count", [2, 3])
def test_a_leader_that_departed_and_lives_is_deposed_and_removed(cluster, count):
    """Its unit was removed by force while its agent was down: it hears of no configuration any more."""
    cluster.form(count)
    gone = cluster.leader(0)
    stay = [n for n in range(count) if n != gone]
    write(cluster, *range(count), value=1)

    cluster.configure([*stay, 3], told=stay, departed=[str(gone)])
    took = cluster.wait(lambda: all(set(cluster.roles(n)) == set(stay) for n in stay), "it is no member any more")
    assert took < 10
    cluster.configure([*stay, 3], departed=[str(gone)])
    cluster.start(3)

    cluster.wait(lambda: cluster.serving(3), "one that came since is let in")
    cluster.wait(lambda: list((cluster.state_dir(gone) / "aside").glob("dqlite-*")), "its data is put aside")
    assert set(cluster.roles(3)) == {*stay, 3}
    assert (cluster.epoch(3), read(cluster, *stay, 3)) == (1, [1])


def test_a_leader_whose_file_stays_old_lets_one_lead_that_knows_who_joins(cluster):
    """The agent of the leader's unit is down, so that no newer configuration is written there."""
    cluster.form(3)
    outdated = cluster.leader(0)
    others = [n for n in range(3) if n != outdated]
    write(cluster, 0, 1, 2, value=1)

    cluster.configure(range(4), told=[*others, 3])
    cluster.start(3)

    cluster.wait(lambda: cluster.serving(3), "it is let in", 40)
    assert cluster.leader(3) in others
    assert "has been too old for those that join" in (cluster.root / f"{outdated}.log").read_text()
    assert (cluster.epoch(3), read(cluster, 0, 1, 2, 3)) == (1, [1])


def test_the_last_one_of_three_goes_on_alone_and_those_left_behind_stay_out(cluster):
    cluster.form(3)
    write(cluster, 0, 1, 2, value=1)
    tag = cluster.status(0)["cluster"]["epoch"]["tag"]

    cluster.kill(1, 2)
    cluster.wait(lambda: cluster.state(0) == "waiting", "without quorum it waits, as both are still named")
    assert "no quorum" in cluster.status(0)["reason"]
    cluster.configure([0], departed=["1", "2"])
    took = cluster.wait(lambda: cluster.epoch(0) == 2 and cluster.serving(0), "it goes on alone")
    assert took < 10

    section = cluster.status(0)["cluster"]
    assert section["epoch"]["number"] == 2
    assert section["epoch"]["tag"] != tag
    assert sorted(section["dropped"]) == ["1", "2"]
    assert section["log-ended-at"] > 0
    write(cluster, 0, value=2)
    assert read(cluster, 0) == [1, 2]

    # They return with the old majority between them, and their own configuration has heard nothing.
    cluster.start(1, 2)
    for n in (1, 2):
        cluster.wait(lambda n=n: list((cluster.state_dir(n) / "aside").glob("dqlite-*")), "its data is put aside")
    cluster.wait(lambda: cluster.status(0)["cluster"]["dropped"] == [], "they met the new epoch")
    assert cluster.roles(0) == {0: "voter"}

    # Named again, they come back as fresh members.
    cluster.configure([0, 1, 2])
    cluster.wait(lambda: cluster.role_counts(0) == (3, 0, 0), "three voters again", 40)
    assert read(cluster, 0, 1, 2) == [1, 2]


def stays_out(cluster: Cluster, n: int, why: str) -> None:
    """This survivor waits, says why and names the tool; and it does so still when it had every chance to go on."""

    def says_so() -> bool:
        return any(w["for"] == "leader" and why in w["reason"] for w in cluster.status(n).get("waits", []))

    cluster.wait(says_so, f"it says: {why}", 30)
    time.sleep(3)  # Longer than the hold.
    assert cluster.state(n) == "waiting"
    assert says_so()
    (wait,) = (w for w in cluster.status(n)["waits"] if w["for"] == "leader")
    assert "hactl recover" in json.dumps(wait)
    assert cluster.epoch(n) == 1


def test_a_survivor_that_is_a_spare_waits_and_names_the_tool(cluster):
    """Its log has nothing: alone, it would serve an empty database."""
    cluster.form(7)
    write(cluster, *range(7), value=1)
    (spare,) = (n for n, role in cluster.roles(0).items() if role == "spare")
    gone = [n for n in range(7) if n != spare]

    cluster.kill(*gone)
    cluster.configure([spare], departed=[str(n) for n in gone])

    # On 1.18.1 it does not even know that it is a spare.
    stays_out(cluster, spare, "whose log may be old or empty")


def told(cluster: Cluster, n: int, *, voters: int) -> dict[str, Any]:
    """What controller n tells its charm once there are so many voters."""

    def state() -> dict[str, Any]:
        return cluster.request(n, "GET", "/db-state")[1]

    cluster.wait(lambda: len(state()["voters"]) == voters, f"the charm is told of {voters} voters")
    return state()


def advice(newest: dict[str, Any], voters: Iterable[int]) -> dict[str, Any]:
    """This state as a configuration has it, with other voters."""
    return {
        "db-voters": [str(n) for n in voters],
        "db-epoch": newest["epoch"]["number"],
        "db-last-term": newest["last-term"],
        "db-last-index": newest["last-index"],
    }


def test_a_survivor_that_became_a_voter_when_nobody_was_left_to_tell_goes_on(cluster):
    """The charm knows the voters of before; the survivor's log is newer than that."""
    cluster.form(3)
    write(cluster, 0, 1, 2, value=0)
    before = told(cluster, 0, voters=3)
    for value in range(1, 4):
        write(cluster, 0, 1, 2, value=value)

    cluster.kill(1, 2)
    cluster.configure([0], departed=["1", "2"], **advice(before, [1, 2]))

    cluster.wait(lambda: cluster.epoch(0) == 2 and cluster.serving(0), "it goes on alone")
    assert read(cluster, 0) == [0, 1, 2, 3]


def test_a_survivor_whose_log_is_behind_waits_and_names_the_tool(cluster):
    """The newest index that the members told the charm is later than where its log ends."""
    cluster.form(3)
    write(cluster, 0, 1, 2, value=0)
    leader = cluster.leader(0)
    behind, third = (n for n in range(3) if n != leader)
    known = told(cluster, leader, voters=3)["last-index"]
    cluster.kill(behind)  # Not frozen: what lies in its sockets would reach it yet.
    for value in range(1, 11):
        write(cluster, leader, third, value=value)
    newest = told(cluster, leader, voters=2)
    assert newest["last-index"] > known
    cluster.kill(leader, third)
    cluster.configure([behind], departed=[str(leader), str(third)], **advice(newest, [0, 1, 2]))
    cluster.start(behind)

    stays_out(cluster, behind, f"the newest known one at index {newest['last-index']} of term {newest['last-term']}")
    assert "this node's log ends at" in cluster.status(behind)["reason"]


def insist(cluster: Cluster, n: int, value: int) -> None:
    """Write until it is surely written: a leader that has just lost its followers leaves a write in doubt."""
    until = time.monotonic() + 20
    while True:
        try:
            return write(cluster, n, value=value)
        except errors.Indefinite:
            if time.monotonic() > until:
                raise


def test_after_two_kills_at_once_the_last_one_writes_within_five_seconds_of_the_file(tmp_path):
    """In the median of three clusters. The file comes at once, so that the whole hold is in it."""
    with contextlib.ExitStack() as stack:
        roots = [tmp_path / name for name in "abc"]
        made = [stack.enter_context(Cluster(root, block, tls=True)) for root, block in zip(roots, BLOCKS, strict=True)]
        for cluster in made:  # Side by side, which takes as long as one.
            cluster.configure([0])
            cluster.start(0)
        for cluster in made:
            cluster.wait(lambda cluster=cluster: cluster.serving(0), "the first one serves")
            cluster.configure(range(3))
            cluster.start(1, 2)
        for cluster in made:
            cluster.wait(lambda cluster=cluster: cluster.role_counts(0) == (3, 0, 0), "three voters", 60)

        took = []
        for survivor, cluster in enumerate(made):
            cluster.wait(lambda cluster=cluster: cluster.serving(0, 1, 2), "all serve")
            write(cluster, 0, 1, 2, value=0)
            gone = [n for n in range(3) if n != survivor]
            cluster.kill(*gone)
            began = time.monotonic()
            cluster.configure([survivor], departed=[str(n) for n in gone])
            insist(cluster, survivor, value=1)
            took.append(time.monotonic() - began)
            assert cluster.epoch(survivor) == 2
            assert read(cluster, survivor) == [0, 1]
            cluster.kill(survivor)

    print(f"writable after {', '.join(f'{seconds:.2f}' for seconds in sorted(took))} s")
    assert statistics.median(took) < 5


def test_two_fresh_controllers_in_place_of_two_dead_ones_heal_the_cluster(cluster):
    cluster.form(3)
    write(cluster, 0, 1, 2, value=1)

    cluster.kill(1, 2)
    cluster.configure([0, 3, 4], departed=["1", "2"])
    cluster.start(3, 4)

    healed = {0: "voter", 3: "voter", 4: "voter"}
    cluster.wait(lambda: cluster.roles(0) == healed, "the survivor and the two fresh ones are voters", 60)
    assert cluster.epoch(0) == 2
    assert read(cluster, 0, 3, 4) == [1]


def test_a_fresh_one_that_was_not_added_before_the_quorum_went_does_not_hold_up_the_survivor(cluster):
    cluster.form(3)
    write(cluster, 0, 1, 2, value=1)
    cluster.configure(range(4), told=[3])  # The leader's does not name it yet, and refuses it.
    cluster.start(3)
    cluster.wait(lambda: (cluster.state_dir(3) / "identity.json").exists(), "it begins to join")

    cluster.kill(1, 2)
    cluster.configure([0, 3], departed=["1", "2"])

    cluster.wait(lambda: cluster.roles(0) == {0: "voter", 3: "voter"}, "the survivor and the fresh one are voters", 60)
    assert cluster.epoch(0) == 2
    assert read(cluster, 0, 3) == [1]


def test_a_paused_survivor_does_not_count_its_own_pause_as_the_others_silence(cluster):
    cluster.form(3)
    cluster.signal(0, signal.SIGSTOP)
    cluster.wait(lambda: cluster.leader(1) in (1, 2), "the others go on")
    cluster.configure([0], departed=["1", "2"])  # A file that is wrong: the others live.
    time.sleep(4)  # Longer than the hold.
    cluster.signal(0, signal.SIGCONT)

    cluster.wait(lambda: cluster.leader(0) in (1, 2), "it follows the living quorum")
    assert cluster.status(0)["cluster"]["epoch"]["number"] == 1


@pytest.mark.parametrize("garbage", ["", "garbage: [", "\x00" * 100, "schema: 1\ngeneration: 1\n"])
def test_a_garbage_configuration_does_not_stop_a_running_node(cluster, garbage):
    cluster.form(1)
    cluster.write_conf(0, garbage)
    cluster.wait(lambda: cluster.status(0)["conf"]["problem"], "it is reported")

    assert cluster.serving(0)
    write(cluster, 0, value=1)
    cluster.generation += 1
    cluster.configure([0])
    cluster.wait(lambda: cluster.status(0)["conf"]["problem"] is None, "the good one is taken")


def test_data_of_another_controller_is_put_aside_and_never_started(cluster):
    cluster.form(3)
    cluster.kill(1, 2)
    shutil.rmtree(cluster.state_dir(1))
    shutil.copytree(cluster.state_dir(2), cluster.state_dir(1), ignore=shutil.ignore_patterns("*.socket", "tls"))
    (cluster.state_dir(1) / "controller.conf").unlink()
    cluster.start(2)
    cluster.wait(lambda: cluster.serving(0, 2), "quorum is back")
    cluster.configure(range(3))
    cluster.start(1)

    cluster.wait(lambda: cluster.serving(1) and cluster.role_counts(0) == (3, 0, 0), "it joins afresh", 40)
    assert list((cluster.state_dir(1) / "aside").glob("dqlite-*"))


def test_a_second_daemon_on_the_same_directory_refuses(cluster):
    cluster.form(1)
    first = cluster._processes[0]
    cluster.start(0)
    second = cluster._processes[0]

    assert second.wait(timeout=10) == 75
    assert first.poll() is None
    cluster._processes[0] = first


def test_a_planned_stop_hands_leadership_over(cluster):
    cluster.form(3)
    leader = cluster.leader(0)
    others = [n for n in range(3) if n != leader]

    assert cluster.terminate(leader) == 0
    assert "handing leadership to" in (cluster.root / f"{leader}.log").read_text()
    cluster.wait(lambda: cluster.leader(others[0]) in others, "another leads", 5)


def test_controllers_that_all_stop_at_once_wait_for_nobody(cluster):
    cluster.form(3)

    for n in range(3):
        cluster.signal(n, signal.SIGTERM)
    cluster.wait(lambda: not any(cluster.alive(n) for n in range(3)), "all have ended", 15)

    late = [n for n in range(3) if "no handover within 5" in (cluster.root / f"{n}.log").read_text()]
    assert late == [], "nobody waits for the limit"
    cluster.start(0, 1, 2)
    cluster.wait(lambda: cluster.serving(0, 1, 2), "all serve again", 30)


@pytest.mark.parametrize("named", [[0], [0, 1, 2]])
def test_a_wiped_founder_founds_nothing_while_its_peers_are_down(cluster, named):
    """The worst moment: "bootstrapped" was never published, and nobody is there to say that the cluster exists."""
    cluster.form(3)
    cluster.kill(0, 1, 2)
    shutil.rmtree(cluster.state_dir(0) / "dqlite")
    cluster.configure(named, bootstrapped=False)
    cluster.start(0)
    cluster.wait(lambda: cluster.state(0) == "waiting", "it waits")
    assert cluster.status(0)["cluster"] is None
    time.sleep(2)  # It had every chance to do the wrong thing.
    assert cluster.state(0) == "waiting"

    if len(named) > 1:
        cluster.start(1, 2)
        cluster.wait(lambda: cluster.serving(0, 1, 2), "it joins when they are back", 40)


def test_a_majority_left_behind_stays_out_even_if_the_survivor_it_knew_is_gone(cluster):
    cluster.form(3)
    cluster.kill(1, 2)
    cluster.configure([0], departed=["1", "2"])
    cluster.wait(lambda: cluster.epoch(0) == 2 and cluster.serving(0), "0 goes on alone")
    cluster.configure([0, 3], departed=["1", "2"])
    cluster.start(3)
    cluster.wait(lambda: cluster.role_counts(3) == (2, 0, 0), "3 joins", 40)
    members = cluster.state_dir(3) / "members.json"
    cluster.wait(lambda: "controller-1" in members.read_text(), "3 inherits whom to watch for")
    cluster.kill(0)

    cluster.start(1, 2)  # With their configuration of before, and the old majority between them.

    for n in (1, 2):
        cluster.wait(lambda n=n: list((cluster.state_dir(n) / "aside").glob("dqlite-*")), f"{n} puts its data aside")


def test_a_damaged_log_is_put_aside_and_its_node_joins_again(cluster):
    cluster.form(3)
    for value in range(3):
        write(cluster, 0, 1, 2, value=value)
    cluster.kill(1)
    cluster.wait(lambda: cluster.roles(0).get(1) == "spare", "it is demoted")
    cluster.start(1)
    cluster.wait(lambda: cluster.role_counts(0) == (3, 0, 0), "its log has a closed segment now")
    cluster.kill(1)
    segment = next((cluster.state_dir(1) / "dqlite").glob("0000000000*-*"))
    damaged = bytearray(segment.read_bytes())
    damaged[24] ^= 0xFF
    segment.write_bytes(damaged)

    cluster.start(1)

    cluster.wait(lambda: cluster.serving(1) and cluster.role_counts(0) == (3, 0, 0), "it is a voter again", 40)
    assert list((cluster.state_dir(1) / "aside").glob("dqlite-*"))
    assert read(cluster, 0, 1, 2) == [0, 1, 2]


def test_an_address_that_cannot_be_bound_is_shown_and_does_not_stop_the_node(cluster):
    cluster.form(1)
    taken = cluster.address(9)
    with socket.create_server((taken, 17666)):
        cluster.configure([0], **{"db-bind-addresses": {"0": taken}})
        cluster.wait(lambda: cluster.status(0)["waits"], "the wait is shown")

        (wait,) = cluster.status(0)["waits"]
        assert wait["for"] == "listen"
        assert taken in wait["reason"]
        assert cluster.serving(0)
    cluster.configure([0])
    cluster.wait(lambda: not cluster.status(0)["waits"], "and it goes when the address is good")


def test_a_stopped_process_is_not_reconfigured_over_when_it_comes_back_with_questions_in_flight(cluster):
    """Many short pauses, longer than the hold, under a configuration that wrongly names only this controller."""
    cluster.form(3)
    cluster.configure([0], departed=["1", "2"])
    for _ in range(3):
        cluster.signal(0, signal.SIGSTOP)
        time.sleep(3.2)
        cluster.signal(0, signal.SIGCONT)
        time.sleep(0.3)

    cluster.wait(lambda: cluster.leader(1) is not None, "there is one leader")
    assert cluster.status(0)["cluster"]["epoch"]["number"] == 1

"""rebuild-cluster on real controllers: refused while a quorum lives, and what becomes of the others afterwards."""

from __future__ import annotations

import signal

from loopback import Cluster
from rows import read, write


def rebuild(cluster: Cluster, n: int, *, force: bool = False) -> tuple[bool, str]:
    status, answer = cluster.request(n, "POST", "/rebuild", 30, {"force": force})
    assert status == 200, answer
    return answer["done"], answer["reason"]


def test_a_living_quorum_is_never_rebuilt_over(cluster: Cluster):
    cluster.form(3)

    for n in range(3):
        done, reason = rebuild(cluster, n, force=True)
        assert not done
        assert "a quorum lives" in reason
    assert cluster.epoch(0) == 1


def test_a_paused_follower_is_refused_when_it_comes_back_to_a_living_quorum(cluster: Cluster):
    cluster.form(3)
    cluster.signal(1, signal.SIGSTOP)
    cluster.signal(1, signal.SIGCONT)

    done, reason = rebuild(cluster, 1, force=True)

    assert not done, reason
    assert cluster.epoch(1) == 1


def test_a_lost_quorum_of_five_is_rebuilt_on_a_word_and_the_living_join_again(cluster: Cluster):
    cluster.form(5)
    for value in range(5):
        write(cluster, *range(5), value=value)
    voters = sorted(n for n, role in cluster.roles(0).items() if role == "voter")
    standbys = sorted(n for n, role in cluster.roles(0).items() if role == "stand-by")
    survivor, gone = voters[0], voters[1:]

    cluster.kill(*gone)
    cluster.wait(lambda: cluster.state(survivor) == "waiting", "no quorum")
    cluster.wait(lambda: "do it with force" in rebuild(cluster, survivor)[1], "every living one has told its log's end")
    done, reason = rebuild(cluster, standbys[0], force=True)
    assert not done
    assert "choose one that was a voter" in reason

    done, reason = rebuild(cluster, survivor, force=True)

    assert done, reason
    write(cluster, survivor, value=5)
    cluster.wait(lambda: cluster.role_counts(survivor) == (3, 0, 0), "the living stand-bys join again", 40)
    assert all(list((cluster.state_dir(n) / "aside").glob("dqlite-*")) for n in standbys)
    assert cluster.epoch(survivor) == 2
    assert read(cluster, survivor, *standbys) == list(range(6))

    cluster.start(*gone)
    cluster.wait(lambda: cluster.role_counts(survivor) == (3, 2, 0), "those that were off come back as new members", 40)
    assert read(cluster, *range(5)) == list(range(6))


def test_of_two_voters_the_one_left_is_rebuilt_without_force(cluster: Cluster):
    cluster.form(2)
    write(cluster, 0, 1, value=0)
    cluster.kill(0)
    cluster.wait(lambda: cluster.state(1) == "waiting", "no quorum")

    done, reason = rebuild(cluster, 1)

    assert done, reason
    write(cluster, 1, value=1)
    assert read(cluster, 1) == [0, 1]
    cluster.start(0)
    cluster.wait(lambda: cluster.role_counts(1) == (2, 0, 0), "the other joins again under a new id", 30)
    assert read(cluster, 0, 1) == [0, 1]

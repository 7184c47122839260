"""rebuild-cluster on real controllers: refused while a quorum lives, and what becomes of the others afterwards."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
from collections.abc import Iterator

from dbaccessor import localnode
from loopback import Cluster
from rows import read, write


def rebuild(cluster: Cluster, n: int, *, force: bool = False) -> tuple[bool, str]:
    status, answer = cluster.request(n, "POST", "/rebuild", 30, {"force": force})
    assert status == 200, answer
    return answer["done"], answer["reason"]


@contextlib.contextmanager
def not_startable(cluster: Cluster, *numbers: int) -> Iterator[None]:
    """Hold what their nodes listen on, so that controllerd runs and answers there without a node."""
    with contextlib.ExitStack() as held:
        for n in numbers:
            identity = json.loads((cluster.state_dir(n) / "identity.json").read_text())
            taken = held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            taken.bind("\0" + localnode.bind_address(identity["dqlite-id"])[1:])
        yield


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


def test_what_only_members_without_a_running_node_hold_is_never_given_up(cluster: Cluster):
    cluster.form(3)
    write(cluster, 0, 1, 2, value=1)
    cluster.kill(0)
    for value in (2, 3, 4):
        write(cluster, 1, 2, value=value)
    cluster.kill(1, 2)

    with not_startable(cluster, 1, 2):
        cluster.start(0, 1, 2)
        cluster.wait(lambda: cluster.state(0) == "waiting", "no quorum")
        cluster.wait(lambda: "has a newer log" in rebuild(cluster, 0)[1], "the others have told where their logs end")

        for force in (False, True):
            done, reason = rebuild(cluster, 0, force=force)
            assert not done
            assert "and its node does not run: get that node to run" in reason
        cluster.kill(1, 2)
    assert cluster.epoch(0) == 1
    cluster.start(1, 2)
    cluster.wait(lambda: cluster.serving(0, 1, 2), "all serve once their nodes run", 40)
    assert read(cluster, 0, 1, 2) == [1, 2, 3, 4]


def test_a_member_without_a_running_node_that_holds_nothing_newer_does_not_stand_in_the_way(cluster: Cluster):
    cluster.form(3)
    write(cluster, 0, 1, 2, value=1)
    cluster.kill(1)
    cluster.wait(lambda: cluster.leader(0) in (0, 2), "another leader")
    write(cluster, 0, 2, value=2)
    cluster.kill(2)

    with not_startable(cluster, 1):
        cluster.start(1)
        cluster.wait(lambda: cluster.state(0) == "waiting", "no quorum")
        cluster.wait(lambda: rebuild(cluster, 0)[0], "it is done once the other has told where its log ends")
        write(cluster, 0, value=3)
        cluster.wait(lambda: cluster.epoch(1) != 1, "it hears of the new epoch, and gives up its data")
    cluster.start(2)
    cluster.wait(lambda: cluster.role_counts(0) == (3, 0, 0), "both join again", 40)
    assert read(cluster, 0, 1, 2) == [1, 2, 3]

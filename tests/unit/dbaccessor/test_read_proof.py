"""The proof that voters may be asked beside a read, tried on a model of raft in which everything may happen."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from raftmodel import READING, Entry, World, read


def verdicts(seeds: range, leaves_out: str = "") -> Iterator[bool]:
    """Yield for each read that was confirmed whether it had all that was acknowledged before it began."""
    for seed in seeds:
        world = World(seed, leaves_out=leaves_out)
        readers: list[Iterator[bool | None]] = []
        for _ in range(600):
            world.happen()
            leaders = [server for server in world.servers if server.state == "leader"]
            if leaders and len(readers) < 4:
                readers.append(read(world, world.random.choice(leaders), leaves_out))
            for reader in readers[:]:
                said = next(reader, "over")
                if said is not None:
                    readers.remove(reader)
                    if said != "over":
                        yield bool(said)


def test_no_confirmed_read_lacks_what_was_acknowledged_before_it_began():
    found = list(verdicts(range(1000)))
    assert len(found) > 2000
    assert all(found)


@pytest.mark.parametrize(
    "leaves_out",
    ["asking", "asking again", "acknowledgements", "the voters of now", "that it leads", "waiting for its log"],
)
def test_the_model_finds_a_read_that_is_too_old_where_a_step_of_the_proof_is_left_out(leaves_out: str):
    assert not all(verdicts(range(3000), leaves_out))


class Hasty(random.Random):
    """Everybody is asked, in order, each wait is the shortest, and of what may go on it is the first or the last."""

    def __init__(self, chosen: int) -> None:
        super().__init__(0)
        self._chosen = chosen

    def random(self) -> float:
        return 0.0

    def randint(self, a: int, b: int) -> int:
        return a

    def choice(self, seq: Any) -> Any:
        return seq[self._chosen]


VOTERS_FIRST, LEADER_FIRST = 0, -1


@pytest.mark.parametrize(("leaves_out", "verdicts"), [("", []), ("that it leads", [False])])
def test_a_leader_that_has_stepped_down_tells_members_that_prove_nothing(leaves_out: str, verdicts: list[bool]):
    """Of five voters one vouches, which is not enough; of the three that a newer leader has left, it would be. They are
    members from the moment at which the log has them; what stands before them there is applied once it is on disk."""
    world = World(0, voters=5)
    world.random = Hasty(VOTERS_FIRST)
    first, friend, second, third, fourth = world.servers
    world.elect(first, friend, second, third, fourth)
    world.commit(first, Entry(first.term, write=1), friend, second, third, fourth)
    world.elect(second, third, fourth)
    world.commit(second, Entry(second.term, write=2), third, fourth)
    reader = read(world, first, leaves_out)
    for _ in range(6):  # Four voters are asked, and the leader waits.
        assert next(reader) is None
    applied = first.commit
    for voters in ({0, 1, 2, 4}, {0, 1, 2}):
        world.commit(second, Entry(second.term, voters=frozenset(voters)), friend, fourth, first)
    first.commit = applied
    assert [said for said in reader if said is not None] == verdicts


class Working(Hasty):
    """Here a leader works on what it reads for a moment, too."""

    def randint(self, a: int, b: int) -> int:
        return a + (b == READING)


def test_a_leader_that_steps_down_while_it_reads_has_read_what_it_had_to():
    """What is written from then on is none of this reader's business, whether it is read or not."""
    world = World(0, voters=3)
    world.random = Working(VOTERS_FIRST)
    first, second, third, *_ = world.servers
    world.elect(first, second, third)
    world.commit(first, Entry(first.term, write=1), second, third)
    reader = read(world, first)
    for _ in range(5):  # Two voters vouch, the leader tells the voters, finds that it leads, and reads.
        assert next(reader) is None
    world.elect(second, third)
    world.commit(second, Entry(second.term, write=2), third, first)
    assert first.state == "follower"
    assert [said for said in reader if said is not None] == [True]


@pytest.mark.parametrize(("leaves_out", "verdicts"), [("", []), ("a term of before", [False])])
def test_a_leader_that_is_elected_again_beside_the_read_has_read_in_its_term_of_before(
    leaves_out: str, verdicts: list[bool]
):
    world = World(0, voters=3)
    world.random = Hasty(LEADER_FIRST)
    first, second, third, *_ = world.servers
    world.elect(first, second, third)
    world.commit(first, Entry(first.term, write=1), second, third)
    world.elect(second, third)
    world.commit(second, Entry(second.term, write=2), third)
    reader = read(world, first, leaves_out)
    for _ in range(3):  # It tells the voters and reads, as it leads: for all that it knows.
        assert next(reader) is None
    world.commit(second, Entry(second.term, write=3), third, first)
    world.elect(first, second, third)
    world.commit(first, Entry(first.term, write=4), second, third)
    assert [said for said in reader if said is not None] == verdicts


@pytest.mark.parametrize(("leaves_out", "verdicts"), [("", []), ("the files", [False])])
def test_a_voter_that_starts_again_vouches_for_no_term_before_that_of_its_files(leaves_out: str, verdicts: list[bool]):
    world = World(0, voters=3)
    world.random = Hasty(VOTERS_FIRST)
    first, second, third, *_ = world.servers
    world.elect(first, second, third)
    world.commit(first, Entry(first.term, write=1), second, third)
    world.elect(second, third)
    world.commit(second, Entry(second.term, write=2), third)
    second.restart(leaves_out)
    reader = read(world, first, leaves_out)
    assert [said for said in reader if said is not None] == verdicts


@pytest.mark.parametrize(("leaves_out", "verdicts"), [("", []), ("three voters", [False])])
def test_of_two_voters_one_may_lead_alone_and_hear_of_it_from_nobody(leaves_out: str, verdicts: list[bool]):
    world = World(0, voters=2)
    world.random = Hasty(VOTERS_FIRST)
    first, second, *_ = world.servers
    world.elect(first, second)
    world.commit(first, Entry(first.term, write=1), second)
    first.log.append(Entry(first.term, voters=frozenset({second.number})))
    world.deliver_entries(first, second)
    world.elect(second)
    world.commit(second, Entry(second.term, write=2))
    reader = read(world, first, leaves_out)
    assert [said for said in reader if said is not None] == verdicts

"""The proof that voters may be asked ahead of a read, tried on a model of raft in which everything may happen."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from raftmodel import Entry, World, read


def verdicts(seeds: range, leaves_out: str = "") -> Iterator[bool]:
    """Yield for each read that was confirmed whether it had all that was acknowledged before it began."""
    for seed in seeds:
        world = World(seed)
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


@pytest.mark.parametrize("leaves_out", ["asking", "asking again", "the voters of now"])
def test_the_model_finds_a_read_that_is_too_old_where_a_step_of_the_proof_is_left_out(leaves_out: str):
    assert not all(verdicts(range(3000), leaves_out))


class Hasty(random.Random):
    """Everybody is asked, in order, and each wait is the shortest."""

    def random(self) -> float:
        return 0.0

    def randint(self, a: int, b: int) -> int:
        return a


@pytest.mark.parametrize(("leaves_out", "verdicts"), [("", []), ("the last request", [False])])
def test_a_leader_that_steps_down_after_the_read_tells_members_that_prove_nothing(
    leaves_out: str, verdicts: list[bool]
):
    """Of five voters one names it, which is not enough; of the three that a newer leader has left, it would be."""
    world = World(0, voters=5)
    world.random = Hasty()
    first, friend, second, third, fourth = world.servers
    world.elect(first, friend, second, third, fourth)
    world.commit(first, Entry(first.term, write=1), friend, second, third, fourth)
    world.elect(second, third, fourth)
    world.commit(second, Entry(second.term, write=2), third, fourth)
    reader = read(world, first, leaves_out)
    for _ in range(6):  # Four voters are asked, one waits, and reads.
        assert next(reader) is None
    for voters in ({0, 1, 2, 4}, {0, 1, 2}):
        world.commit(second, Entry(second.term, voters=frozenset(voters)), friend, fourth, first)
    assert list(reader) == verdicts

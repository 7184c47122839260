"""Holders as processes of their own on a real Dqlite cluster: killed, paused, stopped, with their leader killed too.

After every story: the acts in the order of their moments, and those written through fences in the order of their
commits, have tokens that only rise.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from controller.leases import timing as timings
from dqlitenodes import Processes
from leaseholder import Holders, play

DURATION = timings.PROMISED_SECONDS
# What is promised is one second over the duration. These processes share two cores with whatever else runs.
BOUND = 3.0


def holder(holders: Holders) -> int:
    return int(holders.acts()[-1].holder)


@pytest.mark.parametrize(("count", "seconds"), [(2, DURATION), (5, DURATION), (3, 2.0)])
def test_after_kill_nine_another_acts_within_the_duration_and_a_second(three: Processes, count: int, seconds: float):
    def story(holders: Holders) -> None:
        first = holder(holders)
        time.sleep(1.3)
        killed = time.monotonic()
        holders.kill(first)
        other = holders.wait_for_other(str(first), killed)
        print(f"{count} holders, {seconds:g} s: another acted after {other.at - killed:.2f} s")
        assert other.at - killed < seconds + BOUND

    play(three, count, story, seconds)


def test_after_a_clean_stop_another_acts_in_less_than_a_second(three: Processes):
    def story(holders: Holders) -> None:
        first = holder(holders)
        told = time.monotonic()
        assert holders.terminate(first) == 0
        other = holders.wait_for_other(str(first), told)
        last = max(act.at for act in holders.acts() if act.holder == str(first))
        print(f"another acted {other.at - told:.2f} s after the stop, {other.at - last:.2f} s after the last act")
        assert other.at - told < 1

    play(three, 3, story, DURATION)


def test_a_holder_that_was_paused_past_its_duration_acts_no_more_and_cannot_commit(three: Processes):
    def story(holders: Holders) -> None:
        first = holder(holders)
        paused = time.monotonic()
        holders.freeze(first)
        other = holders.wait_for_other(str(first), paused + 1)
        assert other.at - paused < DURATION + BOUND
        thawed = time.monotonic()
        holders.thaw(first)
        # Until it has seen for itself that it is not responsible, and waits like everybody else.
        holders.wait(lambda acts: acts[-1].at > thawed + 2, "two seconds more of acts")
        assert {act.holder for act in holders.acts() if act.at > thawed} == {other.holder}
        assert "is over" in holders.logs() or "is lost" in holders.logs()

    play(three, 2, story, DURATION)


@pytest.mark.parametrize(
    ("requests", "answers"), [(True, True), (True, False), (False, True)], ids=["both ways", "requests", "answers"]
)
def test_a_holder_that_is_cut_off_stops_before_another_acts(three: Processes, requests: bool, answers: bool):
    def story(holders: Holders) -> None:
        first = holder(holders)
        holders.way(first).cut(requests=requests, answers=answers)
        cut = time.monotonic()
        other = holders.wait_for_other(str(first), cut)
        last = max(act.at for act in holders.acts() if act.holder == str(first))
        print(f"it acted for {last - cut:.2f} s, another after {other.at - cut:.2f} s")
        # With the answers gone alone, one more renewal may have been committed, a moment after the cut.
        assert last < other.at < cut + DURATION + BOUND + (0 if requests else 1.2)
        holders.way(first).heal()
        healed = time.monotonic()
        holders.wait(lambda acts: acts[-1].at > healed + 2, "the other goes on")
        assert holders.acts()[-1].token == other.token
        assert holders.children[first].poll() is None

    play(three, 3, story, DURATION)


def test_the_leader_dies_while_leases_are_claimed_and_renewed(three: Processes):
    def story(holders: Holders) -> None:
        for _ in range(2):
            first = holder(holders)
            leader = asyncio.run(three.wait_for_leader())
            killed = time.monotonic()
            holders.kill(first)
            # In the midst of the claims of all others.
            time.sleep(DURATION - 0.2)
            three.kill(leader)
            other = holders.wait_for_other(str(first), killed + 0.1)
            print(f"another acted after {other.at - killed:.2f} s")
            three.start(leader)
            asyncio.run(three.wait_for_roles(3, 0))
            holders.start(first)

    play(three, 5, story, DURATION)


def test_nobody_loses_a_lease_to_a_leader_that_dies(three: Processes):
    def story(holders: Holders) -> None:
        first = holders.acts()[-1]
        for _ in range(3):
            leader = asyncio.run(three.wait_for_leader())
            three.kill(leader)
            asyncio.run(three.wait_for_leader(other_than=leader))
            three.start(leader)
            asyncio.run(three.wait_for_roles(3, 0))
        now = time.monotonic()
        holders.wait(lambda acts: acts[-1].at > now + 2, "it goes on")
        assert {act.token for act in holders.acts()} == {first.token}

    play(three, 3, story, DURATION)


def test_an_hour_on_the_wall_clock_changes_nothing(three: Processes):
    def story(holders: Holders) -> None:
        # One an hour ahead, one an hour behind, while a third holds; then the third is gone.
        first = holder(holders)
        for n, offset in zip([n for n in range(3) if n != first], (3600.0, -3600.0), strict=True):
            holders.kill(n)
            holders.start(n, wall_offset=offset)
        now = time.monotonic()
        holders.wait(lambda acts: acts[-1].at > now + DURATION + 1, "acts go on")
        assert {act.holder for act in holders.acts()} == {str(first)}
        killed = time.monotonic()
        holders.kill(first)
        other = holders.wait_for_other(str(first), killed)
        assert DURATION - 2 < other.at - killed < DURATION + BOUND

    play(three, 3, story, DURATION)


def test_all_holders_start_anew_at_once(three: Processes):
    def story(holders: Holders) -> None:
        killed = time.monotonic()
        for n in range(3):
            holders.kill(n)
        holders.start(*range(3))
        other = holders.wait_for_other(None, killed + 0.1)
        print(f"somebody acted after {other.at - killed:.2f} s")
        # What is counted again from the beginning is what the new processes themselves have seen.
        assert DURATION - 1.5 < other.at - killed < DURATION + 2 * BOUND

    play(three, 3, story, DURATION)


def test_the_holder_and_the_leader_die_in_the_same_moment(three: Processes):
    def story(holders: Holders) -> None:
        first = holder(holders)
        leader = asyncio.run(three.wait_for_leader())
        killed = time.monotonic()
        holders.kill(first)
        three.kill(leader)
        other = holders.wait_for_other(str(first), killed)
        print(f"another acted after {other.at - killed:.2f} s")
        assert other.at - killed < DURATION + BOUND

    play(three, 3, story, DURATION)

"""Holders as processes of their own on a real Dqlite cluster: killed, paused, stopped, with their leader killed too.

After every story: the acts in the order of their moments, and those written through fences in the order of their
commits, have tokens that only rise.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import time

import pytest

from controller.leases import timing as timings
from dqlitenodes import LATENCY_MS, Processes
from leaseholder import JUMPS, Holders, play

DURATION = timings.PROMISED_SECONDS
TIMING = timings.for_latency(LATENCY_MS)
# From a process's start to its first look at the leases; these share two cores with whatever else runs.
BEGIN_SECONDS = 5.0
# For what was on its way when the cut came, and for looking.
SOON_SECONDS = 0.3


def holder(holders: Holders) -> int:
    return int(holders.acts()[-1].holder)


def bound(holders: Holders, since: float, until: float, seconds: float = DURATION) -> float:
    """What is promised, one second over the duration, and what even a bystander had to wait for an answer meanwhile."""
    return seconds + 1 + holders.bystander.longest_wait(since, until)


@pytest.mark.parametrize(("count", "seconds"), [(2, DURATION), (5, DURATION), (3, 2.0)])
def test_after_kill_nine_another_acts_within_the_duration_and_a_second(three: Processes, count: int, seconds: float):
    def story(holders: Holders) -> None:
        first = holder(holders)
        time.sleep(1.3)
        killed = time.monotonic()
        holders.kill(first)
        other = holders.wait_for_other(str(first), killed)
        limit = bound(holders, killed, other.at, seconds)
        print(f"{count} holders, {seconds:g} s: another acted after {other.at - killed:.2f} s, of {limit:.2f} s")
        assert other.at - killed <= limit

    play(three, count, story, seconds)


def test_after_a_clean_stop_another_acts_in_less_than_a_second(three: Processes):
    def story(holders: Holders) -> None:
        first = holder(holders)
        told = time.monotonic()
        assert holders.terminate(first) == 0
        other = holders.wait_for_other(str(first), told)
        last = max(act.at for act in holders.acts() if act.holder == str(first))
        print(f"another acted {other.at - told:.2f} s after the stop, {other.at - last:.2f} s after the last act")
        assert other.at - told < 1 + holders.bystander.longest_wait(told, other.at)

    play(three, 3, story, DURATION)


def test_a_holder_that_was_paused_past_its_duration_acts_no_more_and_cannot_commit(three: Processes):
    def story(holders: Holders) -> None:
        first = holder(holders)
        paused = time.monotonic()
        holders.freeze(first)
        other = holders.wait_for_other(str(first), paused + 1)
        assert other.at - paused <= bound(holders, paused, other.at)
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
        change, limit = holders.bystander.last_change_by(str(first), other.at), bound(holders, cut, other.at)
        print(
            f"it acted for {last - cut:.2f} s, its last renewal was seen after {change - cut:.2f} s, another acted"
            f" after {other.at - cut:.2f} s"
        )
        assert last < other.at <= change + limit
        # With the answers gone alone one more renewal is committed, the next one, and never a second: that compares
        # with a row which is gone.
        more = 0.0 if requests else TIMING.renew_seconds(DURATION)
        assert change <= cut + more + SOON_SECONDS + limit - DURATION - 1
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
            assert other.at - killed <= bound(holders, killed, other.at)
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
        assert DURATION - 2 < other.at - killed <= bound(holders, killed, other.at)

    play(three, 3, story, DURATION)


def test_the_wall_clock_jumps_an_hour_under_the_holder_and_under_who_waits(three: Processes):
    def story(holders: Holders) -> None:
        began = holders.acts()[-1]
        first = holder(holders)
        waiting = next(n for n in range(3) if n != first)
        for n, jump in itertools.product((first, waiting), (signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR2)):
            holders.move_wall(n, jump)
            moved = time.monotonic()
            # Two renewals, and more than ten looks, by the clock that was moved.
            holders.wait(lambda acts, moved=moved: acts[-1].at > moved + 2, "acts go on")  # type: ignore[misc]
        assert {act.token for act in holders.acts()} == {began.token}
        # And once more in the midst of a take-over, on both sides of it.
        killed = time.monotonic()
        holders.kill(first)
        time.sleep(DURATION / 2)
        for n, jump in zip([n for n in range(3) if n != first], JUMPS, strict=True):
            holders.move_wall(n, jump)
        other = holders.wait_for_other(str(first), killed)
        assert DURATION - 2 < other.at - killed <= bound(holders, killed, other.at)

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
        assert DURATION - 1.5 < other.at - killed <= bound(holders, killed, other.at) + BEGIN_SECONDS

    play(three, 3, story, DURATION)


def test_the_holder_and_the_leader_die_in_the_same_moment(three: Processes):
    def story(holders: Holders) -> None:
        first = holder(holders)
        leader = asyncio.run(three.wait_for_leader())
        killed = time.monotonic()
        holders.kill(first)
        three.kill(leader)
        other = holders.wait_for_other(str(first), killed)
        print(f"another acted after {other.at - killed:.2f} s, with the leader dead too")
        assert other.at - killed <= bound(holders, killed, other.at)

    play(three, 3, story, DURATION)

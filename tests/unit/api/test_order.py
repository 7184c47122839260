"""The orders: fair to controllers, faithful to the last good address, and late for what failed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

import jumpingloop
from controller.api import dial, order
from controller.api.scopes import HostPort


def addresses(controller: int, count: int) -> list[HostPort]:
    return [HostPort(f"10.0.{controller}.{n}", 17070) for n in range(1, count + 1)]


UNEVEN = [addresses(0, 1), addresses(1, 2), addresses(2, 5)]
DIALS = 3000
# Chi-square with two degrees of freedom goes beyond this by chance once in a thousand seeds.
CRITICAL = 13.82


def chi_square(counted: Counter[int], controllers: int = 3) -> float:
    expected = counted.total() / controllers
    return sum((counted[c] - expected) ** 2 / expected for c in range(controllers))


def controller_of(address: HostPort) -> int:
    return int(address.host.split(".")[2])


def test_each_of_three_controllers_gets_its_third_of_three_thousand_dials():
    """The whole way: the order, then the race, in which every address answers equally fast."""
    dice = random.Random(20240817)

    async def connect(address: HostPort) -> HostPort:
        return address

    async def discard(_: HostPort) -> None:
        pass

    async def all_dials() -> Counter[int]:
        won: Counter[int] = Counter()
        for _ in range(DIALS):
            address, _ = await dial.dial(order.for_agent(UNEVEN, dice), connect, discard=discard, pace=dial.AGENT)
            won[controller_of(address)] += 1
        return won

    won = jumpingloop.run(all_dials())

    assert chi_square(won) < CRITICAL, won
    # The same test finds the order out that shuffles addresses: 1/8, 2/8 and 5/8 of the dials.
    flat = [a for group in UNEVEN for a in group]
    unfair = Counter(controller_of(dice.choice(flat)) for _ in range(DIALS))
    assert chi_square(unfair) > 50 * CRITICAL


def test_when_the_first_controller_is_dead_its_share_is_split_evenly():
    dice = random.Random(7)
    dead = 2
    second: Counter[int] = Counter()
    for _ in range(DIALS):
        order_ = order.for_agent(UNEVEN, dice)
        second[next(controller_of(a) for a in order_ if controller_of(a) != dead)] += 1

    assert chi_square(second, 2) < 10.83, second


def test_after_one_address_of_a_controller_comes_one_of_another():
    for seed in range(100):
        dialled = [controller_of(a) for a in order.for_agent(UNEVEN, random.Random(seed))]

        assert sorted(dialled[:3]) == [0, 1, 2]
        assert sorted(dialled[3:5]) == [1, 2]
        assert dialled[5:] == [2, 2, 2]


def test_what_failed_a_moment_ago_comes_last():
    failed = {*UNEVEN[0], UNEVEN[2][0]}

    for seed in range(50):
        ordered = order.for_agent(UNEVEN, random.Random(seed), failed)

        assert set(ordered[-2:]) == failed
        assert ordered.index(UNEVEN[2][1]) < 2


HOSTS = st.integers(0, 12).map(lambda n: HostPort(f"10.0.0.{n}", 17070))
GROUPS = st.lists(st.lists(HOSTS, max_size=5), max_size=4)


@given(GROUPS, st.sets(HOSTS), st.integers())
def test_agents_dial_every_address_exactly_once(groups: list[list[HostPort]], failed: set[HostPort], seed: int):
    ordered = order.for_agent(groups, random.Random(seed), failed)

    assert Counter(ordered) == Counter({a for group in groups for a in group})
    assert [a in failed for a in ordered] == sorted(a in failed for a in ordered)


@given(st.lists(HOSTS), st.none() | HOSTS, st.sets(HOSTS))
def test_clients_dial_the_last_good_address_first_whatever_the_order(
    listed: Sequence[HostPort], last_good: HostPort | None, failed: set[HostPort]
):
    ordered = order.for_client(listed, last_good, failed)

    assert Counter(ordered) == Counter({*listed} | ({last_good} if last_good else set()))
    if last_good is not None:
        assert ordered[0] == last_good
    rest = [a for a in ordered if a != last_good]
    known = [a for a in dict.fromkeys(listed) if a != last_good]
    assert rest == [a for a in known if a not in failed] + [a for a in known if a in failed]


def test_a_failure_is_forgotten_after_a_while_and_by_an_answer():
    failures = order.Failures(recent_seconds=30)
    one, two = addresses(0, 2)
    failures.note(one, 100)
    failures.note(two, 120)

    assert failures.recent(129.9) == {one, two}
    assert failures.recent(130) == {two}
    failures.forgive(two)
    failures.forgive(two)
    assert failures.recent(131) == frozenset()

"""The dice of a journey: every fault once, wherever it can be."""

from __future__ import annotations

from faultrun import nemesis


def test_a_journey_has_every_fault_once_and_none_that_a_lone_unit_cannot_have():
    for seed in range(50):
        faults = nemesis.journey(seed)
        assert sorted(faults) == sorted(nemesis._EVERY)
        assert {faults[0], faults[-1]} <= set(nemesis._ALONE)


def test_a_seed_gives_the_same_journey_and_another_one_soon_another():
    assert nemesis.journey(3) == nemesis.journey(3)
    assert len({tuple(nemesis.journey(seed)) for seed in range(10)}) > 5

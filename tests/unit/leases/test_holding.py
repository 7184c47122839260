"""From when a holder counts: the sending of the attempt that is known to have committed, whatever was answered."""

from __future__ import annotations

import dataclasses

from controller.leases import Key, Responsibility, Token
from controller.leases import timing as timings
from controller.leases.clock import Clock
from controller.leases.holding import Attempt, Held
from controller.leases.keeper import Keeper
from controller.leases.store import Row
from leasetable import MemoryStore, Table

KEY = Key("singular-controller", "m", "m")
TIMING = timings.for_latency(10)
MARGIN = TIMING.margin_seconds(5)
FIRST = Row(KEY, "0", "mine", Token(0, 4), 7, 5000, 0)


def held() -> tuple[Held, Responsibility]:
    responsibility = Responsibility(KEY, FIRST.token, "0", "mine", lambda: 100.0)
    return Held(Attempt(FIRST, 100.0), responsibility, TIMING), responsibility


def test_it_begins_with_the_claim():
    _, responsibility = held()
    assert responsibility.deadline == 105 - MARGIN


def test_an_answer_that_comes_late_counts_from_the_sending():
    one, responsibility = held()
    sent = one.attempt(8, 101.0)
    assert responsibility.deadline == 105 - MARGIN
    assert one.heard(sent.row)
    assert responsibility.deadline == 106 - MARGIN


def test_the_row_tells_which_of_several_attempts_it_was():
    for committed, sent in ((8, 101.0), (9, 103.0)):
        one, responsibility = held()
        first, second = one.attempt(8, 101.0), one.attempt(9, 103.0)
        # The second is answered, with what the row is; the first was never heard of.
        assert one.heard(first.row if committed == 8 else second.row)
        assert responsibility.deadline == sent + 5 - MARGIN
        assert one.row.renewals == committed


def test_a_row_that_came_back_from_before_moves_nothing():
    one, responsibility = held()
    one.heard(one.attempt(8, 101.0).row)
    # A forced reconfiguration lost the renewal: the row is the holder's own, and older.
    assert one.heard(FIRST)
    assert responsibility.deadline == 106 - MARGIN
    assert one.row == FIRST


def test_what_has_another_holder_incarnation_or_token_is_not_held():
    for changed in ({"incarnation": "theirs"}, {"incarnation": "", "holder": ""}, {"token": Token(0, 5)}):
        one, _ = held()
        assert not one.heard(dataclasses.replace(FIRST, **changed))
    assert not held()[0].heard(None)


def test_a_shorter_duration_counts_from_its_sending_and_a_longer_one_from_its_commit():
    one, responsibility = held()
    one.duration_ms = 2000
    shorter = one.attempt(8, 101.0)
    assert responsibility.deadline == 103 - TIMING.margin_seconds(2)
    one.heard(shorter.row)
    one.duration_ms = 60_000
    longer = one.attempt(9, 102.0)
    assert responsibility.deadline == 103 - TIMING.margin_seconds(2)
    one.heard(longer.row)
    assert responsibility.deadline == 162 - TIMING.margin_seconds(60)


def test_no_two_attempts_of_one_incarnation_have_one_counter():
    keeper = Keeper(MemoryStore(Table()), TIMING, Clock())
    # All of them from the same state, as after answers that did not come.
    assert [keeper.next_renewals(FIRST) for _ in range(3)] == [8, 9, 10]
    assert keeper.next_renewals(dataclasses.replace(FIRST, renewals=20)) == 21
    assert keeper.next_renewals(FIRST) == 22
    # Nor upon a lease whose row has gone meanwhile: what is in doubt may yet make it.
    assert keeper.next_renewals(None) == 23


def test_a_renewal_that_came_late_is_counted_and_told():
    one, _ = held()
    one.heard(one.attempt(8, 101.0).row)
    assert one.late == 0
    one.heard(one.attempt(9, 103.5).row)
    assert one.late == 1
    assert one.attempt(10, 104.5).row.late == 1

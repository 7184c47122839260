"""From when an observer counts: the receipt of the first answer that showed the row as it still is."""

from __future__ import annotations

import dataclasses

from controller.leases import Key, Token
from controller.leases.sightings import Sightings
from controller.leases.store import Changes, Row

KEY = Key("singular-controller", "m", "m")
ROW = Row(KEY, "1", "theirs", Token(0, 4), 7, 5000, 0)


def seen(*rows: Row, at: float = 10.0) -> Sightings:
    made = Sightings("mine")
    made.heed("epoch")
    made.take(Changes(rows, 1, complete=True), at)
    return made


def test_a_row_that_stays_may_be_taken_after_its_duration():
    sightings = seen(ROW)
    for at, complete in ((12.0, False), (13.0, True), (14.0, False)):
        sightings.take(Changes((ROW,), 1, complete=complete), at)
    assert sightings.free_at(KEY) == 15


def test_any_change_begins_it_anew():
    changes = ({"renewals": 8}, {"token": Token(0, 5)}, {"incarnation": "another"}, {"token": Token(1, 4)})
    for changed in changes:
        sightings = seen(ROW)
        sightings.note(KEY, dataclasses.replace(ROW, **changed), 12.0)
        assert sightings.free_at(KEY) == 17


def test_the_duration_is_the_rows_own():
    sightings = seen(ROW)
    sightings.note(KEY, dataclasses.replace(ROW, renewals=8, duration_ms=60_000), 12.0)
    assert sightings.free_at(KEY) == 72


def test_what_nobody_holds_or_this_process_itself_does_is_free():
    for row in (dataclasses.replace(ROW, holder="", incarnation=""), dataclasses.replace(ROW, incarnation="mine")):
        assert seen(row).free_at(KEY) == 0
    assert seen().free_at(KEY) == 0


def test_another_epoch_makes_all_of_it_forgotten():
    sightings = seen(ROW)
    sightings.heed("epoch")
    assert sightings.complete and sightings.row(KEY) == ROW
    sightings.heed("the next")
    assert not sightings.complete and sightings.row(KEY) is None and sightings.mark == 0


def test_a_complete_answer_without_a_row_says_that_it_is_gone():
    sightings = seen(ROW)
    sightings.take(Changes((), 0, complete=True), 12.0)
    assert sightings.rows() == {}

"""What is known of a node's terms from what passes on its way in."""

from __future__ import annotations

from dbaccessor.terms import OwnTerms, Terms, Word
from rafttalk import append_entries, append_entries_result, install_snapshot, opening, request_vote


def started(stored: int | None) -> Terms:
    terms = Terms(7)
    terms.begin(stored)
    return terms


def given(terms: Terms, sender: int, *said: bytes) -> Word | None:
    listener = terms.listen(sender)
    for part in (opening(sender), *said):
        listener(memoryview(part))
    return terms.word


def test_a_node_starts_with_the_term_of_its_files():
    assert started(5).word == Word(5)
    assert given(started(5), 8, append_entries_result(4)) == Word(5)


def test_whoever_sends_entries_or_a_snapshot_leads_in_that_term_and_whoever_acknowledges_does_not():
    assert given(started(1), 8, append_entries(3)) == Word(3, 8, 3)
    assert given(started(1), 8, install_snapshot(3, b"", b"x")) == Word(3, 8, 3)
    assert given(started(1), 8, append_entries_result(3)) == Word(3)


def test_a_leader_of_the_very_term_of_the_files_is_known_as_well():
    assert given(started(3), 8, append_entries(3)) == Word(3, 8, 3)


def test_what_a_candidate_asks_about_is_no_term_yet():
    assert given(started(1), 8, request_vote(9, pre=True), request_vote(9, pre=False)) == Word(1)


def test_an_earlier_leader_that_speaks_late_changes_nothing():
    terms = started(1)
    given(terms, 9, append_entries(4))
    assert given(terms, 8, append_entries(3)) == Word(4, 9, 4)


def test_a_follower_that_is_ahead_tells_of_no_leader():
    terms = started(1)
    given(terms, 8, append_entries(3))
    assert given(terms, 9, append_entries_result(4)) == Word(4, 8, 3)


def test_where_one_connection_is_not_understood_nothing_is_told_any_more():
    terms = started(1)
    given(terms, 8, append_entries(3))
    assert given(terms, 9, b"\0" * 100) is None
    assert given(terms, 8, append_entries(4)) is None


def test_a_node_whose_files_do_not_tell_a_term_tells_none():
    assert started(None).word is None
    assert given(started(None), 8, append_entries(3)) is None


def test_the_own_node_answers_at_once_as_long_as_it_runs():
    terms = started(1)
    runs = [terms]
    own = OwnTerms(terms, lambda: runs[0])
    said: list[Word | None] = []
    assert own.ask(said.append, deadline_seconds=1)
    assert said == [Word(1)]
    runs[0] = started(1)
    assert not own.ask(said.append, deadline_seconds=1)
    assert len(said) == 1


def test_what_passes_before_the_node_has_started_is_told_once_it_has():
    terms = Terms(7)
    assert given(terms, 8, append_entries(3)) is None
    terms.begin(2)
    assert terms.word == Word(3, 8, 3)


def test_what_was_not_understood_before_the_start_leaves_nothing_to_tell():
    terms = Terms(7)
    given(terms, 8, b"\0" * 100)
    terms.begin(2)
    assert terms.word is None

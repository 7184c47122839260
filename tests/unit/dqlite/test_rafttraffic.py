"""Raft's messages as they pass, in pieces of any size: whose terms are heard, when, and what is not understood."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rafttalk
from dbaccessor.dqlite.rafttraffic import Incomprehensible, Traffic
from rafttalk import words

TERMS = st.integers(1, 2**63)
SIZES = st.lists(st.integers(0, 300).map(lambda n: 8 * n), max_size=5)
# What is said, and what is heard of it.
SAID = st.one_of(
    st.builds(lambda t, s: (rafttalk.append_entries(t, *s), [(t, True)]), TERMS, SIZES),
    st.builds(lambda t: (rafttalk.append_entries_result(t), [(t, False)]), TERMS),
    st.builds(lambda t, p: (rafttalk.request_vote(t, pre=p), []), TERMS, st.booleans()),
    st.builds(lambda t: (rafttalk.request_vote_result(t), []), TERMS),
    st.builds(lambda t: (rafttalk.timeout_now(t), []), TERMS),
    st.builds(
        lambda t, c, d: (rafttalk.install_snapshot(t, b"c" * 8 * c, b"\1" * d), [(t, True)]),
        TERMS,
        st.integers(0, 40),
        st.integers(0, 3000),
    ),
)


def hear(data: bytes, *cuts: int) -> list[tuple[int, bool]]:
    heard: list[tuple[int, bool]] = []
    traffic = Traffic(lambda term, leads: heard.append((term, leads)))
    ends = [0, *sorted(cuts), len(data)]
    for start, end in itertools.pairwise(ends):
        traffic.feed(memoryview(data)[start:end])
    return heard


@given(st.data(), st.lists(SAID, max_size=8))
def test_every_term_is_heard_in_order_whatever_the_pieces(data: st.DataObject, said: list):
    whole = rafttalk.opening(8) + b"".join(part for part, _ in said)
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=20))
    assert hear(whole, *cuts) == [term for _, terms in said for term in terms]


def test_a_term_is_heard_with_the_last_byte_of_the_header_and_before_the_payload():
    said = rafttalk.opening(8) + rafttalk.append_entries(3, 64)
    assert hear(said[:-65]) == []
    assert hear(said[:-64]) == [(3, True)]


def test_a_connection_that_stays_a_client_s_says_nothing_of_terms():
    questions = words(1) + rafttalk.request(18, words(0)) + rafttalk.request(0, words(0)) * 3
    assert hear(questions) == []
    assert hear(questions + rafttalk.opening(8)[8:] + rafttalk.append_entries_result(4)) == [(4, False)]


def test_later_nodes_may_use_the_high_bits_of_a_message_s_type():
    kind, rest = 1 | 7 << 16, rafttalk.append_entries(3)[8:]
    assert hear(rafttalk.opening(8) + words(kind) + rest) == [(3, True)]


@pytest.mark.parametrize(
    ("said", "words_of_it"),
    [
        (words(0x86104DD760433FE5), "version"),
        (rafttalk.opening(8) + rafttalk.message(7, words(3)), "type 7"),
        (rafttalk.opening(8) + rafttalk.message(0, words(3)), "type 0"),
        (rafttalk.opening(8) + words(1, 0), "header of 0 bytes"),
        (rafttalk.opening(8) + words(1, 1 << 40), "header of"),
        (rafttalk.opening(8) + rafttalk.message(1, words(3, 1, 1)), "header of 24 bytes"),
        (rafttalk.opening(8) + rafttalk.message(1, words(3, 1, 1, 1, 2**62)), "entries are described"),
        (rafttalk.opening(8) + rafttalk.message(5, words(3, 1, 1, 1, 2**62)), "header of 40 bytes"),
    ],
)
def test_what_is_not_raft_s_is_not_understood(said: bytes, words_of_it: str):
    with pytest.raises(Incomprehensible, match=words_of_it):
        hear(said)


@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_are_read_or_not_understood_and_nothing_else(data: bytes, opened: bool):
    try:
        hear(rafttalk.opening(8) + data if opened else data)
    except Incomprehensible:
        pass

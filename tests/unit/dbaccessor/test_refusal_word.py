"""Each reason for turning a caller away has one word for counting, and it is the word of the sentence that is told."""

from __future__ import annotations

import msgspec
import pytest

from dbaccessor import preamble
from dbaccessor.identity import Epoch
from dbaccessor.preamble import Answer, Hello, MemberFact
from dbaccessor.tls import Peer

EPOCH = Epoch(number=2, tag="ab")
OWN = Answer(accepted=True, cluster_uuid="u", epoch=EPOCH, name="controller-0-7", running=True)
HELLO = Hello(purpose="raft", cluster_uuid="u", epoch=EPOCH, controller_id="1", dqlite_id=8, target="controller-0-7")


@pytest.mark.parametrize(
    ("own", "hello", "word", "sentence"),
    [
        ({}, {"cluster_uuid": "other"}, "cluster", "of cluster u"),
        ({"cluster_uuid": ""}, {}, "cluster", "(none)"),
        ({"superseded": Epoch(number=3, tag="cd")}, {}, "superseded", "superseded"),
        ({}, {"epoch": Epoch(number=1, tag="ab")}, "epoch", "in epoch"),
        ({}, {"epoch": None}, "epoch", "in epoch"),
        ({}, {"target": "controller-0-8"}, "name", "not controller-0-8"),
        ({"running": False}, {}, "not-running", "not running"),
    ],
)
def test_a_refusal_has_one_word(own: dict[str, object], hello: dict[str, object], word: str, sentence: str):
    facts = msgspec.structs.replace(OWN, **own)
    caller = msgspec.structs.replace(HELLO, **hello)

    assert sentence in str(preamble.refusal(caller, facts))
    assert preamble.refusal_word(caller, facts) == word


def test_whoever_may_come_in_is_not_refused():
    assert preamble.refusal(HELLO, OWN) is None


@pytest.mark.parametrize(
    ("peer", "claimed", "served"),
    [
        (Peer("1"), 8, True),
        (Peer("1", retired=True), 8, True),
        (Peer("1"), 7, False),
        (Peer("1", retired=True), 7, False),
        (Peer("1", retired=True), 0, False),
        (Peer("", retired=True), 7, False),
        (Peer("", retired=True), 8, False),
    ],
)
def test_whoever_is_gone_for_good_is_served_under_the_dqlite_id_of_its_own_membership_only(
    peer: Peer, claimed: int, served: bool
):
    """The id is the caller's own word, and everybody is told those of the members."""
    facts = msgspec.structs.replace(
        OWN, members=(MemberFact(7, "controller-0-7", "voter"), MemberFact(8, "controller-1-8", "voter"))
    )
    asks = Hello(purpose="client", cluster_uuid="u", epoch=EPOCH, controller_id=peer.controller_id, dqlite_id=claimed)
    departed = () if peer.retired else ("1",)

    assert (preamble.refusal(asks, facts, peer, departed) is None) is served
    assert (preamble.lost(asks, facts, peer, departed) is None) is served

"""The first frame of every connection between controllers: who is calling whom, in which cluster and epoch, for what.

One frame is the four bytes `HAC1`, a 32-bit little-endian length, and that many bytes of JSON. The caller sends a
Hello and gets an Answer, whatever the purpose; a refusal tells the refuser's own identity and epoch, so both sides
learn from it. Only then does a raft or client connection carry Dqlite's own bytes. All of it goes under TLS (tls.py),
and who a caller claims to be here must be who its certificate names.

| purpose | what follows the answer |
|---|---|
| identity | another Hello, or nothing; the answer is the point (every controller may ask, a lost one too) |
| raft, client | Dqlite's wire protocol, if cluster-uuid, epoch and the dialled name agree |
| terms | questions of one byte, and an answer to each (terms.py), if the same agree |
| membership | one MembershipRequest was in the Hello; one Outcome follows when it is done |
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from typing import Literal, TypeVar

import msgspec

from dbaccessor.identity import Epoch, controller_of
from dbaccessor.tls import Peer

MAGIC = b"HAC1"
HEADER = struct.Struct("<4sI")
# How TLS begins.
HANDSHAKE = b"\x16"
# A cluster of a hundred members answers with about 10 kB; what is larger is not ours.
MAX_FRAME = 256 * 1024

Purpose = Literal["identity", "raft", "client", "terms", "membership"]


class BadFrame(ConnectionError):
    """The other side does not speak this protocol."""


class WrongPeer(ConnectionError):
    """The certificate of the other side names somebody else than it should."""


class MembershipRequest(msgspec.Struct, frozen=True, rename="kebab", kw_only=True):
    """What a node asks of the leader's worker: to become a member ("join") or to stop being one ("leave")."""

    operation: Literal["join", "leave"]
    controller_id: str
    dqlite_id: int
    name: str
    address: str = ""
    generation: int = 0


class Hello(msgspec.Struct, frozen=True, rename="kebab", kw_only=True):
    """The caller's side. `target` is the raft name it means to reach; "" when it does not know one yet."""

    purpose: Purpose
    cluster_uuid: str = ""
    epoch: Epoch | None = None
    controller_id: str = ""
    dqlite_id: int = 0
    target: str = ""
    request: MembershipRequest | None = None


class MemberFact(msgspec.Struct, frozen=True, rename="kebab"):
    """One member as the answering node's raft configuration has it; role is "voter", "stand-by" or "spare"."""

    dqlite_id: int
    name: str
    role: str


class Answer(msgspec.Struct, frozen=True, rename="kebab", kw_only=True):
    """The answering side.

    `leader` is the raft name of the leader that the node itself is in touch with, "" when it knows none: by its own
    raft, or, for a stand-by or spare, by a leader that told it so. It is never what a third one said.
    `members` is what its own log says; a spare gets no log and answers an empty one.
    `ailing` says what keeps a node that runs from doing its part ("": nothing).
    `last_term` and `last_index` tell where its log ends, once it has been without a leader, or stopped, for the hold;
    else, and where the log of a stopped node cannot be read whole, 0.
    `empty`: it has been so for the hold, has no vote, and its log holds no entry at all, as that of a spare.
    """

    accepted: bool
    reason: str = ""
    controller_id: str = ""
    cluster_uuid: str = ""
    epoch: Epoch | None = None
    dqlite_id: int = 0
    name: str = ""
    holds_data: bool = False
    running: bool = False
    leading: bool = False
    leader: str = ""
    superseded: Epoch | None = None
    generation: int = 0
    members: tuple[MemberFact, ...] = ()
    last_term: int = 0
    last_index: int = 0
    empty: bool = False
    ailing: str = ""


class Outcome(msgspec.Struct, frozen=True):
    """How a membership request ended. Not done means: surely not done, or not known; asking again is safe."""

    done: bool
    reason: str


Frame = Hello | Answer | Outcome


def encode(frame: Frame) -> bytes:
    body = msgspec.json.encode(frame)
    return HEADER.pack(MAGIC, len(body)) + body


def body_length(header: bytes) -> int:
    """Return how many bytes follow this header. Raises BadFrame."""
    magic, length = HEADER.unpack(header)
    if magic[:1] == HANDSHAKE:
        raise BadFrame("the other side speaks TLS, and it is off here")
    if magic != MAGIC:
        raise BadFrame("the other side does not speak the preamble of this program")
    if length > MAX_FRAME:
        raise BadFrame(f"a preamble of {length} bytes is refused")
    return int(length)


def decode_hello(body: bytes) -> Hello:
    return _decode(body, Hello)


def decode_answer(body: bytes) -> Answer:
    return _decode(body, Answer)


def decode_outcome(body: bytes) -> Outcome:
    return _decode(body, Outcome)


def refusal(hello: Hello, own: Answer, peer: Peer | None = None, departed: Collection[str] = ()) -> str | None:
    """Say why `own` (the answering node's facts) must not serve `hello`, or return None when it may.

    Pure. `peer` is whom the caller's certificate names, None without TLS. The identity purpose is served to every
    controller that says who it is: it is how two nodes find out that they differ.
    """
    if peer is not None and (reason := _false_claim(hello, peer)) is not None:
        return reason
    if hello.purpose == "identity":
        return None
    if _is_no_node(hello):
        return "raft is for nodes, and the caller does not say which one it is"
    if not own.cluster_uuid or hello.cluster_uuid != own.cluster_uuid:
        return f"this is a node of cluster {own.cluster_uuid or '(none)'}, not of {hello.cluster_uuid or '(none)'}"
    if own.superseded is not None:
        return f"this node's data was superseded by epoch {own.superseded}"
    if hello.epoch is None or own.epoch is None or hello.epoch != own.epoch:
        return f"this node is in epoch {own.epoch}, the caller in {hello.epoch}"
    if hello.target and hello.target != own.name:
        return f"this node is {own.name}, not {hello.target}"
    if not own.running:
        return "this node's database is not running"
    return None if peer is None else lost(hello, own, peer, departed)


def refusal_word(hello: Hello, own: Answer, peer: Peer | None = None) -> str:
    """Return in one word, for counting, what `refusal` says; meaningful only where it refuses."""
    if peer is not None and _false_claim(hello, peer) is not None:
        return "identity"
    if _is_no_node(hello):
        return "identity"
    if not own.cluster_uuid or hello.cluster_uuid != own.cluster_uuid:
        return "cluster"
    if own.superseded is not None:
        return "superseded"
    if hello.epoch is None or own.epoch is None or hello.epoch != own.epoch:
        return "epoch"
    if hello.target and hello.target != own.name:
        return "name"
    return "lost" if own.running else "not-running"


def believable(hello: Hello, own: Answer, peer: Peer) -> bool:
    """Whether what a caller says of itself is to be heeded: it is who its certificate names, and no announcement of a
    newer epoch by somebody who was left behind. Those may learn of one here."""
    return _false_claim(hello, peer) is None and not (peer.retired and newer_epoch(own.epoch, hello.epoch))


def check_peer(peer: Peer, controller_id: str) -> None:
    """Raise WrongPeer unless the certificate that was shown is that of the controller that was dialled."""
    if peer.controller_id != controller_id:
        raise WrongPeer(f"it shows the certificate of {peer}, and controller {controller_id} was dialled")


def _is_no_node(hello: Hello) -> bool:
    return hello.purpose == "raft" and not 0 < hello.dqlite_id < 1 << 64


def _false_claim(hello: Hello, peer: Peer) -> str | None:
    if hello.controller_id and hello.controller_id != peer.controller_id:
        return f"the caller says that it is controller {hello.controller_id}, and its certificate is that of {peer}"
    if hello.purpose in ("raft", "membership") and not hello.controller_id:
        return f"{hello.purpose} is for controllers, and the caller does not say which one it is"
    if hello.request is not None and hello.request.controller_id != peer.controller_id:
        return f"the caller asks for controller {hello.request.controller_id}, and its certificate is that of {peer}"
    return None


def lost(hello: Hello, own: Answer, peer: Peer, departed: Collection[str]) -> str | None:
    """Say why whoever is gone for good is not to be served, or return None. As long as raft counts it as a member it
    may speak: without it there might be no quorum to remove it. The Dqlite id is the caller's own word, so it must be
    that of a member which is the certificate's controller."""
    if not peer.retired and peer.controller_id not in departed:
        return None
    member = any(m.dqlite_id == hello.dqlite_id and controller_of(m.name) == peer.controller_id for m in own.members)
    joins = hello.request is not None and hello.request.operation == "join"
    if member and not joins:
        return None
    if peer.controller_id in departed:
        return f"controller {peer.controller_id} has departed for good"
    return f"the certificate of {peer} is of an authority that was replaced"


def newer_epoch(own: Epoch | None, other: Epoch | None) -> bool:
    """Whether `other` comes after `own`. Equal numbers with different tags are not ordered."""
    return own is not None and other is not None and other.number > own.number


_T = TypeVar("_T", Hello, Answer, Outcome)


def _decode(body: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise BadFrame(f"a preamble that cannot be read: {error}") from error

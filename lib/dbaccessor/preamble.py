"""The first frame of every connection between controllers: who is calling whom, in which cluster and epoch, for what.

One frame is the four bytes `HAC1`, a 32-bit little-endian length, and that many bytes of JSON. The caller sends a
Hello and gets an Answer, whatever the purpose; a refusal tells the refuser's own identity and epoch, so both sides
learn from it. Only then does a raft or client connection carry Dqlite's own bytes.

| purpose | what follows the answer |
|---|---|
| identity | nothing; the answer is the point (anybody may ask) |
| raft, client | Dqlite's wire protocol, if cluster-uuid, epoch and the dialled name agree |
| membership | one MembershipRequest was in the Hello; one Outcome follows when it is done |
"""

from __future__ import annotations

import struct
from typing import Literal, TypeVar

import msgspec

from dbaccessor.identity import Epoch

MAGIC = b"HAC1"
HEADER = struct.Struct("<4sI")
# A cluster of a hundred members answers with about 10 kB; what is larger is not ours.
MAX_FRAME = 256 * 1024

Purpose = Literal["identity", "raft", "client", "membership"]


class BadFrame(ConnectionError):
    """The other side does not speak this protocol."""


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
    `last_term` and `last_index` tell where its log ends, once it has been without a leader for the hold; else 0.
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


def refusal(hello: Hello, own: Answer) -> str | None:
    """Say why `own` (the answering node's facts) must not serve `hello`, or return None when it may.

    Pure. The identity purpose is always served: it is how two nodes find out that they differ.
    """
    if hello.purpose == "identity":
        return None
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
    return None


def newer_epoch(own: Epoch | None, other: Epoch | None) -> bool:
    """Whether `other` comes after `own`. Equal numbers with different tags are not ordered."""
    return own is not None and other is not None and other.number > own.number


_T = TypeVar("_T", Hello, Answer, Outcome)


def _decode(body: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise BadFrame(f"a preamble that cannot be read: {error}") from error

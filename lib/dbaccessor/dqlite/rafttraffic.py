"""What raft says on its way into a node: the terms of its messages, read along as the bytes pass, and nothing else.

Nodes open connections to each other for two purposes, and both begin as a client's does: with a version, and requests.
One of those, CONNECT, says that raft follows instead; without it the connection stays a client's (a leader asks the
others about their roles so). Raft's messages go one way only, from who opened the connection (libdqlite's transport.c
and uv_encoding.c):

| part | contents |
|---|---|
| 2 words | the type in the low 16 bits, the length of the header in bytes |
| header | begins with the sender's term; what else, and how long a payload follows, depends on the type |

A term in an *AppendEntries*, its result, or an *InstallSnapshot* is the term that the sender was in when it sent this.
A vote's may be one that its sender only asks about (a pre-vote), so those are not heard.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator
from typing import Final

from dbaccessor.dqlite import raftformat

_APPEND_ENTRIES, _APPEND_ENTRIES_RESULT, _REQUEST_VOTE, _REQUEST_VOTE_RESULT, _INSTALL_SNAPSHOT, _TIMEOUT_NOW = range(
    1, 7
)
_BARE = frozenset({_APPEND_ENTRIES_RESULT, _REQUEST_VOTE, _REQUEST_VOTE_RESULT, _TIMEOUT_NOW})

_VERSION = 1
# A client's request begins with its length in words and its type.
_REQUEST: Final = struct.Struct("<IBBH")
_CONNECT = 11
_HEAD: Final = struct.Struct("<QQ")
# Term, previous index and term, commit index, number of entries; then a description of each.
_ENTRIES: Final = struct.Struct("<5Q")
# Term, last index and term, index and length of the configuration; then that, and the length of the snapshot.
_SNAPSHOT: Final = struct.Struct("<5Q")
# A batch has some dozens of entries, and a configuration of a hundred members takes a few kilobytes.
_LONGEST_HEADER = 1 << 20

# How many bytes are to be read as a whole, and how many of what comes before those are nobody's business here.
_Want = tuple[int, int]


class Incomprehensible(Exception):
    """These bytes are not what this module takes raft's traffic for; the message says in which way."""


class Traffic:
    """Reads along on one connection. `heard` is told of the term of each message, and whether its sender leads in it.

    It is told of a message before `feed` returns with the end of that message's header.
    """

    def __init__(self, heard: Callable[[int, bool], None]) -> None:
        self._heard = heard
        self._story = self._listen()
        self._part = bytearray()
        self._need, self._skip = next(self._story)

    def feed(self, data: memoryview) -> None:
        """Take the bytes that come next, in pieces of any size. Raises Incomprehensible, and is of no use then."""
        while True:
            if self._skip:
                passed = min(self._skip, len(data))
                self._skip -= passed
                data = data[passed:]
            missing = self._need - len(self._part)
            if self._skip or len(data) < missing:
                self._part += data
                return
            self._part += data[:missing]
            data = data[missing:]
            whole, self._part = self._part, bytearray()
            self._need, self._skip = self._story.send(whole)

    def _listen(self) -> Generator[_Want, bytearray, None]:
        (version,) = raftformat.WORD.unpack((yield raftformat.WORD.size, 0))
        if version != _VERSION:
            raise Incomprehensible(f"the protocol's version is {version}")
        skip, request = 0, 0
        while request != _CONNECT:
            words, request, _, _ = _REQUEST.unpack((yield _REQUEST.size, skip))
            skip = 8 * words
        while True:
            kind, length = _HEAD.unpack((yield _HEAD.size, skip))
            kind &= 0xFFFF
            if not 8 <= length <= _LONGEST_HEADER:
                raise Incomprehensible(f"a message of type {kind} has a header of {length} bytes")
            skip = self._read(kind, (yield length, 0))

    def _read(self, kind: int, header: bytearray) -> int:
        """Tell of one message, and return the length of its payload."""
        try:
            if kind == _APPEND_ENTRIES:
                term, _, _, _, count = _ENTRIES.unpack_from(header)
                end = _ENTRIES.size + count * raftformat.ENTRY.size
                if end > len(header):  # A word more than is needed is usual.
                    raise Incomprehensible(f"{count} entries are described in {len(header)} bytes")
                self._heard(term, True)
                return sum(size for _, _, size in raftformat.ENTRY.iter_unpack(header[_ENTRIES.size : end]))
            if kind == _INSTALL_SNAPSHOT:
                term, _, _, _, length = _SNAPSHOT.unpack_from(header)
                (payload,) = raftformat.WORD.unpack_from(header, _SNAPSHOT.size + length)
                self._heard(term, True)
                return int(payload)
        except struct.error as error:
            raise Incomprehensible(f"a message of type {kind} has a header of {len(header)} bytes") from error
        if kind not in _BARE:
            raise Incomprehensible(f"a message of type {kind}")
        if kind == _APPEND_ENTRIES_RESULT:
            self._heard(raftformat.WORD.unpack_from(header)[0], False)
        return 0

"""Dqlite's client protocol, version 1, as bytes and values. No I/O here.

A connection begins with HELLO, which is never answered. Then each message is a header (number of 8-byte words
of the body, type, schema) and a body of little-endian words; text ends with NUL and is padded to a word. A
request is answered by one message, a query by several, of which only the last is marked done.
"""

from __future__ import annotations

import enum
import functools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dbaccessor.dqlite.values import VALUES, WORD, encode_parameters, encode_text, encode_u64, text_at, u64_at, within
from dbaccessor.dqlite.values import Parameters as Parameters
from dbaccessor.dqlite.values import ProtocolError as ProtocolError
from dbaccessor.dqlite.values import Value as Value

HELLO: Final = struct.pack("<Q", 1)

# Nothing that this project asks comes near it; a header that claims more is nonsense, or an attack.
MAX_BODY_BYTES = 64 << 20

# The type of the response that has rows.
_ROWS: Final = 7

HEADER: Final = struct.Struct("<IBBH")
_U32_PAIR: Final = struct.Struct("<II")
# The row id is signed in SQLite and travels as the same 64 bits.
_RESULT: Final = struct.Struct("<qQ")

_ROWS_DONE: Final = b"\xff" * WORD
_ROWS_MORE: Final = b"\xee" * WORD

# The answer to DUMP can be as large as a database: it is streamed, and not one of the responses below.
FILES_TYPE: Final = 9

# Answers up to this length are remembered where the same one comes again and again.
_LONGEST_KNOWN = 4096

# With more parameters than fit into a byte, the second form of the same request is used.
_MAX_SHORT_PARAMETERS = 255


class RequestType(enum.IntEnum):
    LEADER = 0
    OPEN = 3
    EXEC_SQL = 8
    QUERY_SQL = 9
    ADD = 12
    ASSIGN = 13
    REMOVE = 14
    DUMP = 15
    CLUSTER = 16
    TRANSFER = 17


class _Field(enum.Enum):
    U64 = enum.auto()
    TEXT = enum.auto()


# What each request carries; those of the second table carry parameters behind it. Every one has at least one
# field: a request without words in its body is never answered.
_U64F, _TEXT = _Field.U64, _Field.TEXT
_REQUESTS: Final[dict[RequestType, tuple[_Field, ...]]] = {
    RequestType.LEADER: (_U64F,),
    RequestType.OPEN: (_TEXT, _U64F, _TEXT),  # name, flags, vfs
    RequestType.EXEC_SQL: (_U64F, _TEXT),  # database, statement
    RequestType.QUERY_SQL: (_U64F, _TEXT),
    RequestType.ADD: (_U64F, _TEXT),  # id, address
    RequestType.ASSIGN: (_U64F, _U64F),  # id, role
    RequestType.REMOVE: (_U64F,),  # id
    RequestType.DUMP: (_TEXT,),  # name
    RequestType.CLUSTER: (_U64F,),  # format; 1 has the roles
    RequestType.TRANSFER: (_U64F,),  # id
}
_WITH_PARAMETERS = frozenset({RequestType.EXEC_SQL, RequestType.QUERY_SQL})


@dataclass(frozen=True)
class Request:
    type: RequestType
    fields: tuple[int | str, ...]
    parameters: Parameters = ()


class Role(enum.IntEnum):
    """A member's role, as the wire numbers it. `str()` gives the word that status and documents use."""

    VOTER = 0
    STANDBY = 1
    SPARE = 2

    def __str__(self) -> str:
        return ("voter", "stand-by", "spare")[self]


@dataclass(frozen=True)
class Member:
    dqlite_id: int
    name: str
    role: Role


@dataclass(frozen=True)
class Failure:
    code: int
    message: str


@dataclass(frozen=True)
class Server:
    """The leader as the asked node sees it; id 0 and an empty name when it sees none."""

    dqlite_id: int
    name: str


@dataclass(frozen=True)
class Members:
    members: tuple[Member, ...]


@dataclass(frozen=True)
class Database:
    database_id: int


@dataclass(frozen=True)
class Result:
    last_insert_id: int
    rows_affected: int


@dataclass(frozen=True)
class RowsPart:
    """Some rows of an answer. They count only when a part with `done` has come."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    done: bool


@dataclass(frozen=True)
class Empty:
    pass


Response = Failure | Server | Members | Database | Result | RowsPart | Empty


def encode(request: Request) -> bytes:
    """Return the bytes of a request. Raises ProtocolError for what the wire cannot carry (NUL in text, big numbers)."""
    body = b"".join(
        _encode_field(kind, value) for kind, value in zip(_REQUESTS[request.type], request.fields, strict=True)
    )
    schema = 0
    if request.parameters:
        if request.type not in _WITH_PARAMETERS:
            raise ProtocolError(f"{request.type.name} takes no parameters")
        schema = int(len(request.parameters) > _MAX_SHORT_PARAMETERS)
        body = body + encode_parameters(request.parameters, schema)
    if len(body) > MAX_BODY_BYTES:
        raise ProtocolError(f"a request of {len(body)} bytes is larger than {MAX_BODY_BYTES}")
    return HEADER.pack(len(body) // WORD, request.type, schema, 0) + body


def _encode_field(kind: _Field, value: int | str) -> bytes:
    if isinstance(value, str) and kind is _Field.TEXT:
        return _known_text(value) if len(value) <= _LONGEST_KNOWN else encode_text(value)
    if isinstance(value, int) and kind is _Field.U64:
        return encode_u64(value)
    raise ProtocolError(f"{value!r} cannot be sent as {kind.name}")


# A program sends the same few statements over and over. What only equals one is encoded for itself.
_known_text = functools.lru_cache(maxsize=256, typed=True)(encode_text)


class TooLarge(ProtocolError):
    """Rows that claim to be longer than what is held in memory of a message. Asked again, they would be no shorter."""


class Decoder:
    """Turns a stream of bytes into responses. Holds what has arrived and no more: a header alone allocates nothing."""

    def __init__(self, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self._max_body_bytes = max_body_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes | memoryview) -> None:
        self._buffer += data

    @property
    def pending(self) -> int:
        """How many bytes wait for the rest of their message."""
        return len(self._buffer)

    def take(self, count: int) -> bytes | None:
        """Return the next so many bytes as they came, or None if not all have come: for an answer that is streamed."""
        if len(self._buffer) < count:
            return None
        with memoryview(self._buffer) as view:
            taken = bytes(view[:count])
        del self._buffer[:count]
        return taken

    def put_back(self, data: bytes) -> None:
        """Let what was taken be the next to come again."""
        self._buffer[:0] = data

    def holds(self, count: int) -> bool:
        """Whether so many whole responses are here, or what `next` is going to raise for."""
        end = 0
        for _ in range(count):
            if len(self._buffer) < end + HEADER.size:
                return False
            size = HEADER.unpack_from(self._buffer, end)[0] * WORD
            if size > self._max_body_bytes:
                return True
            end += HEADER.size + size
        return len(self._buffer) >= end

    def next(self) -> Response | None:
        """Return the next whole response, or None if more bytes are needed. Raises ProtocolError."""
        if len(self._buffer) < HEADER.size:
            return None
        words, kind, schema, _extra = HEADER.unpack_from(self._buffer)
        size = words * WORD
        if size > self._max_body_bytes:
            if (kind, schema) == (_ROWS, 0):
                raise TooLarge(f"the result is larger than {self._max_body_bytes} bytes; ask for less at a time")
            raise ProtocolError(f"a response claims {size} bytes, more than {self._max_body_bytes}")
        end = HEADER.size + size
        if len(self._buffer) < end:
            return None
        with memoryview(self._buffer) as view:
            body = bytes(view[HEADER.size : end])
        del self._buffer[:end]
        decode = _RESPONSES.get(kind)
        if decode is None or schema != 0:
            raise ProtocolError(f"a response of type {kind}, schema {schema} is not known")
        return decode(body)


class _Cursor:
    """Reads fields from a body; every read checks that the bytes are there."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._offset = 0

    @property
    def left(self) -> int:
        return len(self._body) - self._offset

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise ProtocolError(f"a response ends {size - self.left} bytes too early")
        self._offset += size
        return self._body[self._offset - size : self._offset]

    def u64(self) -> int:
        value, self._offset = u64_at(self._body, self._offset)
        return value

    def text(self) -> str:
        text, self._offset = text_at(self._body, self._offset)
        return text

    def end(self) -> None:
        if self.left:
            raise ProtocolError(f"a response has {self.left} bytes too many")


def _decode_failure(body: bytes) -> Failure:
    """Decode from the end: a failure that answers a query has the query's columns and rows in front of it.

    The text ends in the last word and its earlier words contain no NUL; the code before it does, being small.
    """
    start = len(body) - WORD
    while start >= WORD and 0 not in body[start - WORD : start]:
        start -= WORD
    if start < WORD or 0 not in body[-WORD:]:
        raise ProtocolError("a failure without a code")
    code, _ = u64_at(body, start - WORD)
    if code > 0xFFFFFFFF:
        raise ProtocolError(f"a failure with the impossible code {code}")
    return Failure(code, body[start:].split(b"\0", 1)[0].decode("utf-8", "replace"))


def _decode_server(body: bytes) -> Server:
    return _known_server(body) if len(body) <= _LONGEST_KNOWN else _read_server(body)


# A voter is asked whom it follows for every confirmed read, and names the same one for days.
@functools.lru_cache(maxsize=8)
def _known_server(body: bytes) -> Server:
    return _read_server(body)


def _read_server(body: bytes) -> Server:
    cursor = _Cursor(body)
    server = Server(cursor.u64(), cursor.text())
    cursor.end()
    return server


def _decode_members(body: bytes) -> Members:
    return _known_members(body) if len(body) <= _LONGEST_KNOWN else _read_members(body)


# Every confirmed read asks who the members are, and they are the same for days.
@functools.lru_cache(maxsize=8)
def _known_members(body: bytes) -> Members:
    return _read_members(body)


def _read_members(body: bytes) -> Members:
    cursor = _Cursor(body)
    count = cursor.u64()
    if count > cursor.left // (3 * WORD):
        raise ProtocolError(f"{count} members do not fit into {cursor.left} bytes")
    members: list[Member] = []
    for _ in range(count):
        dqlite_id, name, role = cursor.u64(), cursor.text(), cursor.u64()
        if role > Role.SPARE:
            raise ProtocolError(f"{name} has the unknown role {role}")
        members.append(Member(dqlite_id, name, Role(role)))
    cursor.end()
    return Members(tuple(members))


def _decode_database(body: bytes) -> Database:
    cursor = _Cursor(body)
    database_id, _padding = _U32_PAIR.unpack(cursor.take(WORD))
    cursor.end()
    return Database(int(database_id))


def _decode_result(body: bytes) -> Result:
    if missing := _RESULT.size - len(body):
        what = f"ends {missing} bytes too early" if missing > 0 else f"has {-missing} bytes too many"
        raise ProtocolError(f"a response {what}")
    return Result(*_RESULT.unpack(body))


def _decode_empty(body: bytes) -> Empty:
    cursor = _Cursor(body)
    cursor.u64()
    cursor.end()
    return Empty()


def _decode_rows(body: bytes) -> RowsPart:
    count, offset = u64_at(body, 0)
    if count > (len(body) - offset) // WORD:
        raise ProtocolError(f"{count} columns do not fit into {len(body) - offset} bytes")
    columns: list[str] = []
    for _ in range(count):
        name, offset = text_at(body, offset)
        columns.append(name)
    rows: list[tuple[Value, ...]] = []
    # Four bits a column. All bits set cannot be a row's codes: there is no type 15 or 14.
    code_bytes = ((count + 1) // 2 + WORD - 1) // WORD * WORD
    while (marker := body[offset : offset + WORD]) != _ROWS_DONE and marker != _ROWS_MORE:
        if not count:
            raise ProtocolError("a row without columns")
        codes = body[offset : offset + code_bytes]
        offset = within(body, offset + code_bytes)
        row: list[Value] = []
        for i in range(count):
            code = codes[i // 2] >> i % 2 * 4 & 0xF
            read = VALUES.get(code)
            if read is None:
                raise ProtocolError(f"a value of the unknown type {code}")
            value, offset = read(body, offset)
            row.append(value)
        rows.append(tuple(row))
    if left := len(body) - offset - WORD:
        raise ProtocolError(f"a response has {left} bytes too many")
    return RowsPart(tuple(columns), tuple(rows), marker == _ROWS_DONE)


_RESPONSES: Final[dict[int, Callable[[bytes], Response]]] = {
    0: _decode_failure,
    1: _decode_server,
    3: _decode_members,
    4: _decode_database,
    6: _decode_result,
    _ROWS: _decode_rows,
    8: _decode_empty,
}

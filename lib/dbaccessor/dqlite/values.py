"""SQLite's values, and the words and texts that they are made of, as bytes of Dqlite's protocol. No I/O here.

Everything is padded to words of 8 bytes, little-endian. What reads returns the value and where the next one begins, and
checks that its bytes are there.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final

Value = int | float | str | bytes | None
Parameters = Sequence[Value]

WORD: Final = 8
_U64: Final = struct.Struct("<Q")
_I64: Final = struct.Struct("<q")
_F64: Final = struct.Struct("<d")


class ProtocolError(ValueError):
    """The bytes are no message of this protocol. The connection they came from is of no further use."""


def encode_u64(value: int) -> bytes:
    if not 0 <= value < 2**64:
        raise ProtocolError(f"{value} does not fit into 64 bits")
    return _U64.pack(value)


def encode_text(text: str) -> bytes:
    """Return a text with the NUL that ends it. Raises ProtocolError where it has one inside."""
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise ProtocolError(f"text is not valid Unicode: {error.reason}") from error
    if b"\0" in data:
        raise ProtocolError("text contains NUL, at which the other side would cut it")
    return data + bytes(WORD - len(data) % WORD)


def encode_parameters(values: Parameters, schema: int) -> bytes:
    """Return what stands behind a statement: how many, the type of each, and they. Schema 0 takes 255 at the most."""
    codes = bytearray(struct.pack("<I", len(values)) if schema else bytes([len(values)]))
    data = bytearray()
    for value in values:
        code, encoded = _encode_value(value)
        codes.append(code)
        data += encoded
    return bytes(codes) + bytes(-len(codes) % WORD) + bytes(data)


_INTEGER, _FLOAT, _TEXT_CODE, _BLOB, _NULL, _UNIXTIME, _ISO8601, _BOOLEAN = 1, 2, 3, 4, 5, 9, 10, 11


def _encode_value(value: Value) -> tuple[int, bytes]:
    match value:
        case str():
            return _TEXT_CODE, encode_text(value)
        case int():
            if not -(2**63) <= value < 2**63:
                raise ProtocolError(f"{value} does not fit into a 64-bit integer")
            return _INTEGER, _I64.pack(value)
        case None:
            return _NULL, bytes(WORD)
        case float():
            if value != value:
                raise ProtocolError("NaN would be stored as NULL")
            return _FLOAT, _F64.pack(value)
        case bytes():
            return _BLOB, _U64.pack(len(value)) + value + bytes(-len(value) % WORD)
        case _:
            raise ProtocolError(f"a parameter cannot be of type {type(value).__name__}")


def within(body: bytes, end: int) -> int:
    """Return `end`, if there are so many bytes."""
    if end > len(body):
        raise ProtocolError(f"a response ends {end - len(body)} bytes too early")
    return end


def u64_at(body: bytes, offset: int) -> tuple[int, int]:
    end = within(body, offset + WORD)
    return _U64.unpack_from(body, offset)[0], end


def _i64_at(body: bytes, offset: int) -> tuple[int, int]:
    end = within(body, offset + WORD)
    return _I64.unpack_from(body, offset)[0], end


def _f64_at(body: bytes, offset: int) -> tuple[float, int]:
    end = within(body, offset + WORD)
    return _F64.unpack_from(body, offset)[0], end


def text_at(body: bytes, offset: int) -> tuple[str, int]:
    end = body.find(b"\0", offset)
    if end < 0:
        raise ProtocolError("a text in a response does not end")
    # The engine stores what it was given; a text that is no UTF-8 must not make its row unreadable.
    return body[offset:end].decode("utf-8", "replace"), within(body, offset + (end - offset) // WORD * WORD + WORD)


def _blob_at(body: bytes, offset: int) -> tuple[bytes, int]:
    size, start = u64_at(body, offset)
    if size > len(body) - start:
        raise ProtocolError(f"a blob of {size} bytes does not fit into {len(body) - start}")
    return body[start : start + size], within(body, start + size + -size % WORD)


def _null_at(body: bytes, offset: int) -> tuple[None, int]:
    return None, within(body, offset + WORD)


def _boolean_at(body: bytes, offset: int) -> tuple[bool, int]:
    value, end = u64_at(body, offset)
    return bool(value), end


# By the code of its type.
VALUES: Final[dict[int, Callable[[bytes, int], tuple[Value, int]]]] = {
    _INTEGER: _i64_at,
    _FLOAT: _f64_at,
    _TEXT_CODE: text_at,
    _BLOB: _blob_at,
    _NULL: _null_at,
    _UNIXTIME: _i64_at,
    _ISO8601: text_at,
    _BOOLEAN: _boolean_at,
}

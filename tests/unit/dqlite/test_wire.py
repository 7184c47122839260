"""The codec against bytes of a real node (tests/golden), and against bytes that no node would send."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import golden_conversation
from dbaccessor.dqlite import wire
from dbaccessor.dqlite.wire import Decoder, Failure, Member, ProtocolError, Request, RequestType, Role

STORED = json.loads(golden_conversation.FILE.read_text())
STEPS: dict[str, dict[str, Any]] = {step["name"]: step for step in STORED["steps"]}

# What each stored answer says; "several parts" is checked on its own.
SAID: dict[str, wire.Response] = {
    "leader": wire.Server(4711, "controller-0-4711"),
    "members": wire.Members((Member(4711, "controller-0-4711", Role.VOTER),)),
    "no database yet": Failure(12, "no database opened"),
    "open": wire.Database(0),
    "open twice": Failure(5, "a database for this connection is already open"),
    "create": wire.Result(0, 0),
    "insert": wire.Result(1, 1),
    "insert all types": wire.Result(9, 8),
    "all types": wire.RowsPart(
        ("a", "b", "typeof(b)"),
        (
            (1, "text", "text"),
            (2, 1, "integer"),
            (3, -1, "integer"),
            (4, 1.5, "real"),
            (5, "1234567", "text"),
            (6, "12345678", "text"),
            (7, b"", "blob"),
            (8, b"\x00\xff123456", "blob"),
            (9, None, "null"),
        ),
        True,
    ),
    "no rows": wire.RowsPart(("a",), (), True),
    "constraint": Failure(1555, "UNIQUE constraint failed: t.a"),
    "syntax": Failure(1, 'near "FROM": syntax error'),
    "failure behind a row of one column": Failure(1, "integer overflow"),
    "failure behind a row of five columns": Failure(1, "integer overflow"),
    "empty statement": Failure(0, "empty statement"),
    "add one that is there": Failure(1, "server address already in use"),
    "remove one that is not there": Failure(1, "server ID is not valid"),
    "transfer to one that is not there": Failure(1, "server ID is not valid"),
    "add": wire.Empty(),
    "two members": wire.Members(
        (Member(4711, "controller-0-4711", Role.VOTER), Member(2, "controller-1-2", Role.SPARE))
    ),
    "remove": wire.Empty(),
}


def decode(data: bytes) -> list[wire.Response]:
    """Decode all responses in `data`, which must hold nothing else."""
    decoder = Decoder()
    decoder.feed(data)
    found: list[wire.Response] = []
    while (response := decoder.next()) is not None:
        found.append(response)
    assert decoder.pending == 0
    return found


def answer(name: str) -> bytes:
    return b"".join(map(bytes.fromhex, STEPS[name]["answer"]))


def test_the_greeting_is_the_stored_one():
    assert wire.HELLO.hex() == STORED["hello"]


@pytest.mark.parametrize(("name", "request_"), golden_conversation.STEPS, ids=[s[0] for s in golden_conversation.STEPS])
def test_requests_are_the_stored_bytes(name: str, request_: Request):
    assert wire.encode(request_).hex() == STEPS[name]["request"]


@pytest.mark.parametrize("name", SAID)
def test_stored_answers_say_what_they_said(name: str):
    assert decode(answer(name)) == [SAID[name]]


def test_more_than_sixteen_columns_have_a_second_word_of_types():
    (part,) = decode(answer("row in one line"))

    assert isinstance(part, wire.RowsPart)
    assert part.rows == ((1, 2.5, "x", b"\0", None, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6, 7),)


def test_parts_are_marked_and_only_the_last_is_done():
    parts = decode(answer("several parts"))

    assert len(parts) > 2
    assert [part.done for part in parts if isinstance(part, wire.RowsPart)] == [False] * (len(parts) - 1) + [True]
    rows = [row for part in parts if isinstance(part, wire.RowsPart) for row in part.rows]
    assert rows == [(n, "some text to fill a page") for n in range(1, 301)]


@pytest.mark.parametrize("size", [1, 3, 7, 8, 1000])
def test_how_the_bytes_are_cut_into_pieces_does_not_matter(size: int):
    data = b"".join(answer(name) for name in STEPS)
    whole = decode(data)
    decoder = Decoder()
    found: list[wire.Response] = []
    for start in range(0, len(data), size):
        decoder.feed(data[start : start + size])
        while (response := decoder.next()) is not None:
            found.append(response)

    assert found == whole


def message(kind: int, body: bytes, *, words: int | None = None, schema: int = 0) -> bytes:
    return struct.pack("<IBBH", len(body) // 8 if words is None else words, kind, schema, 0) + body


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


def text(value: str) -> bytes:
    data = value.encode()
    return data + bytes(8 - len(data) % 8)


@given(
    st.binary(max_size=80).map(lambda b: b + bytes(-len(b) % 8)),
    st.integers(min_value=0, max_value=20000),
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=40),
)
@example(words(1) + text("a") + words(5, 5), 10506, "leadership lost")
@example(b"", 0, "")
@example(b"", 5, "12345678")
def test_a_failure_is_read_from_its_end_whatever_stands_in_front(front: bytes, code: int, said: str):
    assert decode(message(0, front + words(code) + text(said))) == [Failure(code, said)]


values = st.one_of(
    st.none(),
    st.integers(min_value=-(2**63), max_value=2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=30),
    st.binary(max_size=30),
)


def encode_row(row: tuple[wire.Value, ...]) -> bytes:
    """A second encoder of rows, written from the description of the format: nibbles of types, then the values."""
    codes = {type(None): 5, int: 1, float: 2, str: 3, bytes: 4}
    nibbles = [codes[type(value)] for value in row]
    nibbles += [0] * (-len(nibbles) % 16)
    head = bytes(low | high << 4 for low, high in zip(nibbles[::2], nibbles[1::2], strict=True))
    body = b""
    for value in row:
        match value:
            case None:
                body += words(0)
            case int():
                body += struct.pack("<q", value)
            case float():
                body += struct.pack("<d", value)
            case str():
                body += text(value)
            case bytes():
                body += words(len(value)) + value + bytes(-len(value) % 8)
    return head + body


@given(
    st.integers(min_value=1, max_value=40).flatmap(
        lambda n: st.lists(st.lists(values, min_size=n, max_size=n).map(tuple), max_size=5).map(lambda rows: (n, rows))
    ),
    st.booleans(),
)
def test_rows_of_any_values_come_through(table: tuple[int, list[tuple[wire.Value, ...]]], done: bool):
    count, rows = table
    names = tuple(f"column {n}" for n in range(count))
    body = words(count) + b"".join(map(text, names)) + b"".join(map(encode_row, rows))
    body += b"\xff" * 8 if done else b"\xee" * 8

    assert decode(message(7, body)) == [wire.RowsPart(names, tuple(rows), done)]


def test_the_declared_types_of_dqlite_come_as_plain_values():
    body = words(3) + text("a") + text("b") + text("c")
    body += words(0xB | 0xA << 4 | 9 << 8) + words(1) + text("2026-11-22") + words(7) + b"\xff" * 8

    assert decode(message(7, body)) == [wire.RowsPart(("a", "b", "c"), ((True, "2026-11-22", 7),), True)]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (message(0, b""), "without a code"),
        (message(0, words(0)), "without a code"),
        (message(0, b"x" * 16), "without a code"),
        (message(0, words(2**32) + text("x")), "impossible code"),
        (message(1, words(1)), "does not end"),
        (message(1, words(1) + b"x" * 8), "does not end"),
        (message(1, words(1) + text("x") + words(0)), "8 bytes too many"),
        (message(3, words(2**60)), "do not fit"),
        (message(3, words(1, 7) + text("x") + words(3)), "unknown role 3"),
        (message(4, b""), "8 bytes too early"),
        (message(6, words(1)), "8 bytes too early"),
        (message(7, words(2**60)), "do not fit"),
        (message(7, words(0, 0)), "without columns"),
        (message(7, words(1) + text("a")), "too early"),
        (message(7, words(1) + text("a") + words(1, 5)), "too early"),
        (message(7, words(1) + text("a") + words(6, 5) + b"\xff" * 8), "unknown type 6"),
        (message(7, words(1) + text("a") + words(4, 2**62) + b"\xff" * 8), "blob"),
        (message(7, words(1) + text("a") + b"\xff" * 8 + words(0)), "too many"),
        (message(2, words(15000)), "type 2"),
        (message(99, b""), "type 99"),
        (message(8, words(0), schema=1), "schema 1"),
        (message(8, b"", words=2**32 - 1), "more than"),
    ],
)
def test_nonsense_is_a_protocol_error_with_a_reason(data: bytes, reason: str):
    decoder = Decoder()
    decoder.feed(data)

    with pytest.raises(ProtocolError, match=reason):
        decoder.next()


@given(st.binary(max_size=300))
def test_any_bytes_are_a_response_or_a_protocol_error(data: bytes):
    decoder = Decoder()
    decoder.feed(data)
    try:
        while decoder.next() is not None:
            pass
    except ProtocolError:
        pass


@given(st.sampled_from(sorted(STEPS)), st.data())
def test_a_real_answer_with_some_bytes_changed_is_a_response_or_a_protocol_error(name: str, data: st.DataObject):
    changed = bytearray(answer(name)[:2000])
    for _ in range(data.draw(st.integers(min_value=1, max_value=4))):
        changed[data.draw(st.integers(min_value=0, max_value=len(changed) - 1))] = data.draw(st.integers(0, 255))
    decoder = Decoder()
    decoder.feed(bytes(changed))
    try:
        while decoder.next() is not None:
            pass
    except ProtocolError:
        pass


def test_a_header_that_claims_much_waits_for_it_without_taking_memory():
    decoder = Decoder()
    decoder.feed(message(7, b"", words=wire.MAX_BODY_BYTES // 8))

    assert decoder.next() is None
    assert decoder.pending == 8


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (Request(RequestType.EXEC_SQL, (0, "SELECT '\0'")), "NUL"),
        (Request(RequestType.EXEC_SQL, (0, "SELECT ?"), ("\0",)), "NUL"),
        (Request(RequestType.EXEC_SQL, (0, "SELECT ?"), ("\ud800",)), "Unicode"),
        (Request(RequestType.EXEC_SQL, (0, "SELECT ?"), (2**63,)), "64-bit"),
        (Request(RequestType.EXEC_SQL, (0, "SELECT ?"), (float("nan"),)), "NaN"),
        (Request(RequestType.EXEC_SQL, (0, "SELECT ?"), (object(),)), "object"),  # type: ignore[arg-type]
        (Request(RequestType.REMOVE, (-1,)), "64 bits"),
        (Request(RequestType.REMOVE, (2**64,)), "64 bits"),
        (Request(RequestType.LEADER, (0,), (1,)), "no parameters"),
        (Request(RequestType.EXEC_SQL, (0, "SELECT ?"), (bytes(wire.MAX_BODY_BYTES),)), "larger"),
    ],
)
def test_what_the_wire_cannot_carry_is_refused(request_: Request, reason: str):
    with pytest.raises(ProtocolError, match=reason):
        wire.encode(request_)


def test_every_request_has_words_in_its_body():
    """A request without any is never answered."""
    for kind, fields in wire._REQUESTS.items():
        assert fields
        example_fields = tuple("" if field is wire._Field.TEXT else 0 for field in fields)
        assert struct.unpack_from("<I", wire.encode(Request(kind, example_fields)))[0] > 0


def test_roles_have_the_words_that_people_read():
    assert [str(role) for role in Role] == ["voter", "stand-by", "spare"]

"""The codec against bytes of a real node (tests/golden), and against bytes that no node would send."""

from __future__ import annotations

import enum
import struct
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import golden_conversation
from dbaccessor.dqlite import wire
from dbaccessor.dqlite.wire import Decoder, Failure, Member, ProtocolError, Request, RequestType, Role

STORED = golden_conversation.stored()
LIBRARIES = [conversation["library"] for conversation in STORED]
ANSWERS: dict[str, dict[str, dict[str, Any]]] = {
    conversation["library"]: {step["name"]: step for step in conversation["steps"]} for conversation in STORED
}
NEVER_ASKED = {name for name, _ in golden_conversation.NEVER_ASKED}
STEPS = [name for name, _ in golden_conversation.STEPS]
UNDERSTOOD = [name for name in STEPS if name not in NEVER_ASKED]

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
    "failure behind a row of every type": Failure(1, "integer overflow"),
    "two statements": wire.Result(11, 1),
    "two statements in a query": Failure(1, "nonempty statement tail"),
    "begin": wire.Result(11, 1),
    "begin again": Failure(1, "cannot start a transaction within a transaction"),
    "commit": wire.Result(11, 1),
    "commit of nothing": Failure(1, "cannot commit - no transaction is active"),
    "foreign key": wire.Result(11, 1),
    "foreign key violated": Failure(787, "FOREIGN KEY constraint failed"),
    "leader at last": wire.Server(4711, "controller-0-4711"),
    # What nobody here asks, and what is understood all the same: a failure is a failure, "done" is "done".
    "heartbeat": Failure(1005, "unrecognized request type"),
    "query prepared": wire.RowsPart(("a",), ((1,),), True),
    "finalize": wire.Empty(),
    "interrupt": wire.Empty(),
    "assign": Failure(1, "server role is not valid"),
    "assign to one that is not there": Failure(1, "Resource not found"),
    "members in a format that is not there": Failure(1005, "unrecognized cluster format"),
    "weight": wire.Empty(),
    "no such request": Failure(1005, "unrecognized request type"),
    "schema that is not there": Failure(1005, "unrecognized schema version"),
}

# Where the libraries differ.
SAID_ONE_WAY: dict[str, dict[str, wire.Response]] = {
    "1.18.0": {
        "not authorized": Failure(1, "too many attached databases - max 0"),
        "exec prepared": Failure(100, "rows yielded when none expected for EXEC request"),
    },
    "1.18.7": {
        "not authorized": Failure(23, "not authorized"),
        "exec prepared": Failure(1, "rows yielded when none expected for EXEC request"),
        "dump of one that is not there": Failure(1002, "database does not exists"),
    },
}

# Answers of a shape that this client does not know, or knows under the same number with other fields.
NOT_UNDERSTOOD = {
    "client": "type 2",
    "prepare": "type 5",
    "prepare with its tail": "type 5, schema 1",
    "dump": "type 9",
    "describe": "type 10",
    "members without roles": "too early",
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


def answer(name: str, library: str = LIBRARIES[-1]) -> bytes:
    return b"".join(map(bytes.fromhex, ANSWERS[library][name]["answer"]))


each_library = pytest.mark.parametrize("library", LIBRARIES)


def test_bytes_of_two_libraries_are_kept_and_every_answer_is_looked_at():
    assert LIBRARIES == ["1.18.0", "1.18.7"]
    for library in LIBRARIES:
        assert list(ANSWERS[library]) == STEPS
        checked = {*SAID, *SAID_ONE_WAY[library], *NOT_UNDERSTOOD}
        assert set(STEPS) - checked <= {
            "row in one line",
            "several parts",
            "256 parameters",
            "failure behind several parts",
            "dump of one that is not there",
        }


def test_the_greeting_is_the_stored_one():
    assert {wire.HELLO.hex()} == {conversation["hello"] for conversation in STORED}


@each_library
@pytest.mark.parametrize(("name", "request_"), golden_conversation.STEPS, ids=STEPS)
def test_requests_are_the_stored_bytes(name: str, request_: Request | bytes, library: str):
    assert golden_conversation.encoded(request_).hex() == ANSWERS[library][name]["request"]


@each_library
@pytest.mark.parametrize("name", SAID)
def test_stored_answers_say_what_they_said(name: str, library: str):
    assert decode(answer(name, library)) == [SAID[name]]


@pytest.mark.parametrize(("library", "name"), [(lib, name) for lib, said in SAID_ONE_WAY.items() for name in said])
def test_stored_answers_say_what_this_library_said(name: str, library: str):
    assert decode(answer(name, library)) == [SAID_ONE_WAY[library][name]]


@each_library
@pytest.mark.parametrize(("name", "reason"), NOT_UNDERSTOOD.items(), ids=NOT_UNDERSTOOD)
def test_answers_to_what_is_never_asked_are_not_taken_for_anything_else(name: str, reason: str, library: str):
    with pytest.raises(ProtocolError, match=reason):
        decode(answer(name, library))


@each_library
def test_a_failure_after_several_parts_is_read_from_its_end(library: str):
    *parts, last = decode(answer("failure behind several parts", library))

    assert len(parts) > 1
    assert not any(isinstance(part, wire.RowsPart) and part.done for part in parts)
    assert last == Failure(1, "integer overflow")
    # The last part's rows stand in front of it.
    assert len(bytes.fromhex(ANSWERS[library]["failure behind several parts"]["answer"][-1])) > 1000


def test_more_than_sixteen_columns_have_a_second_word_of_types():
    (part,) = decode(answer("row in one line", "1.18.7"))

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
    data = b"".join(answer(name) for name in UNDERSTOOD)
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


def test_what_only_equals_a_text_is_sent_as_what_it_holds_and_leaves_the_text_alone():
    """Encoded texts are remembered, and an enumeration of texts equals them but says something else of itself."""

    class Sql(str, enum.Enum):  # noqa: UP042 - A StrEnum would say the same.
        COUNT = "SELECT count(*) FROM lease"

    sent = [wire.encode(wire.Request(RequestType.QUERY_SQL, (0, sql))) for sql in (Sql.COUNT, str(Sql.COUNT.value))]
    assert sent[0] == sent[1]
    assert b"SELECT count(*) FROM lease\0" in sent[0]


@pytest.mark.parametrize("fields", [("0", "SELECT 1"), (0, 1), (0, None)])
def test_a_field_of_the_wrong_kind_is_no_request(fields: tuple[object, object]):
    with pytest.raises(wire.ProtocolError, match="cannot be sent as"):
        wire.encode(wire.Request(RequestType.QUERY_SQL, fields))  # type: ignore[arg-type]


def test_whether_answers_are_here_is_known_without_taking_one_and_nonsense_is_not_waited_for():
    one = message(7, b"\0" * 8)
    decoder = Decoder()
    decoder.feed(one + one[:-1])
    assert decoder.holds(1)
    assert not decoder.holds(2)
    decoder.feed(one[-1:])
    assert decoder.holds(2)
    assert not decoder.holds(3)
    decoder.feed(struct.pack("<IBBH", 0xFFFFFFFF, 7, 0, 0))
    assert decoder.holds(3), "the next one raises, and need not be waited for"

"""The codec against whatever a broken or hostile peer may send, and against every way in which a stream may be cut.

HA_CONTROLLER_FUZZ=N tries N examples of each property instead of the few that every run can afford.
"""

from __future__ import annotations

import os
import struct
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import golden_conversation
from dbaccessor.dqlite import wire
from dbaccessor.dqlite.wire import Decoder, Failure, Member, ProtocolError, Request, RequestType, Role
from fakenode import message, text, words

examples = settings(
    max_examples=int(os.environ.get("HA_CONTROLLER_FUZZ", "60")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

GOLDEN = [
    b"".join(map(bytes.fromhex, step["answer"]))
    for conversation in golden_conversation.stored()
    for step in conversation["steps"]
]

texts = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20)
numbers = st.integers(0, 2**64 - 1)
integers = st.integers(-(2**63), 2**63 - 1)
values = st.one_of(st.none(), integers, st.floats(allow_nan=False), texts, st.binary(max_size=20))


def encoded_value(value: wire.Value) -> tuple[int, bytes]:
    match value:
        case None:
            return 5, words(0)
        case int():
            return 1, struct.pack("<q", value)
        case float():
            return 2, struct.pack("<d", value)
        case str():
            return 3, text(value)
        case bytes():
            return 4, words(len(value)) + value + bytes(-len(value) % 8)


def encoded_row(row: tuple[wire.Value, ...]) -> bytes:
    codes, data = zip(*map(encoded_value, row), strict=True)
    nibbles = [*codes, *[0] * (-len(codes) % 16)]
    return bytes(low | high << 4 for low, high in zip(nibbles[::2], nibbles[1::2], strict=True)) + b"".join(data)


def rows_part(names: list[str], rows: list[tuple[wire.Value, ...]], done: bool) -> tuple[bytes, wire.Response]:
    body = words(len(names)) + b"".join(map(text, names)) + b"".join(map(encoded_row, rows))
    return message(7, body + (b"\xff" if done else b"\xee") * 8), wire.RowsPart(tuple(names), tuple(rows), done)


def members(found: list[Member]) -> tuple[bytes, wire.Response]:
    body = b"".join(words(m.dqlite_id) + text(m.name) + words(m.role) for m in found)
    return message(3, words(len(found)) + body), wire.Members(tuple(found))


# Every type of response, as bytes and as the value that they mean.
responses: st.SearchStrategy[tuple[bytes, wire.Response]] = st.one_of(
    st.builds(lambda c, t: (message(0, words(c) + text(t)), Failure(c, t)), st.integers(0, 20000), texts),
    st.builds(lambda i, t: (message(1, words(i) + text(t)), wire.Server(i, t)), numbers, texts),
    st.lists(st.builds(Member, numbers, texts, st.sampled_from(Role)), max_size=5).map(members),
    st.integers(0, 2**32 - 1).map(lambda i: (message(4, words(i)), wire.Database(i))),
    st.builds(
        lambda i, n: (message(6, struct.pack("<qQ", i, n)), wire.Result(i, n)), integers, st.integers(0, 2**64 - 1)
    ),
    st.integers(1, 20).flatmap(
        lambda n: st.builds(
            rows_part,
            st.lists(texts, min_size=n, max_size=n),
            st.lists(st.lists(values, min_size=n, max_size=n).map(tuple), max_size=4),
            st.booleans(),
        )
    ),
    numbers.map(lambda n: (message(8, words(n)), wire.Empty())),
)


def decode_all(data: bytes) -> list[wire.Response]:
    """Decode what is whole in `data`; nonsense ends it, and is a ProtocolError or nothing."""
    decoder = Decoder()
    decoder.feed(data)
    found: list[wire.Response] = []
    try:
        while (response := decoder.next()) is not None:
            found.append(response)
    except ProtocolError:
        pass
    assert decoder.pending <= len(data)
    return found


@examples
@given(st.lists(responses, min_size=1, max_size=8), st.data())
def test_a_stream_of_any_responses_says_the_same_however_it_is_cut(
    stream: list[tuple[bytes, wire.Response]], data: st.DataObject
):
    whole = b"".join(encoded for encoded, _ in stream)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    decoder = Decoder()
    found: list[wire.Response] = []
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        decoder.feed(whole[start:end])
        while (response := decoder.next()) is not None:
            found.append(response)

    assert found == [meant for _, meant in stream]
    assert decoder.pending == 0


@examples
@given(st.lists(responses, min_size=1, max_size=4), st.data())
def test_a_stream_that_ends_early_says_what_was_whole_and_no_more(
    stream: list[tuple[bytes, wire.Response]], data: st.DataObject
):
    whole = b"".join(encoded for encoded, _ in stream)
    end = data.draw(st.integers(0, len(whole) - 1))
    found = decode_all(whole[:end])

    assert found == [meant for _, meant in stream][: len(found)]
    assert len(found) < len(stream)
    assert sum(len(encoded) for encoded, _ in stream[: len(found) + 1]) > end


@examples
@given(st.binary(max_size=400))
def test_any_bytes_are_responses_or_a_protocol_error(data: bytes):
    decode_all(data)


@examples
@given(st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]), st.lists(st.binary(min_size=8, max_size=8), max_size=30))
def test_any_words_behind_a_good_header_are_a_response_or_a_protocol_error(kind: int, body: list[bytes]):
    decode_all(message(kind, b"".join(body)))


_hostile = st.sampled_from(
    [b"\xff" * 8, b"\xee" * 8, bytes(8), words(1), words(2**63), words(2**32), words(255), b"\x44" * 8, b"\x33" * 8]
)


@examples
@given(st.sampled_from(GOLDEN), st.data())
def test_a_real_answer_that_was_spoilt_is_responses_or_a_protocol_error(golden: bytes, data: st.DataObject):
    spoilt = bytearray(golden[:4096])
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(spoilt)))
        match data.draw(st.sampled_from(["change", "word", "insert", "remove", "repeat"])):
            case "change":
                spoilt[at : at + 1] = data.draw(st.binary(min_size=1, max_size=1))
            case "word":
                spoilt[at // 8 * 8 : at // 8 * 8 + 8] = data.draw(_hostile)
            case "insert":
                spoilt[at:at] = data.draw(st.binary(max_size=16))
            case "remove":
                del spoilt[at : at + data.draw(st.integers(1, 16))]
            case "repeat":
                spoilt[at:at] = spoilt[max(0, at - 64) : at]
    decode_all(bytes(spoilt))


# Each claims far more than there is: a body, columns, members, a blob, rows.
CLAIMS = {
    "a body": struct.pack("<IBBH", 2**32 - 1, 7, 0, 0),
    "a body within the limit": struct.pack("<IBBH", wire.MAX_BODY_BYTES // 8, 7, 0, 0),
    "columns": message(7, words(2**60, 0, 0)),
    "as many columns as there are words": message(7, words(1000) + bytes(8 * 1000)),
    "one column too many": message(7, words(1001) + bytes(8 * 1000)),
    "members": message(3, words(2**63) + bytes(800)),
    "a blob": message(7, words(1) + text("a") + words(4, 2**63) + bytes(64)),
    "a blob that only just does not fit": message(7, words(1) + text("a") + words(4, 65) + bytes(64)),
    "rows without columns": message(7, words(0) + bytes(8 * 1000)),
    "a name without an end": message(7, words(1) + b"x" * 8000),
    "a text without an end": message(1, words(1) + b"x" * 8000),
    "a failure without a code": message(0, b"x" * 8000),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_takes_no_memory(name: str):
    data = CLAIMS[name]
    tracemalloc.start()
    try:
        decode_all(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    # The buffer, the body and their parts; nothing of the size that was claimed.
    assert peak < 20 * len(data) + 32_768


@pytest.mark.parametrize(
    "data",
    [
        message(7, words(100_000) + bytes(8 * 100_000) + b"\xff" * 8),  # Columns without names.
        message(7, words(1) + text("a") + words(5, 0) * 100_000 + b"\xff" * 8),  # The smallest rows.
        message(7, words(1) + text("a") + words(1, 2**40) * 100_000 + b"\xff" * 8),
        message(3, words(50_000) + (words(2**40) + text("x") + words(0)) * 50_000),
        message(8, words(0)) * 50_000,
    ],
    ids=["columns", "nulls", "integers", "members", "messages"],
)
def test_what_is_truly_there_becomes_no_more_than_some_times_its_size(data: bytes):
    tracemalloc.start()
    try:
        assert decode_all(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 20 * len(data)


def read_parameters(body: bytes, schema: int) -> list[wire.Value]:
    """A second decoder, of parameters, written from the description of the format."""
    count = int.from_bytes(body[: 4 if schema else 1], "little")
    head = 4 if schema else 1
    codes, at = body[head : head + count], (head + count + 7) // 8 * 8
    found: list[wire.Value] = []
    for code in codes:
        word = body[at : at + 8]
        match code:
            case 1:
                found.append(struct.unpack("<q", word)[0])
            case 2:
                found.append(struct.unpack("<d", word)[0])
            case 3:
                end = body.index(b"\0", at)
                found.append(body[at:end].decode())
                at = (end // 8) * 8
            case 4:
                size = int.from_bytes(word, "little")
                found.append(body[at + 8 : at + 8 + size])
                at += (size + 7) // 8 * 8
            case 5:
                found.append(None)
            case _:
                raise AssertionError(code)
        at += 8
    assert at == len(body)
    return found


@examples
@given(st.one_of(st.lists(values, min_size=1, max_size=12), st.lists(integers, min_size=250, max_size=300)), texts)
def test_parameters_of_any_values_arrive(params: list[wire.Value], sql: str):
    data = wire.encode(Request(RequestType.EXEC_SQL, (0, sql), tuple(params)))
    count, kind, schema, _ = struct.unpack_from("<IBBH", data)

    assert (count * 8, kind, schema) == (len(data) - 8, 8, int(len(params) > 255))
    assert data[8:16] == words(0)
    assert data[16 : 16 + len(text(sql))] == text(sql)
    assert read_parameters(data[16 + len(text(sql)) :], schema) == params

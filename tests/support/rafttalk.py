"""What a node of libdqlite sends to another over a connection that it opened for raft, made by hand."""

from __future__ import annotations

import struct


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


def request(kind: int, body: bytes) -> bytes:
    return struct.pack("<IBBH", len(body) // 8, kind, 0, 0) + body


def opening(dqlite_id: int, name: bytes = b"controller-1-8\0\0") -> bytes:
    """The version, and the request after which raft follows."""
    return words(1) + request(11, words(dqlite_id) + name)


def message(kind: int, header: bytes, payload: bytes = b"") -> bytes:
    return words(kind, len(header)) + header + payload


def append_entries(term: int, *sizes: int) -> bytes:
    """Entries of these sizes; the library makes the header a word longer than it is."""
    described = b"".join(struct.pack("<QB3xI", term, 1, size) for size in sizes)
    header = words(term, 10, term, 9, len(sizes)) + described + words(0)
    return message(1, header, b"x" * sum(sizes))


def append_entries_result(term: int) -> bytes:
    return message(2, words(term, 0, 11, 1))


def request_vote(term: int, *, pre: bool) -> bytes:
    return message(3, words(term, 8, 10, 1, 2 * pre))


def request_vote_result(term: int) -> bytes:
    return message(4, words(term, 1, 0))


def install_snapshot(term: int, configuration: bytes, data: bytes) -> bytes:
    header = words(term, 10, term, 2, len(configuration)) + configuration + words(len(data), 0)
    return message(5, header, data)


def timeout_now(term: int) -> bytes:
    return message(6, words(term, 10, term))

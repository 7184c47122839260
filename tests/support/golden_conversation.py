"""The conversation that tests/golden/ holds as bytes: what is asked, in which order. One file for each library.

The functional suite holds it with a real node and compares; the unit tests decode the stored bytes. To store it anew
after the library changed: HA_CONTROLLER_WRITE_GOLDEN=1 and the functional test test_golden.py.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from dbaccessor.dqlite import wire
from dbaccessor.dqlite.wire import Request, RequestType

FOLDER = Path(__file__).parents[1] / "golden"

# Fixed, so that the answers are the same bytes every time.
NODE_ID = 4711
NODE_NAME = "controller-0-4711"

_NUMBERS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x<300)"
_OVERFLOW = "abs(-9223372036854775808)"


def file(library: str) -> Path:
    """Where the conversation with this version of the library is kept."""
    return FOLDER / f"dqlite-{library}.json"


def stored() -> list[dict[str, Any]]:
    """Return all conversations that are kept."""
    return [json.loads(path.read_text()) for path in sorted(FOLDER.glob("dqlite-*.json"))]


def encoded(request: Request | bytes) -> bytes:
    return request if isinstance(request, bytes) else wire.encode(request)


def _raw(kind: int, body: bytes, schema: int = 0) -> bytes:
    """A request that this client never makes."""
    return struct.pack("<IBBH", len(body) // 8, kind, schema, 0) + body


def _words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


def _text(value: str) -> bytes:
    data = value.encode()
    return data + bytes(8 - len(data) % 8)


# What other clients ask. This one neither asks it nor takes the answer for anything that it knows.
NEVER_ASKED: list[tuple[str, Request | bytes]] = [
    ("client", _raw(1, _words(4711))),
    ("heartbeat", _raw(2, _words(0))),
    ("prepare", _raw(4, _words(0) + _text("SELECT a FROM t WHERE a = ?"))),
    ("prepare with its tail", _raw(4, _words(0) + _text("SELECT a FROM t; SELECT 2"), schema=1)),
    ("exec prepared", _raw(5, struct.pack("<II", 0, 1))),
    ("query prepared", _raw(6, struct.pack("<II", 0, 0) + b"\x01\x01" + bytes(6) + _words(1))),
    ("finalize", _raw(7, struct.pack("<II", 0, 0))),
    ("interrupt", _raw(10, _words(0))),
    ("assign", _raw(13, _words(NODE_ID, 0))),
    ("assign to one that is not there", _raw(13, _words(2, 0))),
    ("dump", _raw(15, _text("golden"))),
    ("dump of one that is not there", _raw(15, _text("nowhere"))),
    ("members without roles", _raw(16, _words(0))),
    ("members in a format that is not there", _raw(16, _words(2))),
    ("describe", _raw(18, _words(0))),
    ("weight", _raw(19, _words(1))),
    ("no such request", _raw(77, _words(0))),
    ("schema that is not there", _raw(0, _words(0), schema=9)),
]

STEPS: list[tuple[str, Request | bytes]] = [
    ("leader", Request(RequestType.LEADER, (0,))),
    ("members", Request(RequestType.CLUSTER, (1,))),
    ("no database yet", Request(RequestType.EXEC_SQL, (0, "SELECT 1"))),
    ("open", Request(RequestType.OPEN, ("golden", 0, ""))),
    ("open twice", Request(RequestType.OPEN, ("golden", 0, ""))),
    ("create", Request(RequestType.EXEC_SQL, (0, "CREATE TABLE t(a INTEGER PRIMARY KEY, b)"))),
    ("insert", Request(RequestType.EXEC_SQL, (0, "INSERT INTO t(b) VALUES(?)"), ("text",))),
    (
        "insert all types",
        Request(
            RequestType.EXEC_SQL,
            (0, "INSERT INTO t(b) VALUES(?),(?),(?),(?),(?),(?),(?),(?)"),
            (1, -1, 1.5, "1234567", "12345678", b"", b"\x00\xff123456", None),
        ),
    ),
    ("all types", Request(RequestType.QUERY_SQL, (0, "SELECT a, b, typeof(b) FROM t ORDER BY a"))),
    (
        "row in one line",
        Request(RequestType.QUERY_SQL, (0, "SELECT 1, 2.5, 'x', x'00', NULL, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6, 7")),
    ),
    ("no rows", Request(RequestType.QUERY_SQL, (0, "SELECT a FROM t WHERE a < 0"))),
    ("several parts", Request(RequestType.QUERY_SQL, (0, f"{_NUMBERS} SELECT x, 'some text to fill a page' FROM c"))),
    ("256 parameters", Request(RequestType.QUERY_SQL, (0, "SELECT " + "+".join("?" * 256)), tuple(range(256)))),
    ("constraint", Request(RequestType.EXEC_SQL, (0, "INSERT INTO t(a) VALUES(1)"))),
    ("syntax", Request(RequestType.QUERY_SQL, (0, "SELECT FROM"))),
    (
        "failure behind a row of one column",
        Request(RequestType.QUERY_SQL, (0, "SELECT 5 UNION ALL SELECT abs(-9223372036854775808)")),
    ),
    (
        "failure behind a row of five columns",
        Request(
            RequestType.QUERY_SQL,
            (0, "SELECT 1, 2, 3, 4, 'busy' UNION ALL SELECT abs(-9223372036854775808), 2, 3, 4, 5"),
        ),
    ),
    ("empty statement", Request(RequestType.QUERY_SQL, (0, ""))),
    ("add one that is there", Request(RequestType.ADD, (2, NODE_NAME))),
    ("remove one that is not there", Request(RequestType.REMOVE, (2,))),
    ("transfer to one that is not there", Request(RequestType.TRANSFER, (2,))),
    ("add", Request(RequestType.ADD, (2, "controller-1-2"))),
    ("two members", Request(RequestType.CLUSTER, (1,))),
    ("remove", Request(RequestType.REMOVE, (2,))),
    (
        "failure behind several parts",
        Request(
            RequestType.QUERY_SQL,
            (0, f"{_NUMBERS} SELECT x, 'some text to fill a page' FROM c UNION ALL SELECT {_OVERFLOW}, 1"),
        ),
    ),
    (
        "failure behind a row of every type",
        Request(
            RequestType.QUERY_SQL,
            (0, f"SELECT 5, 'busy', x'0500000000000000', NULL, 1.5 UNION ALL SELECT {_OVERFLOW}, 2, 3, 4, 5"),
        ),
    ),
    ("not authorized", Request(RequestType.EXEC_SQL, (0, "ATTACH 'x' AS y"))),
    ("two statements", Request(RequestType.EXEC_SQL, (0, "INSERT INTO t(b) VALUES(1); INSERT INTO t(b) VALUES(2)"))),
    ("two statements in a query", Request(RequestType.QUERY_SQL, (0, "SELECT 1; SELECT 2"))),
    ("begin", Request(RequestType.EXEC_SQL, (0, "BEGIN"))),
    ("begin again", Request(RequestType.EXEC_SQL, (0, "BEGIN"))),
    ("commit", Request(RequestType.EXEC_SQL, (0, "COMMIT"))),
    ("commit of nothing", Request(RequestType.EXEC_SQL, (0, "COMMIT"))),
    ("foreign key", Request(RequestType.EXEC_SQL, (0, "CREATE TABLE child(p INTEGER REFERENCES t(a))"))),
    ("foreign key violated", Request(RequestType.EXEC_SQL, (0, "INSERT INTO child VALUES(4711)"))),
    *NEVER_ASKED,
    ("leader at last", Request(RequestType.LEADER, (0,))),
]

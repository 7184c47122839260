"""The conversation that tests/golden/ holds as bytes: what is asked, in which order.

The functional suite holds it with a real node and compares; the unit tests decode the stored bytes. To store it anew
after the library changed: HA_CONTROLLER_WRITE_GOLDEN=1 and the functional test test_golden.py.
"""

from __future__ import annotations

from pathlib import Path

from dbaccessor.dqlite.wire import Request, RequestType

FILE = Path(__file__).parents[1] / "golden" / "dqlite-conversation.json"

# Fixed, so that the answers are the same bytes every time.
NODE_ID = 4711
NODE_NAME = "controller-0-4711"

_NUMBERS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x<300)"

STEPS: list[tuple[str, Request]] = [
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
]

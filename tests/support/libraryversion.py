"""What is asked of the libdqlite that is here before a test makes sense (docs/reference/libdqlite.md)."""

from __future__ import annotations

import pytest

from dbaccessor.dqlite import native

# Those before keep it on their heap: nobody sees how long a log is, and they survive it.
wal_index_in_files = pytest.mark.skipif(
    native.load().version_info < (1, 18, 2), reason="this libdqlite does not keep its wal-index in files"
)

# 1.18.1, which calls itself 1.18.0, can do nothing about a query of seconds.
queries_on_threads = pytest.mark.skipif(
    native.load().version_info < (1, 18, 2), reason="this libdqlite runs queries on the loop that answers everybody"
)

# 1.18.1 hands out an empty one.
missing_databases_refused = pytest.mark.skipif(
    native.load().version_info < (1, 18, 2), reason="this libdqlite dumps a database that is not there"
)

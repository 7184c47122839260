"""What is asked of the libdqlite that is here before a test makes sense (docs/reference/libdqlite.md)."""

from __future__ import annotations

import pytest

from dbaccessor.dqlite import native

# 1.18.1, which calls itself 1.18.0, can do nothing about a query of seconds.
queries_on_threads = pytest.mark.skipif(
    native.load().version_info < (1, 18, 2), reason="this libdqlite runs queries on the loop that answers everybody"
)

"""Which names a database can have for Dqlite. Pure.

"" and ":memory:" are SQLite's names for databases that are no files; opening one kills the node. Behind "X-wal" and
"X-journal" Dqlite's file system finds the database X itself.
"""

from __future__ import annotations

import re

_NAME = re.compile(r"(?!.*-(?:journal|shm|wal)$)[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.IGNORECASE)

RULE = "letters, digits, '.', '_' and '-', up to 128, and no -journal, -shm or -wal at the end"


def is_possible(name: str) -> bool:
    """Whether a database of this name can be opened, and is no other one's."""
    return _NAME.fullmatch(name) is not None

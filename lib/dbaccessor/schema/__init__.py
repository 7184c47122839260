"""The numbered schema patches of the controller database, as statements.

A patch once released never changes. Its number is recorded in `schema_patch` in the same transaction, so a patch runs
once, whichever controller gets there first.
"""

from __future__ import annotations

from importlib import resources

PATCHES = ("0001-controller.sql",)

CREATE_PATCH_TABLE = "CREATE TABLE IF NOT EXISTS schema_patch (number INTEGER NOT NULL PRIMARY KEY, name TEXT NOT NULL)"


def statements(patch: str) -> tuple[str, ...]:
    """Return the statements of one patch, in order. No statement holds a semicolon inside."""
    text = resources.files(__name__).joinpath(patch).read_text()
    return tuple(s.strip() for s in text.split(";") if s.strip())

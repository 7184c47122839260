"""How many rows one transaction takes away."""

from __future__ import annotations

import pytest

from dbaccessor import emptying
from dbaccessor.emptying import Part


@pytest.mark.parametrize(
    ("rows", "pages", "expected"),
    [
        (1, 0, 2),
        (1, 16000, 1),  # One row of 64 MB: less than one there is not.
        (64, 256, 128),
        (64, 257, 64),
        (64, 512, 64),
        (64, 513, 32),
        (1500, 100, 2000),
        (2000, 100, 2000),
    ],
)
def test_the_next_part_is_larger_or_smaller_by_the_pages_of_the_last_one(rows: int, pages: int, expected: int):
    assert emptying.next_rows(rows, Part(rows, pages)) == expected

"""When a deposed leader may hold what it gave up, by what was seen while it led."""

from __future__ import annotations

import pytest

from dbaccessor import givenup
from dbaccessor.givenup import GivenUp


class Process:
    """What is seen of it, and its clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.length, self.written = 100.0, 0, 0
        self.given_up = GivenUp()
        monkeypatch.setattr(givenup.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(givenup, "_written_bytes", lambda: self.written)
        monkeypatch.setattr(self.given_up, "_indexes", self)

    def frames(self) -> int | None:
        return self.length

    def look(self, length: int | None, seconds: float = 0.25) -> None:
        self.now += seconds
        self.length = length
        self.given_up.look()


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Process:
    return Process(monkeypatch)


def test_a_short_log_and_little_written_hold_nothing(process: Process):
    for length in (0, 100, 499):
        process.look(length)
    process.written += (1 << 20) - 1

    assert not process.given_up.may_stay()


@pytest.mark.parametrize("length", [500, None])
def test_a_long_log_may_and_so_may_one_that_cannot_be_seen(process: Process, length: int | None):
    process.look(10)
    process.look(length)
    process.look(10)

    assert process.given_up.may_stay()


def test_much_that_was_written_may_be_one_transaction(process: Process):
    process.look(10)
    process.written += 1 << 20

    assert process.given_up.may_stay()


def test_what_was_long_ago_does_not_count(process: Process):
    process.look(900)
    process.written += 10 << 20
    for _ in range(7):
        process.look(10)

    assert not process.given_up.may_stay()


def test_without_a_look_nobody_knows(process: Process):
    assert process.given_up.may_stay()
    process.look(10)
    process.given_up.forget()
    assert process.given_up.may_stay()


def test_what_this_process_writes_is_counted(tmp_path):
    before = givenup._written_bytes()
    (tmp_path / "file").write_bytes(bytes(1 << 16))
    assert givenup._written_bytes() >= before

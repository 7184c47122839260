"""Failed logins are limited by who is meant and where from, and the limit itself cannot be used to fill memory."""

from __future__ import annotations

import pytest

from controller.api.attempts import Attempts, Rate

PLACE, ANYWHERE = Rate(burst=3, seconds=10), Rate(burst=6, seconds=1)


def test_after_the_burst_there_is_one_try_for_each_interval():
    attempts = Attempts(PLACE, ANYWHERE)

    for _ in range(3):
        assert attempts.wait_seconds("user-admin", "10.0.0.1", 0) == 0
        attempts.failed("user-admin", "10.0.0.1", 0)

    assert attempts.wait_seconds("user-admin", "10.0.0.1", 0) == 10
    assert attempts.wait_seconds("user-admin", "10.0.0.1", 4) == pytest.approx(6)
    assert attempts.wait_seconds("user-admin", "10.0.0.1", 10) == 0
    attempts.failed("user-admin", "10.0.0.1", 10)
    assert attempts.wait_seconds("user-admin", "10.0.0.1", 10) == 10
    assert attempts.refused == 3


def test_one_who_guesses_neither_keeps_the_real_one_out_nor_anybody_else():
    attempts = Attempts(PLACE, ANYWHERE)
    for _ in range(3):
        attempts.failed("user-admin", "10.6.6.6", 0)

    assert attempts.wait_seconds("user-admin", "10.6.6.6", 0) > 0
    assert attempts.wait_seconds("user-admin", "10.0.0.1", 0) == 0
    assert attempts.wait_seconds("machine-0", "10.6.6.6", 0) == 0


def test_many_places_together_are_limited_too():
    attempts = Attempts(PLACE, ANYWHERE)
    for n in range(6):
        attempts.failed("user-admin", f"10.6.6.{n}", 0)

    assert attempts.wait_seconds("user-admin", "10.0.0.1", 0) == 1
    assert attempts.wait_seconds("user-admin", "10.0.0.1", 1) == 0


def test_the_right_one_who_erred_begins_anew():
    attempts = Attempts(PLACE, ANYWHERE)
    for _ in range(3):
        attempts.failed("user-admin", "10.0.0.1", 0)
    attempts.succeeded("user-admin", "10.0.0.1")

    assert attempts.wait_seconds("user-admin", "10.0.0.1", 0) == 0


def test_made_up_names_do_not_fill_memory():
    attempts = Attempts(PLACE, ANYWHERE, most=100)
    for n in range(1000):
        attempts.failed(f"user-{n}" * 1000, "10.6.6.6", 0)

    assert len(attempts._taken) == 100
    assert all(len(name) <= 256 for name, _ in attempts._taken)

"""What hactl says, and does, when the answer to something that changes the cluster does not come."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from controller import asking
from controller.cli import app
from controller.commands import sql
from dbaccessor import confsocket
from rawsocket import TORN, Asked, answer, rawsocket

DOUBT = "it may have been done, look before doing it again"
NOT_READY = answer({"error": "NotReady", "reason": "no leader"}, 503)
INDEFINITE = answer({"error": "Indefinite", "reason": "the connection ended"}, 409)
ADDED = answer({"machines": []})


@pytest.fixture
def state_dir() -> Iterator[Path]:
    # Not tmp_path: a unix socket's path must fit in 108 bytes, and pytest's folders may not.
    with tempfile.TemporaryDirectory(prefix="hactl-") as folder:
        yield Path(folder)


def hactl(state_dir: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["--state-dir", str(state_dir), *words])


@pytest.mark.parametrize("first", [TORN, INDEFINITE])
@pytest.mark.parametrize("between", [(), (NOT_READY,), (TORN, NOT_READY, INDEFINITE)])
def test_what_is_in_doubt_is_asked_again_word_for_word(state_dir: Path, first: bytes, between: tuple[bytes, ...]):
    answers = iter((first, *between, ADDED))

    with rawsocket(state_dir / confsocket.CONTROL, lambda _: next(answers)) as asked:
        done = hactl(state_dir, "add-machine", "-n", "3")

    assert (done.exit_code, done.stderr) == (0, "")
    assert len(asked) == 2 + len(between)
    assert all(a == asked[0] for a in asked)
    assert len(asked[0].body["uuids"]) == 3


def test_a_controllerd_that_was_killed_is_asked_again_once_it_is_back(state_dir: Path):
    path = state_dir / confsocket.CONTROL
    found: list[Result] = []
    with rawsocket(path, lambda _: TORN) as killed:
        thread = threading.Thread(target=lambda: found.append(hactl(state_dir, "add-model", "staging")))
        thread.start()
        while not killed:
            thread.join(0.01)
    with rawsocket(path, lambda a: answer({"life": "alive", "owner": "", "created": "", **a.body})) as back:
        thread.join()

    assert found[0].exit_code == 0, found[0].output
    assert back[0] == killed[0]


@pytest.mark.parametrize("words", [("add-machine",), ("add-space", "s", "10.0.0.0/8"), ("destroy-model", "--yes", "m")])
@pytest.mark.parametrize("rest", [TORN, NOT_READY])
def test_a_doubt_that_stays_is_told(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], rest: bytes
):
    monkeypatch.setattr(asking, "_BACK_SECONDS", 0.3)
    answers = iter([TORN])

    with rawsocket(state_dir / confsocket.CONTROL, lambda _: next(answers, rest)) as asked:
        done = hactl(state_dir, *words)

    assert done.exit_code == 1
    assert DOUBT in done.stderr
    assert "is the service running" not in done.stderr
    assert len(asked) >= 2


def test_what_is_refused_when_asked_again_is_refused(state_dir: Path):
    answers = iter([TORN, answer({"error": "Refused", "reason": "there is no such model"}, 400)])

    with rawsocket(state_dir / confsocket.CONTROL, lambda _: next(answers)):
        done = hactl(state_dir, "add-machine")

    assert (done.exit_code, done.stderr) == (1, "hactl: there is no such model\n")


def test_what_never_reached_anybody_is_in_no_doubt(state_dir: Path):
    done = hactl(state_dir, "add-machine")

    assert done.exit_code == 5
    assert DOUBT not in done.stderr


def tried(asked: Asked) -> bytes | None:
    """The answer to a write that is only tried; None: this one is to be applied."""
    return None if asked.body["apply"] else answer({"rows-affected": 1, "applied": False})


def write(state_dir: Path) -> Result:
    return hactl(state_dir, "sql", "--timeout", "0.1", "--write", "--yes", "UPDATE t SET n = n + 1")


def test_a_write_whose_answer_is_torn_may_have_been_done_and_is_not_repeated(state_dir: Path):
    with rawsocket(state_dir / confsocket.CONTROL, lambda asked: tried(asked) or TORN) as asked:
        done = write(state_dir)

    assert done.exit_code == 1
    assert DOUBT in done.stderr
    assert [a.body["apply"] for a in asked] == [False, True]


def test_a_write_that_is_not_answered_in_time_may_have_been_done(state_dir: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sql, "_GRACE_SECONDS", 0.5)
    over = threading.Event()

    def answers(asked: Asked) -> bytes:
        known = tried(asked)
        if known is None:
            over.wait(30)
        return known or TORN

    with rawsocket(state_dir / confsocket.CONTROL, answers):
        done = write(state_dir)
        over.set()

    assert done.exit_code == 1
    assert DOUBT in done.stderr


def test_a_write_that_is_given_up_with_ctrl_c_may_have_been_done(state_dir: Path, monkeypatch: pytest.MonkeyPatch):
    def request(path: Path, method: str, target: str, body: bytes, timeout_seconds: float) -> tuple[int, bytes]:
        if b'"apply":true' in body:
            raise KeyboardInterrupt
        return 200, b'{"rows-affected": 1, "applied": false}'

    monkeypatch.setattr(confsocket, "request", request)
    done = write(state_dir)

    assert done.exit_code == 1
    assert DOUBT in done.stderr


def test_a_write_that_was_only_tried_and_a_read_are_in_no_doubt(state_dir: Path):
    with rawsocket(state_dir / confsocket.CONTROL, lambda _: TORN) as asked:
        found = [write(state_dir), hactl(state_dir, "sql", "SELECT 1")]

    assert [done.exit_code for done in found] == [5, 5]
    assert not any(DOUBT in done.stderr for done in found)
    assert len(asked) == 2

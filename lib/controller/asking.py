"""What every verb of hactl shares: asking the local controllerd, printing, and ending with the right exit code."""

from __future__ import annotations

import enum
import http.client
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import typer
from rich.console import Console

from controller import statusview
from dbaccessor import confsocket

SERVICE = "ha-controller"


class Format(enum.StrEnum):
    """How an answer is printed: for a person, or as JSON for a program."""

    TEXT = "text"
    JSON = "json"


FormatOption = Annotated[Format, typer.Option("--format", help="How to print it.")]


class _Refusal(msgspec.Struct, frozen=True):
    reason: str
    error: str = ""


def ask(state_dir: Path, method: str, target: str, body: bytes = b"", timeout_seconds: float = 5.0) -> bytes:
    """Return the body of controllerd's answer, or end the program with the reason."""
    path = state_dir / confsocket.CONTROL
    try:
        code, answer = confsocket.request(path, method, target, body, timeout_seconds)
    except (confsocket.NoSocket, confsocket.SocketTimeout) as error:
        unreachable(path, error)
    if code != 200:
        refused(code, answer)
    return answer


def refused(code: int, answer: bytes) -> NoReturn:
    """End the program because controllerd answered with this refusal."""
    try:
        kind = msgspec.json.decode(answer, type=_Refusal).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        kind = ""
    match kind:
        case "NotReady" | "NotLeader":
            fail(statusview.NO_QUORUM, f"not done: {reason_of(answer)}")
        case "Indefinite":
            fail(statusview.REFUSED, f"it may have been done, look before doing it again: {reason_of(answer)}")
        case "Refused":
            fail(statusview.REFUSED, reason_of(answer))
        case _:
            fail(statusview.REFUSED, f"controllerd answered {code}: {reason_of(answer)}")


def post_twice(state_dir: Path, target: str, document: dict[str, Any], timeout_seconds: float) -> bytes:
    """Return the body of controllerd's answer; asked once more when it is in doubt whether it was done.

    For requests that may be repeated. Ends the program with the reason where it is refused.
    """
    body = msgspec.json.encode(document)
    path = state_dir / confsocket.CONTROL
    try:
        status, answer = confsocket.request(path, "POST", target, body, timeout_seconds)
        if status == 409:
            status, answer = confsocket.request(path, "POST", target, body, timeout_seconds)
    except (confsocket.NoSocket, confsocket.SocketTimeout) as error:
        unreachable(path, error)
    if status != 200:
        refused(status, answer)
    return answer


def reason_of(answer: bytes) -> str:
    """Return the sentence in a refusal: the reason of a JSON one, else its text."""
    try:
        return msgspec.json.decode(answer, type=_Refusal).reason
    except (msgspec.DecodeError, UnicodeDecodeError):
        return answer.decode(errors="replace").strip()


def unreachable(path: Path, error: confsocket.NoSocket | confsocket.SocketTimeout) -> NoReturn:
    """End the program because nobody answers on this socket."""
    if isinstance(error.__cause__, PermissionError):
        fail(statusview.REFUSED, f"only root may ask controllerd ({path})")
    if isinstance(error, confsocket.SocketTimeout) or isinstance(error.__cause__, http.client.IncompleteRead):
        fail(statusview.UNREACHABLE, f"{error}; journalctl -u {SERVICE} may say why")
    fail(statusview.UNREACHABLE, f"{error}; is the service running? systemctl status {SERVICE}")


def print_json(document: Any) -> None:
    typer.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())


def console() -> Console:
    """A terminal that never breaks lines: what is copied from it is what was printed."""
    return Console(highlight=False, soft_wrap=True)


def warn(sentence: str) -> None:
    typer.echo(f"hactl: {sentence}", err=True)


def fail(code: int, reason: str) -> NoReturn:
    warn(reason)
    raise typer.Exit(code)

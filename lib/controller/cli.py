"""hactl, the operator's command on a controller's machine: it asks the local controllerd and dials nobody.

Exit codes are the same for every verb: 0 done or healthy, 1 refused or failed, 2 usage, 3 degraded, 4 no
quorum, 5 nobody answers. A verb is one function below, registered on `app`; what it prints comes from a pure
module of its own.
"""

from __future__ import annotations

import datetime
import enum
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import typer
from rich.console import Console

import controller
from controller import statusview
from dbaccessor import confsocket

STATE_DIR = Path("/var/lib/ha-controller")
_SERVICE = "ha-controller"

app = typer.Typer(
    help="Ask the controller on this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Format(enum.StrEnum):
    """How an answer is printed: for a person, or as the daemon's own JSON for a program."""

    TEXT = "text"
    JSON = "json"


def main() -> None:
    """Run hactl with the process's arguments; never returns."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hactl {controller.__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    state_dir: Annotated[Path, typer.Option(help="Where controllerd keeps its sockets.", file_okay=False)] = STATE_DIR,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Options that every verb shares; with a callback, typer keeps a lone verb a verb."""
    context.obj = state_dir


@app.command()
def status(
    context: typer.Context,
    format: Annotated[Format, typer.Option(help="How to print it.")] = Format.TEXT,
) -> None:
    """Is it highly available, and what may it lose? Exits 0 healthy, 3 degraded, 4 no quorum, 5 no daemon."""
    body = _ask(context.obj, "/status")
    try:
        document = statusview.parse(body)
    except statusview.BadStatus as error:
        _fail(statusview.REFUSED, str(error))
    if format is Format.JSON:
        # Reformatted, not re-encoded: what this hactl does not know reaches the program that asked.
        typer.echo(msgspec.json.format(body, indent=2).decode())
    else:
        console = Console(highlight=False, soft_wrap=True)
        for line in statusview.lines(document, datetime.datetime.now(datetime.UTC)):
            console.print(line)
    raise typer.Exit(statusview.exit_code(document))


def _ask(state_dir: Path, target: str) -> bytes:
    """Return the body of controllerd's answer to GET `target`, or end the program with the reason."""
    path = state_dir / confsocket.CONTROL
    try:
        code, body = confsocket.request(path, "GET", target)
    except confsocket.NoSocket as error:
        if isinstance(error.__cause__, PermissionError):
            _fail(statusview.REFUSED, f"only root may ask controllerd ({path})")
        _fail(statusview.UNREACHABLE, f"{error}; is the service running? systemctl status {_SERVICE}")
    except confsocket.SocketTimeout as error:
        _fail(statusview.UNREACHABLE, f"{error}; journalctl -u {_SERVICE} may say why")
    if code != 200:
        _fail(statusview.REFUSED, f"controllerd answered {code}: {body.decode(errors='replace').strip()}")
    return body


def _fail(code: int, reason: str) -> NoReturn:
    typer.echo(f"hactl: {reason}", err=True)
    raise typer.Exit(code)


if __name__ == "__main__":
    main()

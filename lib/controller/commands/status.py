"""`hactl status`: is it highly available, and what may it lose?"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from controller import asking, statusview
from controller.asking import Format, FormatOption
from controller.commands import client
from dbaccessor import conf, confsocket, soleowner


def status(
    context: typer.Context,
    format: FormatOption = Format.TEXT,
    controller: Annotated[str, typer.Option("--controller", "-c", help="Ask this one, which is known here.")] = "",
) -> None:
    """Is it highly available, and what may it lose? Exits 0 healthy, 3 degraded, 4 no quorum, 5 nobody answers.

    It asks the controller on this machine, running or not; where there is none, the current one (hactl controllers).

    \b
    Examples:
      hactl status
      hactl status --controller prod
    """
    if controller or (not _is_here(context.obj) and client.is_current()):
        body = msgspec.json.encode(client.ask(controller, "HighAvailability", 2, "Status"))
    else:
        body = asking.ask(context.obj, "GET", "/status")
    try:
        document = statusview.parse(body)
    except statusview.BadStatus as error:
        asking.fail(statusview.REFUSED, str(error))
    if format is Format.JSON:
        # Reformatted, not re-encoded: what this hactl does not know reaches the program that asked.
        typer.echo(msgspec.json.format(body, indent=2).decode())
    else:
        out = asking.console()
        for line in statusview.lines(document, datetime.datetime.now(datetime.UTC)):
            out.print(line)
    raise typer.Exit(statusview.exit_code(document))


def _is_here(state_dir: Path) -> bool:
    """Whether this is a controller's machine, and we are who may ask there.

    A controllerd that was stopped takes its socket along. It is a controller's machine all the same, and another
    controller's health is no answer there.
    """
    try:
        return any((state_dir / name).exists() for name in (confsocket.CONTROL, soleowner.LOCK, conf.FILE_NAME))
    except PermissionError:
        return False

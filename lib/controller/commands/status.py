"""`hactl status`: is it highly available, and what may it lose?"""

from __future__ import annotations

import datetime

import msgspec
import typer

from controller import asking, statusview
from controller.asking import Format, FormatOption


def status(context: typer.Context, format: FormatOption = Format.TEXT) -> None:
    """Is it highly available, and what may it lose? Exits 0 healthy, 3 degraded, 4 no quorum, 5 no daemon."""
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

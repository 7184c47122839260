"""`hactl engine`: which workers run here, which do not, since when and why not."""

from __future__ import annotations

import datetime

import msgspec
import typer

from controller import asking, engineview, statusview
from controller.asking import Format, FormatOption


def engine(context: typer.Context, format: FormatOption = Format.TEXT) -> None:
    """Which workers run here, and why not the others? Exits 0, 3 when a worker failed or a plugin is not used, 5."""
    body = asking.ask(context.obj, "GET", "/report")
    try:
        report = engineview.parse(body)
    except engineview.BadReport as error:
        asking.fail(statusview.REFUSED, str(error))
    if format is Format.JSON:
        typer.echo(msgspec.json.format(body, indent=2).decode())
    else:
        for line in engineview.lines(report, datetime.datetime.now(datetime.UTC)):
            typer.echo(line)
    raise typer.Exit(engineview.exit_code(report))

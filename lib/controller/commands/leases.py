"""`hactl leases`: who is responsible for what."""

from __future__ import annotations

from pathlib import Path

import msgspec
import typer

from controller import asking, leaseview, statusview
from controller.asking import Format, FormatOption
from controller.models.model import Model
from dbaccessor import confsocket


class _Models(msgspec.Struct, frozen=True):
    models: tuple[Model, ...]


def leases(context: typer.Context, format: FormatOption = Format.TEXT) -> None:
    """Who is responsible for what, since when, and was a renewal late? Exits 4 when it cannot be seen now.

    It is what this controller saw last, a few seconds ago at most.
    """
    body = asking.ask(context.obj, "GET", "/leases")
    try:
        found = leaseview.parse(body)
    except leaseview.BadLeases as error:
        asking.fail(statusview.REFUSED, str(error))
    if format is Format.JSON:
        typer.echo(msgspec.json.format(body, indent=2).decode())
    else:
        for line in leaseview.lines(found, _names(context.obj), _cluster(context.obj)):
            typer.echo(line)
    raise typer.Exit(statusview.NO_QUORUM if found.problem else statusview.HEALTHY)


def _names(state_dir: Path) -> dict[str, str]:
    """Return the models' names by uuid; none of them when nobody leads, since uuids will do then."""
    try:
        status, answer = confsocket.request(state_dir / confsocket.CONTROL, "GET", "/models")
        return {m.uuid: m.name for m in msgspec.json.decode(answer, type=_Models).models} if status == 200 else {}
    except (confsocket.NoSocket, confsocket.SocketTimeout, msgspec.DecodeError):
        return {}


def _cluster(state_dir: Path) -> str:
    cluster = statusview.parse(asking.ask(state_dir, "GET", "/status")).cluster
    return "" if cluster is None else cluster.uuid

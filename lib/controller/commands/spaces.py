"""`hactl spaces`, `add-space` and `remove-space`: which subnets are of which space, and where that sends agents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from controller import asking
from controller.api.spacemessages import Answer
from controller.asking import Format, FormatOption
from controller.columns import columns

# What the answer of a daemon may take: it waits for the leader itself, up to 20 s.
_PATIENCE_SECONDS = 25.0


def spaces(context: typer.Context, format: FormatOption = Format.TEXT) -> None:
    """Which subnets are of which space, and where are agents and clients sent? `juju-mgmt-space` is marked with *."""
    _tell(msgspec.json.decode(asking.ask(context.obj, "GET", "/spaces", b"", _PATIENCE_SECONDS), type=Answer), format)


def add_space(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The space's name.", metavar="NAME")],
    subnets: Annotated[list[str], typer.Argument(help="Its subnets; all of them.", metavar="CIDR…")],
    format: FormatOption = Format.TEXT,
) -> None:
    """Make a space of exactly these subnets; one that is there already has these from now on.

    \b
    Examples:
      hactl add-space management 10.1.0.0/16 fd00:1::/64
      hactl controller-config juju-mgmt-space=management
    """
    _tell(_post(context.obj, "/spaces", {"name": name, "subnets": subnets}), format)


def remove_space(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The space's name.", metavar="NAME")],
    format: FormatOption = Format.TEXT,
) -> None:
    """Remove a space. Its subnets are in the space alpha then. Repeating it does no harm."""
    _tell(_post(context.obj, "/spaces/remove", {"name": name}), format)


def _post(state_dir: Path, target: str, document: dict[str, Any]) -> Answer:
    return msgspec.json.decode(asking.post_twice(state_dir, target, document, _PATIENCE_SECONDS), type=Answer)


def _tell(found: Answer, format: Format) -> None:
    if format is Format.JSON:
        asking.print_json(found)
        return
    rows = [
        (f"{space.name}{'*' if space.name == found.management_space else ''}", " ".join(space.subnets) or "-")
        for space in found.spaces
    ]
    for line in columns(("SPACE", "SUBNETS"), rows):
        typer.echo(line)
    typer.echo()
    lists = [(i, " ".join(found.agents.get(i, ())), " ".join(found.clients[i])) for i in found.clients]
    for line in columns(("CONTROLLER", "AGENTS", "CLIENTS"), lists):
        typer.echo(line)
    if found.charm_space:
        typer.echo(f"space {found.charm_space} is set by the charm's option juju-mgmt-space")
    for note in found.notes:
        typer.echo(f"note: {note}")

"""`hactl models`, `add-model` and `destroy-model`: what the controllers work for."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from controller import asking, statusview
from controller.asking import Format, FormatOption
from controller.columns import columns
from controller.models.model import Model, new_uuid

# What the answer of a daemon may take: it waits for the leader itself, up to 20 s.
_PATIENCE_SECONDS = 25.0
_LOOK_SECONDS = 0.2


class _Models(msgspec.Struct, frozen=True):
    models: tuple[Model, ...]


def models(context: typer.Context, format: FormatOption = Format.TEXT) -> None:
    """Which models are there? Asked of the leader, from any controller."""
    found = _models(context.obj)
    if format is Format.JSON:
        asking.print_json({"models": found})
        return
    for line in columns(("MODEL", "LIFE", "CREATED", "UUID"), ((m.name, m.life, m.created, m.uuid) for m in found)):
        typer.echo(line)


def add_model(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Up to 63 of a-z, 0-9 and '-'.")],
    format: FormatOption = Format.TEXT,
) -> None:
    """Make a model, with an empty database of its own.

    \b
    Examples:
      hactl add-model staging
      hactl add-model staging --format json
    """
    # The uuid is chosen here, so that asking again after an answer that did not come means the same model.
    body = {"name": name, "uuid": new_uuid()}
    model = msgspec.json.decode(asking.post_twice(context.obj, "/models/add", body, _PATIENCE_SECONDS), type=Model)
    _tell(model, format, f"model {model.name} is there ({model.uuid})")


def destroy_model(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Its name or uuid.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait until it is gone.")] = True,
    timeout: Annotated[float, typer.Option(help="Wait so many seconds at most.", min=1.0)] = 120.0,
    format: FormatOption = Format.TEXT,
) -> None:
    """Destroy a model and all that is in it; there is no way back. Repeating it does no harm.

    \b
    Examples:
      hactl destroy-model staging
      hactl destroy-model --yes --no-wait staging
    """
    if not yes and not typer.confirm(f"Destroy the model {model} with all that is in it?", err=True):
        asking.fail(statusview.REFUSED, "nothing was changed")
    dying = msgspec.json.decode(
        asking.post_twice(context.obj, "/models/destroy", {"model": model}, _PATIENCE_SECONDS), type=Model
    )
    if not wait:
        _tell(dying, format, f"model {dying.name} is being destroyed")
        return
    deadline = time.monotonic() + timeout
    while any(m.uuid == dying.uuid for m in _models(context.obj)):
        if time.monotonic() >= deadline:
            asking.fail(statusview.REFUSED, f"model {dying.name} is not gone yet; hactl engine on its holder says why")
        time.sleep(_LOOK_SECONDS)
    gone = Model(dying.uuid, dying.name, dying.owner, "dead", dying.created)
    _tell(gone, format, f"model {dying.name} is gone")


def _models(state_dir: Path) -> tuple[Model, ...]:
    return msgspec.json.decode(asking.ask(state_dir, "GET", "/models", b"", _PATIENCE_SECONDS), type=_Models).models


def _tell(model: Model, format: Format, sentence: str) -> None:
    if format is Format.JSON:
        asking.print_json(model)
    else:
        typer.echo(sentence)

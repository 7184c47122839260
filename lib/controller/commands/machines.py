"""`hactl machines`, `add-machine`, `retry-provisioning`, `enrol-machine`, `remove-machine` and `controller-config`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from controller import asking, ownmachine, statusview
from controller.asking import Format, FormatOption
from controller.columns import columns
from controller.models.model import CONTROLLER, new_uuid
from controller.workers.machinemessages import Answer, Shown

# What the answer of a daemon may take: it waits for the leader itself, up to 20 s.
_PATIENCE_SECONDS = 25.0

ModelOption = Annotated[str, typer.Option("--model", "-m", help="The model's name or uuid.")]


class _Settings(msgspec.Struct, frozen=True):
    settings: dict[str, str]


def machines(
    context: typer.Context,
    model: ModelOption = CONTROLLER,
    all: Annotated[bool, typer.Option("--all", help="Stopped ones, too.")] = False,
    format: FormatOption = Format.TEXT,
) -> None:
    """Which machines does a model have, and what do they wait for? Asked of the leader, from any controller."""
    found = _ask(context.obj, "/machines", {"model": model})
    shown = tuple(machine for machine in found if all or machine.state != "stopped")
    if format is Format.JSON:
        asking.print_json({"model": model, "machines": shown})
        return
    head = ("MACHINE", "STATE", "INSTANCE", "ADDRESS", "REASON")
    for line in columns(head, ((str(m.number), m.state, m.instance, m.address, _told(m)) for m in shown)):
        typer.echo(line)


def add_machine(
    context: typer.Context,
    num_machines: Annotated[int, typer.Option("-n", "--num-machines", min=1, max=100, help="How many.")] = 1,
    model: ModelOption = CONTROLLER,
    manual: Annotated[bool, typer.Option("--manual", help="Bring the machine yourself: no provider is asked.")] = False,
    format: FormatOption = Format.TEXT,
) -> None:
    """Add machines to a model. It returns at once; `hactl machines` shows how they come up.

    \b
    Examples:
      hactl add-machine
      hactl add-machine -n 3 --model staging
    """
    # The uuids are chosen here, so that asking again after an answer that did not come means the same machines.
    body = {"uuids": [new_uuid() for _ in range(num_machines)], "model": model, "manual": manual}
    added = _ask(context.obj, "/machines/add", body)
    _tell(model, added, format, "added")
    if manual and format is Format.TEXT:
        _tell_how_to_enrol(model, added)


def enrol_machine(
    context: typer.Context,
    number: Annotated[int, typer.Argument(help="Its number.", metavar="MACHINE")],
    model: ModelOption = CONTROLLER,
) -> None:
    """Print a new agent.conf for a machine that you bring yourself. One that was printed earlier is void then.

    \b
    Examples:
      (umask 077; hactl enrol-machine 3 > agent.conf)
    """
    body = asking.post_twice(context.obj, "/machines/enrol", {"number": number, "model": model}, _PATIENCE_SECONDS)
    typer.echo(msgspec.json.decode(body, type=dict[str, str])["agent-conf"], nl=False)


def remove_machine(
    context: typer.Context,
    numbers: Annotated[list[int], typer.Argument(help="Their numbers.", metavar="MACHINE…")],
    model: ModelOption = CONTROLLER,
    format: FormatOption = Format.TEXT,
) -> None:
    """Remove machines from a model, for good. It returns at once. Repeating it does no harm."""
    _tell(model, _ask(context.obj, "/machines/remove", {"numbers": numbers, "model": model}), format, "removed")


def retry_provisioning(
    context: typer.Context,
    numbers: Annotated[list[int], typer.Argument(help="Their numbers.", metavar="MACHINE…")],
    model: ModelOption = CONTROLLER,
    format: FormatOption = Format.TEXT,
) -> None:
    """Have machines that are in error started again, now. It returns at once; `hactl machines` shows what comes of it.

    \b
    Examples:
      hactl retry-provisioning 3
      hactl retry-provisioning --model staging 1 2
    """
    _tell(model, _ask(context.obj, "/machines/retry", {"numbers": numbers, "model": model}), format, "tried again")


def controller_config(
    context: typer.Context,
    setting: Annotated[str, typer.Argument(metavar="[KEY[=VALUE]]", help="KEY= unsets it.")] = "",
    format: FormatOption = Format.TEXT,
) -> None:
    """Show the settings of the controllers, one of them, or set one.

    \b
    Examples:
      hactl controller-config
      hactl controller-config local-provider=http://10.77.0.1:17999
    """
    key, sets, value = setting.partition("=")
    if sets:
        asking.post_twice(context.obj, "/controller-config", {"key": key, "value": value}, _PATIENCE_SECONDS)
        found = {key: value}
    else:
        body = asking.ask(context.obj, "GET", "/controller-config", b"", _PATIENCE_SECONDS)
        found = msgspec.json.decode(body, type=_Settings).settings
        if key and key not in found:
            asking.fail(statusview.REFUSED, f"there is no setting {key}; there are {', '.join(found)}")
        found = {k: v for k, v in found.items() if key in ("", k)}
    if format is Format.JSON:
        asking.print_json({"settings": found})
    elif key and not sets:
        typer.echo(found[key])
    elif not sets:
        for line in columns(("KEY", "VALUE"), found.items()):
            typer.echo(line)


def _ask(state_dir: Path, target: str, document: dict[str, Any]) -> tuple[Shown, ...]:
    return msgspec.json.decode(asking.post_twice(state_dir, target, document, _PATIENCE_SECONDS), type=Answer).machines


def _tell(model: str, found: tuple[Shown, ...], format: Format, done: str) -> None:
    if format is Format.JSON:
        asking.print_json({"model": model, "machines": found})
        return
    for machine in found:
        typer.echo(f"machine {machine.number} {done}: {machine.state}{f', {_told(machine)}' if _told(machine) else ''}")


def _tell_how_to_enrol(model: str, added: tuple[Shown, ...]) -> None:
    option = "" if model == CONTROLLER else f" --model {model}"
    for machine in added:
        typer.echo(f"  here:     (umask 077; hactl enrol-machine {machine.number}{option} > agent.conf)")
        typer.echo(f"  there:    put it into {ownmachine.STATE_DIR} (mode 0600), and run agentd")


def _told(machine: Shown) -> str:
    if machine.retry_seconds is None:
        return machine.reason
    return f"{machine.reason} (tried {machine.attempts} times, again every {machine.retry_seconds} s or less)"

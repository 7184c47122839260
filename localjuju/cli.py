"""The command line: Juju's verbs and words where Juju has them, plus the faults that only a stand-in can make."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from localjuju import client as clients
from localjuju import view

app = typer.Typer(
    help="Run N units of a charm on this machine, each a host of its own. A stand-in for Juju, not Juju.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_state: dict[str, clients.Client] = {}

Force = Annotated[bool, typer.Option("--force")]
Units = Annotated[int, typer.Option("-n", "--num-units", min=1, help="How many units.")]
Format = Annotated[str, typer.Option("--format", help="text, json or yaml")]
Extra = Annotated[list[str] | None, typer.Option("--extra-address", help="A second address from birth: CIDR.")]


def _client() -> clients.Client:
    return _state["client"]


@app.callback()
def choose_home(
    home: Annotated[Path | None, typer.Option(help="The folder of the run.", envvar="LOCALJUJU_HOME")] = None,
) -> None:
    _state["client"] = clients.Client(home)


def _show(value: Any, form: str, text: str) -> None:
    if form == "json":
        typer.echo(json.dumps(value))
    elif form == "yaml":
        typer.echo(yaml.safe_dump(value, sort_keys=False), nl=False)
    else:
        typer.echo(text, nl=False)


def _pairs(words: list[str]) -> dict[str, str]:
    pairs = {}
    for word in words:
        key, found, value = word.partition("=")
        if not found:
            raise typer.BadParameter(f"expected key=value, got {word!r}")
        pairs[key] = value
    return pairs


def _bindings(text: str) -> dict[str, str]:
    """Juju's form: `ep=space ep2=space2`, and a bare `space` for the default."""
    pairs = {}
    for word in text.split():
        endpoint, found, space = word.partition("=")
        pairs[endpoint if found else ""] = space if found else endpoint
    return pairs


@app.command()
def bootstrap(
    die_with: Annotated[int, typer.Option(help="End the run when this process ends (its pid).")] = 0,
    update_status_interval: Annotated[float, typer.Option(help="Seconds between update-status hooks.")] = 60.0,
    lease_seconds: Annotated[float, typer.Option(help="How long a dead leader stays leader.")] = 3.0,
    keep_logs: Annotated[Path | None, typer.Option(help="Copy the logs here when the run ends.")] = None,
) -> None:
    """Start an empty model: a namespace without a route out, and a daemon in it."""
    _client().bootstrap(
        die_with=die_with,
        update_status_interval=update_status_interval,
        lease_seconds=lease_seconds,
        keep_logs=keep_logs,
    )


@app.command()
def destroy() -> None:
    """End the run: its processes, namespaces, mounts and files."""
    if not _client().destroy():
        typer.echo(f"no run in {_client().home.path}", err=True)


@app.command()
def deploy(
    path: Annotated[Path, typer.Argument(help="A charm's source tree or a .charm file.")],
    name: Annotated[str, typer.Argument(help="The application's name; the charm's if left out.")] = "",
    num_units: Units = 1,
    bind: Annotated[str, typer.Option(help='"endpoint=space …"')] = "",
    config: Annotated[list[str] | None, typer.Option(help="key=value")] = None,
    extra_address: Extra = None,
) -> None:
    """Deploy a charm (starting a run first if there is none)."""
    try:
        _client().call("ping")
    except clients.NotRunning:
        typer.echo(f"no run yet: starting one in {_client().home.path}", err=True)
        _client().bootstrap()
    result = _client().call(
        "deploy",
        path=str(path.resolve()),
        name=name,
        units=num_units,
        bind=_bindings(bind),
        config=_pairs(config or []),
        extra_address=extra_address or [],
    )
    typer.echo(f"Deploying {result['application']}: {', '.join(result['units'])}", err=True)


@app.command()
def refresh(application: str, path: Annotated[Path, typer.Option(help="The new charm.")]) -> None:
    """Replace the charm's code; upgrade-charm runs on each unit."""
    _client().call("refresh", app=application, path=str(path.resolve()))


@app.command()
def add_unit(application: str, num_units: Units = 1, extra_address: Extra = None) -> None:
    """Add units, each on a new host."""
    result = _client().call("add-unit", app=application, units=num_units, extra_address=extra_address or [])
    typer.echo(f"Adding {', '.join(result['units'])}", err=True)


@app.command()
def remove_unit(units: list[str], force: Force = False) -> None:
    """Remove units in order, or with --force kill their hosts at once (no event for them)."""
    _client().call("remove-unit", units=units, force=force)


@app.command()
def bind(application: str, bindings: list[str], force: Force = False) -> None:
    """Bind endpoints to spaces: `bind controller db-cluster=db`."""
    _client().call("bind", app=application, bindings=_bindings(" ".join(bindings)), force=force)


@app.command()
def config(
    application: str,
    settings: Annotated[list[str] | None, typer.Argument(help="key=value to set, or one key to read")] = None,
    reset: Annotated[str, typer.Option(help="Comma-separated keys to reset.")] = "",
    form: Format = "yaml",
) -> None:
    """Show or set an application's options."""
    words = settings or []
    if len(words) == 1 and "=" not in words[0]:
        shown = _client().call("config", app=application)["settings"]
        if words[0] not in shown:
            raise clients.ClientError(f'key "{words[0]}" not found in "{application}" application config')
        typer.echo(shown[words[0]].get("value", ""))
        return
    keys = [k for k in reset.split(",") if k]
    result = _client().call("config", app=application, changes=_pairs(words), reset=keys)
    if not words and not keys:
        _show(result, form, yaml.safe_dump(result, sort_keys=False))


@app.command()
def model_config(settings: Annotated[list[str] | None, typer.Argument()] = None, form: Format = "yaml") -> None:
    """Show or set the model's times, in seconds."""
    result = _client().call("model-config", changes=_pairs(settings or []))
    _show(result, form, yaml.safe_dump(result))


@app.command()
def run(
    unit: str,
    action: str,
    params: Annotated[list[str] | None, typer.Argument(help="key=value")] = None,
    form: Format = "text",
    wait: Annotated[float, typer.Option(help="Seconds to wait for it.")] = 60.0,
) -> None:
    """Run an action on a unit (or on `app/leader`) and wait for its result."""
    result = _client().call(
        "run",
        deadline_seconds=wait + 5,
        unit=unit,
        action=action,
        params=_pairs(params or []),
        wait_seconds=wait,
    )
    (outcome,) = result.values()
    text = "".join(f"{line}\n" for line in outcome["log"])
    text += yaml.safe_dump(outcome["results"], sort_keys=False, allow_unicode=True)
    _show(result, form, text)
    if outcome["status"] != "completed":
        raise clients.ClientError(f"Action id {outcome['id']} failed: {outcome.get('message', '')}")


@app.command()
def status(form: Format = "text") -> None:
    """The model as `juju status` shows it."""
    shape = _client().status()
    _show(shape, form, view.text(shape))


@app.command()
def show_unit(unit: str, form: Format = "yaml") -> None:
    """A unit with both databags of its relations."""
    shape = _client().call("show-unit", unit=unit)
    _show(shape, form, yaml.safe_dump(shape, sort_keys=False))


@app.command()
def debug_log(
    tail: Annotated[bool, typer.Option("--tail", help="Go on with what is logged from now on.")] = False,
    include: Annotated[str, typer.Option(help="Only this unit.")] = "",
    level: Annotated[str, typer.Option("-l", "--level")] = "DEBUG",
    limit: Annotated[int, typer.Option("-n", "--limit", help="Only the last N lines.")] = 0,
) -> None:
    """What charms, hooks and agents logged."""
    last = 0
    while True:
        answer = _client().call("debug-log", since=last, unit=include, level=level, limit=limit)
        for line in answer["lines"]:
            typer.echo(line)
        last, limit = answer["last"], 0
        if not tail:
            return
        time.sleep(0.3)


def _become(argv: list[str]) -> None:
    sys.stdout.flush()
    os.execvp(argv[0], argv)


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def exec(  # noqa: A001 - the verb's name
    unit: Annotated[str, typer.Option("--unit", "-u")],
    command: list[str],
) -> None:
    """Run a command on a unit's host: `exec --unit controller/0 -- CMD …`. As `juju ssh` would, beside the hooks."""
    _become(_client().on_unit(unit, command))


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def shell(command: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """A shell (or a command) inside the run's namespaces, from where every unit can be reached."""
    _become(_client().inside(command or [os.environ.get("SHELL", "/bin/bash")]))


@app.command()
def cloud(
    log: Annotated[str, typer.Argument(metavar="[log]", help="`log`: what the cloud did, a line of JSON each.")] = "",
    form: Format = "text",
) -> None:
    """The cloud beside the model: where units reach it, and its instances; `cloud log`: what it did."""
    if log == "log":
        for line in _client().call("cloud-log"):
            typer.echo(json.dumps(line))
        return
    if log:
        raise typer.BadParameter(f"expected nothing or `log`, got {log!r}")
    shape = _client().call("cloud")
    _show(shape, form, view.cloud_text(shape))


@app.command()
def resolve(unit: str, no_retry: Annotated[bool, typer.Option("--no-retry")] = False) -> None:
    """Retry a unit's failed hook now, or with --no-retry take it as done."""
    _client().call("resolve", unit=unit, retry=not no_retry)


@app.command()
def update_status(unit: str) -> None:
    """Run a unit's update-status hook now."""
    _client().call("update-status", unit=unit)


@app.command()
def add_space(name: str, cidr: str) -> None:
    """A space with a subnet of its own (a bridge); or move a known subnet to it."""
    _client().call("add-space", name=name, cidr=cidr)


@app.command()
def add_address(unit: str, cidr: str) -> None:
    """Give a unit another address: on the card of that subnet, or on a new card."""
    result = _client().call("add-address", unit=unit, cidr=cidr)
    typer.echo(f"{result['interface']}: {result['address']} (space {result['space']})", err=True)


@app.command()
def kill(unit: str) -> None:
    """SIGKILL for the main process of the unit's services."""
    typer.echo("killed " + ", ".join(_client().call("kill", unit=unit)["killed"]), err=True)


@app.command()
def pause(unit: str) -> None:
    """SIGSTOP for all processes of the unit's services."""
    _client().call("pause", unit=unit)


@app.command()
def resume(unit: str) -> None:
    """SIGCONT for them."""
    _client().call("resume", unit=unit)


@app.command()
def cut(
    units: list[str],
    other: Annotated[str, typer.Option("--from", help="Cut only from this unit, or from `outside`.")] = "",
    one_way: Annotated[bool, typer.Option("--one-way", help="Only what the other sends is lost.")] = False,
) -> None:
    """Drop silently all traffic between the named units and all others (or one other)."""
    _client().call("cut", units=units, other=other, one_way=one_way)


@app.command()
def heal(units: Annotated[list[str] | None, typer.Argument(help="All, if none is named.")] = None) -> None:
    """Undo cuts."""
    _client().call("heal", units=units or [])


@app.command()
def restart_all() -> None:
    """Power cut: SIGKILL for everything of all units at once; then the hosts boot again."""
    _client().call("restart-all")


@app.command()
def reboot(unit: str) -> None:
    """The same for one unit."""
    _client().call("reboot", unit=unit)


def main() -> None:
    try:
        app()
    except clients.ClientError as error:
        print(f"ERROR {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(1)


if __name__ == "__main__":
    main()

"""hactl, the operator's command on a controller's machine: it asks the local controllerd, or repairs a stopped one.

Exit codes are the same for every verb: 0 done or healthy, 1 refused or failed, 2 usage, 3 degraded, 4 no
quorum, 5 nobody answers. The verbs are in `commands`, one module a group; here they only get their names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import controller
from controller.commands import backup, client, engine, leases, machines, models, recover, spaces, sql, status

STATE_DIR = Path("/var/lib/ha-controller")

app = typer.Typer(
    help="Ask the controllers, from any machine; or look after the controller on this one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


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


app.command()(status.status)
app.command()(engine.engine)
app.command()(leases.leases)
app.command()(models.models)
app.command()(models.add_model)
app.command()(models.destroy_model)
app.command()(spaces.spaces)
app.command()(spaces.add_space)
app.command()(spaces.remove_space)
app.command()(machines.machines)
app.command()(machines.add_machine)
app.command()(machines.enrol_machine)
app.command()(machines.remove_machine)
app.command()(machines.retry_provisioning)
app.command()(machines.controller_config)
app.command()(sql.sql)
app.command()(backup.backup)
app.command()(backup.restore)
app.command()(recover.recover)
app.command()(client.registration)
app.command()(client.register)
app.command()(client.login)
app.command()(client.logout)
app.command()(client.controllers)
app.command()(client.switch)
app.command()(client.show_controller)


if __name__ == "__main__":
    main()

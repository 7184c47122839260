"""hactl's verbs for a person at any machine: register, login, logout, controllers, switch, show-controller.

They use the store (api/client/store.py) and the controllers' API, and need neither root nor a controller beside them.
`registration` alone is for a controller's machine: it makes the string that `register` wants.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, TypeVar

import msgspec
import typer

from controller import asking, statusview
from controller.api.client.client import Client, ClientError, NotNow, Unavailable
from controller.api.client.entries import Account
from controller.api.client.store import Known, Store, StoreError, default_directory
from controller.api.connection import Over, TooLate
from controller.api.dial import Pace
from controller.api.messages import RPCError
from controller.api.registration import BadRegistration
from controller.asking import Format, FormatOption
from controller.columns import columns

# A person waits: whoever is there answers well within this.
PACE = Pace(interval=0.25, attempt=5.0, total=10.0, retry=2.0)

_PATIENCE_SECONDS = 25.0

_T = TypeVar("_T")

_Name = Annotated[str, typer.Argument(help="The controller's name here; the current one if none is given.")]


class _Opened(msgspec.Struct, frozen=True, rename="kebab"):
    user: str
    registration: str
    valid_seconds: int


def registration(
    context: typer.Context,
    user: Annotated[str, typer.Argument(help="Who is to register.")] = "admin",
    format: FormatOption = Format.TEXT,
) -> None:
    """Let a user set her password: print a string that works once. On a controller's machine, as root.

    \b
    Examples:
      hactl registration
      hactl registration admin
    """
    body = msgspec.json.encode({"user": user})
    answer = asking.ask(context.obj, "POST", "/registration", body, timeout_seconds=_PATIENCE_SECONDS)
    opened = msgspec.json.decode(answer, type=_Opened)
    if format is Format.JSON:
        asking.print_json(opened)
        return
    hours = opened.valid_seconds // 3600
    asking.warn(f"whoever has this string first, within {hours} hours, sets the password of {opened.user}:")
    typer.echo(opened.registration)


def register(
    text: Annotated[str, typer.Argument(help="What `hactl registration` printed; asked for if not given.")] = "",
    name: Annotated[str, typer.Option(help="What the controller is to be called here.")] = "",
) -> None:
    """Come in for the first time: set the password, remember the controllers, log in.

    Without a terminal, the string (if it is no argument) and the password are read from stdin, a line each.

    \b
    Examples:
      hactl register
      hactl register hac1_eNpt… --name prod
    """
    text = text or _ask_for("registration string")
    password = _ask_for("new password", secret=True, twice=True)

    async def come_in() -> str:
        async with await Client.register(_store(), text, password, name=name, pace=PACE) as client:
            return client.name

    typer.echo(f"you are logged in to {_run(come_in())}, which is the current controller now")


def login(
    name: _Name = "",
    user: Annotated[str, typer.Option(help="Who you are; who you were last, if not given.")] = "",
) -> None:
    """Log in to a controller that is known here, and remember the password.

    Without a terminal, the password is read from stdin.
    """
    known = _known(name)
    who = user or (known.account.user if known.account is not None else "admin")
    password = _ask_for(f"password of {who} at {known.name}", secret=True)

    async def come_in() -> str:
        async with await Client.connect(_store(), known.name, user=who, password=password, pace=PACE) as client:
            info = client.login.user_info
            return info.controller_access if info is not None else ""

    access = _run(come_in())
    _guarded(lambda: _store().set_account(known.name, Account(who, password, access)))
    typer.echo(f"{who} is logged in to {known.name}")


def logout(name: _Name = "") -> None:
    """Forget who you are at a controller, password and all. What is known of the controller stays."""
    known = _known(name)
    had = _guarded(lambda: _store().forget_account(known.name))
    typer.echo(f"you are logged out of {known.name}" if had else f"nobody was logged in to {known.name}")


def controllers(format: FormatOption = Format.TEXT) -> None:
    """Which controllers are known here? The current one has a star."""
    store = _store()
    found = _guarded(store.controllers)
    if format is Format.JSON:
        asking.print_json({"current": found.current, "controllers": [_told(_known(n)) for n in sorted(found.entries)]})
        return
    accounts = _guarded(store.accounts).entries
    rows = [
        (
            f"{name}{'*' if name == found.current else ''}",
            accounts[name].user if name in accounts else "-",
            entry.api_endpoints[0] if entry.api_endpoints else "-",
            str(len(entry.api_endpoints)),
        )
        for name, entry in sorted(found.entries.items())
    ]
    for line in columns(("CONTROLLER", "USER", "LAST GOOD ADDRESS", "ADDRESSES"), rows):
        typer.echo(line)
    if not rows:
        asking.warn("none yet: hactl registration on a controller's machine, then hactl register here")


def switch(name: Annotated[str, typer.Argument(help="The controller to use from now on.")]) -> None:
    """Make a controller the current one."""
    before = _guarded(lambda: _store().switch(name))
    typer.echo(f"{before} -> {name}" if before and before != name else name)


def show_controller(
    name: _Name = "",
    ask: Annotated[bool, typer.Option(help="Log in and say what the controllers say, too.")] = True,
    format: FormatOption = Format.TEXT,
) -> None:
    """What is known here of a controller, and do its controllers let you in? The password is not shown."""
    known = _known(name)

    async def asked() -> dict[str, Any]:
        async with await Client.connect(_store(), known.name, pace=PACE) as client:
            told = client.login
            return {
                "connected-to": str(client.connection.address),
                "controller-id": client.connection.controller_id,
                "servers": [[str(address) for address in group] for group in told.servers],
                "server-version": told.server_version,
                "access": told.user_info.controller_access if told.user_info is not None else "",
            }

    document = {**_told(known), **(_run(asked()) if ask else {})}
    if format is Format.JSON:
        asking.print_json(document)
        return
    for key, value in document.items():
        lines = value if isinstance(value, list) else str(value).splitlines() or ["-"]
        typer.echo(f"{key}:" if len(lines) > 1 else f"{key}: {_word(lines[0])}" if lines else f"{key}: -")
        for line in lines if len(lines) > 1 else ():
            typer.echo(f"  {_word(line)}")


def is_current() -> bool:
    """Whether there is a current controller; an unreadable store is none."""
    try:
        return bool(_store().controllers().current)
    except StoreError:
        return False


def ask(name: str, facade: str, version: int, method: str) -> dict[str, Any]:
    """Return what a controller that is known here answers, or end the program with the reason."""
    known = _known(name)

    async def asked() -> dict[str, Any]:
        async with await Client.connect(_store(), known.name, pace=PACE) as client:
            try:
                return await client.call(facade, version, method, None, dict[str, Any])
            except (RPCError, Over, TooLate) as error:
                raise ClientError(f"{known.name} does not answer: {error}") from error

    return _run(asked())


def _told(known: Known) -> dict[str, Any]:
    entry = known.entry
    return {
        "name": known.name,
        "user": known.account.user if known.account is not None else "",
        "uuid": entry.uuid,
        "epoch": entry.epoch.number,
        "api-endpoints": list(entry.api_endpoints),
        "ca-cert": entry.ca_cert,
    }


def _word(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _store() -> Store:
    return Store(default_directory())


def _known(name: str) -> Known:
    return _guarded(lambda: _store().find(name or None))


def _ask_for(what: str, *, secret: bool = False, twice: bool = False) -> str:
    if not sys.stdin.isatty():
        line = sys.stdin.readline().rstrip("\r\n")
        if not line:
            asking.fail(statusview.USAGE, f"there is no {what} on stdin")
        return line
    return str(typer.prompt(what, hide_input=secret, confirmation_prompt=twice))


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    # What is worth a line is printed, or is the error; the rest is for those who embed the client.
    logging.getLogger("controller.api").setLevel(logging.ERROR)
    return _guarded(lambda: asyncio.run(work))


def _guarded(work: Callable[[], _T]) -> _T:
    """Return what `work` returns, or end the program with the reason and the right code."""
    try:
        return work()
    except NotNow as error:
        asking.fail(statusview.NO_QUORUM, str(error))
    except Unavailable as error:
        asking.fail(statusview.UNREACHABLE, str(error))
    except (ClientError, StoreError) as error:
        asking.fail(statusview.REFUSED, str(error))
    except BadRegistration as error:
        asking.fail(statusview.REFUSED, f"this is no registration string: {error}")

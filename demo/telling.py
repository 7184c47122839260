"""How the story is told: live where a person watches, plain lines with the time where nobody does."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.markup import escape

# Without a terminal a long wait still says something now and then: silence looks like a hang.
_REMIND_SECONDS = 10.0


@dataclass(frozen=True)
class Check:
    """One thing the demo promised, and whether it held."""

    name: str
    ok: bool
    detail: str


class Teller(Protocol):
    """Where the story goes. Nothing returned, nothing raised."""

    def chapter(self, title: str) -> None: ...
    def typed(self, command: str) -> None: ...
    def say(self, text: str) -> None: ...
    def check(self, check: Check) -> None: ...
    def waiting(self, what: str) -> contextlib.AbstractContextManager[Progress]: ...


class Progress(Protocol):
    def now(self, text: str) -> None:
        """Say what is still missing. Called often; shown as often as the place can bear."""


class Live:
    """For a terminal: colours, and one moving line while something is waited for."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def chapter(self, title: str) -> None:
        self._console.print()
        self._console.rule(f"[bold]{escape(title)}", align="left", style="dim")

    def typed(self, command: str) -> None:
        self._console.print(f"  [dim]$[/dim] [bold cyan]{escape(command)}")

    def say(self, text: str) -> None:
        self._console.print(f"    {escape(text)}")

    def check(self, check: Check) -> None:
        mark = "[bold green]✓[/bold green]" if check.ok else "[bold red]✗[/bold red]"
        self._console.print(f"  {mark} {escape(check.name)} [dim]({escape(check.detail)})[/dim]")

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[Progress]:
        started = time.monotonic()
        with self._console.status(escape(what)) as status:

            class Moving:
                def now(self, text: str) -> None:
                    age = time.monotonic() - started
                    status.update(f"{escape(what)} [dim]{age:.0f} s: {escape(text)}[/dim]")

            yield Moving()


class Plain:
    """For a log: whole lines, each with the seconds since the start."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()

    def _line(self, text: str) -> None:
        age = time.monotonic() - self._started
        self._console.print(f"{age:7.2f}  {text}", markup=False, highlight=False, soft_wrap=True)

    def chapter(self, title: str) -> None:
        self._line(f"== {title}")

    def typed(self, command: str) -> None:
        self._line(f"$ {command}")

    def say(self, text: str) -> None:
        self._line(f"   {text}")

    def check(self, check: Check) -> None:
        self._line(f"{'ok  ' if check.ok else 'FAIL'} {check.name}: {check.detail}")

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[Progress]:
        line = self._line
        reminded = time.monotonic()

        class Reminding:
            def now(self, text: str) -> None:
                nonlocal reminded
                if time.monotonic() - reminded >= _REMIND_SECONDS:
                    reminded = time.monotonic()
                    line(f"   … {what}: {text}")

        yield Reminding()


def teller(console: Console) -> Teller:
    """Return the way to tell that fits where the console goes."""
    return Live(console) if console.is_terminal else Plain(console)

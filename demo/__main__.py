"""scripts/demo: tell the story once, print what was measured, exit 0 only if everything held."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from demo.report import Findings, as_data, as_table
from demo.stage import Failed, Stage
from demo.story import Story
from demo.telling import Check, Teller, teller

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write what was measured and checked to this file.", dir_okay=False)
    ] = None,
    history_file: Annotated[
        Path | None,
        typer.Option("--history", help="Keep the writer's history in this file.", dir_okay=False),
    ] = None,
) -> None:
    """Units of the real charm form a real Dqlite cluster, survive kills and a power cut, and shrink to one."""
    # SIGTERM ends the demo as SIGINT does: by an exception that cleans up on its way.
    signal.signal(signal.SIGTERM, _interrupted)
    console = Console(highlight=False)
    findings = Findings()
    started = time.monotonic()
    try:
        _play(teller(console), findings, history_file)
    except KeyboardInterrupt:
        console.print("interrupted; nothing is left behind")
        raise typer.Exit(130) from None
    finally:
        if json_file is not None:
            _write(json_file, (json.dumps(as_data(findings), indent=2) + "\n").encode())
    console.print()
    console.print(as_table(findings))
    verdict = "everything held" if findings.ok else "SOMETHING DID NOT HOLD"
    console.print(f"{verdict}; {time.monotonic() - started:.0f} s in all")
    raise typer.Exit(0 if findings.ok else 1)


def _play(tells: Teller, findings: Findings, history_file: Path | None) -> None:
    try:
        with Stage(tells) as stage:
            story = Story(stage, tells, findings)
            try:
                story.tell()
            except Failed as failed:
                _note(tells, findings, "the story can be told to its end", failed)
                for line in stage.evidence():
                    tells.say(line)
            try:
                story.count_rows()
            except Failed as failed:
                _note(tells, findings, "every row can be read back", failed)
            if history_file is not None:
                _write(history_file, stage.history())
    except Failed as failed:
        _note(tells, findings, "localjuju starts", failed)


def _note(tells: Teller, findings: Findings, name: str, failed: Failed) -> None:
    check = Check(name, False, str(failed))
    findings.checks.append(check)
    tells.check(check)


def _interrupted(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _write(path: Path, content: bytes) -> None:
    """Replace `path` as a whole, so that no reader finds half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)


if __name__ == "__main__":
    app()

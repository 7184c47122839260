"""`hactl sql`: a shell on the cluster's databases, to read unless told otherwise."""

from __future__ import annotations

import datetime
import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer

from controller import asking, statusview
from controller.asking import Format, FormatOption
from dbaccessor import confsocket

_HELP = """\
A statement ends with a semicolon; it only reads. Ctrl-C gives it up, Ctrl-D leaves.
.tables         the tables, views and indexes
.ddl [NAME]     the statements that made them
.namespaces     the databases of the cluster
.use NAME       go to another database
.cluster        who is a member, who leads
.quit"""

# What the answer of a daemon may take beyond the deadline it was given.
_GRACE_SECONDS = 5.0


class SqlError(RuntimeError):
    """The statement was not carried out. The message is one sentence; `code` is the exit code it stands for."""

    def __init__(self, message: str, code: int = statusview.REFUSED) -> None:
        super().__init__(message)
        self.code = code


class Answer(msgspec.Struct, frozen=True):
    """What POST /sql answers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    truncated: bool = False


class Outcome(msgspec.Struct, frozen=True, rename="kebab"):
    """What POST /sql/write answers."""

    rows_affected: int
    applied: bool
    schema: bool = False


_T = TypeVar("_T", Answer, Outcome)


class _Refusal(msgspec.Struct, frozen=True):
    error: str
    reason: str


@dataclass
class Shell:
    """One database of one daemon, and how answers are asked for and printed. `in_lines`: one JSON document a line."""

    state_dir: Path
    namespace: str
    format: Format
    limit: int
    seconds: float
    unlisted: bool
    in_lines: bool = False

    def read(self, statement: str) -> Answer:
        """Run one statement that only reads. Raises SqlError."""
        question = self._question(statement) | {"limit": self.limit}
        return self._post("/sql", question, Answer)

    def write(self, statement: str, *, apply: bool) -> Outcome:
        """Run one statement in a transaction that is committed only with `apply`. Raises SqlError."""
        return self._post("/sql/write", self._question(statement) | {"apply": apply}, Outcome, changes=apply)

    def namespaces(self) -> Answer:
        body = self._request("GET", "/databases", msgspec.json.encode({"deadline-seconds": self.seconds}))
        names = msgspec.json.decode(body)["databases"]
        return Answer(("namespace",), tuple((n,) for n in names))

    def cluster(self) -> bytes:
        """Return the status document as JSON."""
        return self._request("GET", "/status", b"")

    def print_json(self, document: bytes) -> None:
        typer.echo(msgspec.json.format(document, indent=0 if self.in_lines else 2).decode())

    def _question(self, statement: str) -> dict[str, Any]:
        _check_text(statement)
        return {
            "sql": statement,
            "namespace": self.namespace,
            "deadline-seconds": self.seconds,
            "unlisted": self.unlisted,
        }

    def _post(self, target: str, question: dict[str, Any], kind: type[_T], *, changes: bool = False) -> _T:
        body = self._request("POST", target, msgspec.json.encode(question), changes=changes)
        return msgspec.json.decode(body, type=kind)

    def _request(self, method: str, target: str, body: bytes, *, changes: bool = False) -> bytes:
        """Return the answer's body. With `changes`, an answer that did not come leaves a doubt, which is said."""
        path = self.state_dir / confsocket.CONTROL
        try:
            status, answer = confsocket.request(path, method, target, body, self.seconds + _GRACE_SECONDS)
        except (confsocket.NoSocket, confsocket.SocketTimeout) as error:
            if changes and error.sent:
                raise SqlError(f"{asking.IN_DOUBT}: {error}") from error
            raise SqlError(str(error), statusview.UNREACHABLE) from error
        except KeyboardInterrupt:
            if changes:
                raise SqlError(f"{asking.IN_DOUBT}: given up before the answer came") from None
            raise
        if status == 200:
            return answer
        try:
            refusal = msgspec.json.decode(answer, type=_Refusal)
        except msgspec.DecodeError:
            raise SqlError(answer.decode(errors="replace").strip()) from None
        match refusal.error:
            case "NotReady" | "NotLeader":
                raise SqlError(f"not done: {refusal.reason}", statusview.NO_QUORUM)
            case "Indefinite":
                raise SqlError(f"{asking.IN_DOUBT}: {refusal.reason}")
            case _:
                raise SqlError(refusal.reason)


def sql(
    context: typer.Context,
    statement: Annotated[
        str | None, typer.Argument(help="One statement. Without it: a shell, or what comes on stdin.")
    ] = None,
    namespace: Annotated[str, typer.Option(help="Which database.")] = "controller",
    write: Annotated[bool, typer.Option("--write", help="Allow this one statement to change something.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before a write is committed.")] = False,
    limit: Annotated[int, typer.Option(help="The most rows to show.", min=1, max=100_000)] = 1000,
    timeout: Annotated[float, typer.Option(help="Give a statement up after so many seconds.", min=0.1)] = 10.0,
    unlisted: Annotated[bool, typer.Option(help="Allow a database that .namespaces does not list.")] = False,
    format: FormatOption = Format.TEXT,
) -> None:
    """Ask the cluster's databases, from any controller: the leader answers. Reads only, unless --write is given.

    With --format json, each statement that comes on stdin is answered with one line.

    \b
    Examples:
      hactl sql                                            a shell
      hactl sql "SELECT controller_id, name FROM controller_node"
      hactl sql --format json .namespaces
      hactl sql --write "DELETE FROM controller_dropped WHERE controller_id = '4'"
    """
    _guarded(lambda: _check_text(namespace))
    shell = Shell(context.obj, namespace, format, limit, timeout, unlisted)
    if write:
        if statement is None:
            asking.fail(statusview.USAGE, "--write takes one statement as its argument")
        _guarded(lambda: _write(shell, statement, yes))
        return
    if statement is not None:
        _guarded(lambda: _one(shell, statement))
        return
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # As arguments are: what is no UTF-8 is told as such.
    if sys.stdin.isatty():
        _interactive(shell)
        return
    shell.in_lines = True
    for text in _statements(iter(sys.stdin)):
        _guarded(lambda text=text: _one(shell, text))  # type: ignore[misc]


def _guarded(do: Callable[[], None]) -> None:
    try:
        do()
    except SqlError as error:
        asking.fail(error.code, str(error))
    except statusview.BadStatus as error:
        asking.fail(statusview.REFUSED, str(error))
    except KeyboardInterrupt:
        asking.fail(statusview.REFUSED, "given up")


def _one(shell: Shell, text: str) -> None:
    """Carry out one statement or dot-command and print what came of it."""
    _check_text(text)
    word, _, rest = text.strip().rstrip(";").strip().partition(" ")
    rest = rest.strip()
    match word:
        case "":
            return
        case ".help":
            if shell.format is Format.JSON:
                shell.print_json(msgspec.json.encode({"help": _HELP}))
            else:
                typer.echo(_HELP)
        case ".namespaces":
            _show(shell, shell.namespaces())
        case ".use":
            shell.namespace = rest or shell.namespace
        case ".cluster":
            _show_cluster(shell, shell.cluster())
        case ".quit" | ".exit":
            raise typer.Exit
        case ".tables":
            _show(
                shell,
                shell.read(
                    "SELECT type, name, tbl_name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY type, name"
                ),
            )
        case ".ddl":
            named = f" AND (name = {_literal(rest)} OR tbl_name = {_literal(rest)})" if rest else ""
            found = shell.read(f"SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL{named} ORDER BY rowid")
            if shell.format is Format.JSON:
                _show(shell, found)
                return
            for (definition,) in found.rows:
                typer.echo(f"{definition};")
        case _ if word.startswith("."):
            raise SqlError(f"there is no {word}; .help tells what there is", statusview.USAGE)
        case _:
            _show(shell, shell.read(text))


def _write(shell: Shell, statement: str, yes: bool) -> None:
    tried = shell.write(statement, apply=False)
    what = _effect(tried)
    asking.warn(f"in {shell.namespace}, as one transaction on the leader, this changes {what}: {statement.strip()}")
    if not yes and not (sys.stdin.isatty() and typer.confirm("do it?", err=True)):
        raise SqlError("nothing was changed: say --yes to do it")
    done = shell.write(statement, apply=True)
    if shell.format is Format.JSON:
        asking.print_json({"rows-affected": done.rows_affected, **({"schema": True} if done.schema else {})})
    elif done.schema:
        typer.echo("done: the schema is changed")
    else:
        typer.echo(f"done: {done.rows_affected} rows changed")


def _effect(tried: Outcome) -> str:
    """Return in words what a write changes."""
    rows = "1 row" if tried.rows_affected == 1 else f"{tried.rows_affected} rows"
    if not tried.schema:
        return rows
    # A change of the schema counts no rows, but for those that go with a table.
    return f"the schema and takes {rows} away" if tried.rows_affected else "the schema"


def _interactive(shell: Shell) -> None:
    try:
        import readline  # noqa: F401 -- importing it gives input() its history and keys.
    except ImportError:
        pass
    typer.echo("reads only; .help tells more")

    def typed() -> Iterator[str | None]:
        while True:
            try:
                yield input(f"{shell.namespace}> ")
            except EOFError:
                typer.echo()
                yield None
                return
            except KeyboardInterrupt:
                typer.echo()
                yield None

    for text in _statements(typed()):
        try:
            _one(shell, text)
        except (SqlError, statusview.BadStatus) as error:
            asking.warn(str(error))
        except KeyboardInterrupt:
            asking.warn("given up; the node goes on")


def _statements(typed: Iterator[str | None]) -> Iterator[str]:
    """Yield whole statements and dot-commands from lines. The last one needs no semicolon. None gives up what there
    is of one, such as a quote that nobody closes."""
    import sqlite3

    text = ""
    for line in typed:
        if line is None:
            text = ""
            continue
        if not text.strip() and line.lstrip().startswith("."):
            yield line.strip()
            continue
        text += line if line.endswith("\n") else f"{line}\n"
        if sqlite3.complete_statement(text.encode(errors="replace").decode()):  # That it is UTF-8, _one looks at.
            yield text.strip()
            text = ""
    if text.strip():
        yield text.strip()


def _show(shell: Shell, answer: Answer) -> None:
    if shell.format is Format.JSON:
        shell.print_json(msgspec.json.encode(answer))
        return
    for line in table(answer):
        typer.echo(line)
    if answer.truncated:
        asking.warn(f"only the first {len(answer.rows)} rows are shown; ask for less, or give --limit")


def _show_cluster(shell: Shell, body: bytes) -> None:
    document = statusview.parse(body)
    if shell.format is Format.JSON:
        # Reformatted, not re-encoded: what this hactl does not know reaches the program that asked.
        shell.print_json(body)
        return
    for line in statusview.lines(document, datetime.datetime.now(datetime.UTC)):
        typer.echo(line.plain)


def table(answer: Answer) -> Iterator[str]:
    """Yield the rows in columns as wide as they need to be. Pure."""
    rows = [tuple(_cell(value) for value in row) for row in answer.rows]
    widths = [max(len(row[i]) for row in (answer.columns, *rows)) for i in range(len(answer.columns))]
    for row in (answer.columns, tuple("-" * w for w in widths), *rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _cell(value: object) -> str:
    match value:
        case None:
            return "NULL"
        case {"blob": str(text)}:
            return f"x'{text}'"
        case {"real": str(text)}:
            return text
        case str():
            # A control character would move the cursor, or worse.
            return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value)
        case _:
            return str(value)


def _check_text(text: str) -> None:
    """Raise SqlError if this was typed in bytes that are no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SqlError("this is no UTF-8; bytes are written as x'00ff'", statusview.USAGE) from None


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"

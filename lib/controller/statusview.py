"""What `GET /status` answers: its shape, the exit code it stands for, and how a person reads it.

The reader owns the shape: controllerd writes this document and hactl, the demo and the tests read it here.
Nothing in this module looks at a clock, a socket or a terminal.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import msgspec
from rich.text import Text

SCHEMA = 1

HEALTHY, REFUSED, USAGE, DEGRADED, NO_QUORUM, UNREACHABLE = range(6)

Health = Literal["healthy", "degraded", "no-quorum", "down"]
_STYLES: dict[str, str] = {"healthy": "green", "degraded": "yellow", "no-quorum": "red", "down": "red"}


class BadStatus(ValueError):
    """The answer is not a status document this hactl can read. The message is one sentence."""


class Wait(msgspec.Struct, frozen=True, rename="kebab", kw_only=True):
    """Something controllerd waits for, since when, why, and what would end it."""

    for_: str = msgspec.field(name="for")
    since: str
    reason: str
    remedy: str = ""


class Conf(msgspec.Struct, frozen=True, rename="kebab", kw_only=True):
    """The controller configuration in force. `problem` says what is wrong with a newer one, refused."""

    generation: int = 0  # 0: there was never a readable one.
    problem: str | None = None
    db_bind_addresses: dict[str, str] = {}
    db_unresolved: tuple[str, ...] = ()
    departed: tuple[str, ...] = ()


class Epoch(msgspec.Struct, frozen=True, rename="kebab", kw_only=True):
    """How many forced reconfigurations the cluster has been through, and the tag of the last."""

    number: int
    tag: str


class Member(msgspec.Struct, frozen=True, rename="kebab", kw_only=True):
    """One Dqlite node of the cluster, as this controller sees it."""

    controller_id: str
    dqlite_id: int
    name: str
    address: str
    role: str
    leader: bool
    answers: bool
    here: bool
    problem: str = ""  # What keeps it from doing its part although it answers.


class Cluster(msgspec.Struct, frozen=True, rename="kebab", kw_only=True):
    """The cluster this controller belongs to. `may_lose` counts voters that answer, not those that should."""

    uuid: str
    epoch: Epoch
    leader: str | None
    health: Health
    ha: bool
    may_lose: int
    advice: str = ""
    dropped: tuple[str, ...] = ()
    log_ended_at: int = 0  # 0: never forcibly reconfigured.
    members: tuple[Member, ...] = ()


class Status(msgspec.Struct, frozen=True, rename="kebab", kw_only=True):
    """The whole document. `cluster` is None while this controller belongs to none."""

    schema: int
    controller_id: str
    version: str
    dqlite_version: str
    dqlite_proven: bool
    state: str
    reason: str
    since: str
    waits: tuple[Wait, ...] = ()
    conf: Conf = Conf()
    cluster: Cluster | None = None
    address_notes: tuple[str, ...] = ()  # Of where agents are sent: who is dialled outside of the management space.


def parse(body: bytes) -> Status:
    """Return the status in `body`; unknown keys are ignored. Raises BadStatus."""
    try:
        status = msgspec.json.decode(body, type=Status)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadStatus(f"controllerd answered with something else than a status: {error}") from error
    if status.schema > SCHEMA:
        raise BadStatus(f"controllerd speaks status schema {status.schema}, this hactl only up to {SCHEMA}")
    return status


def exit_code(status: Status) -> int:
    """Return 0 healthy (a lone controller too), 3 degraded (also: in no cluster), 4 no quorum."""
    if status.cluster is None:
        return DEGRADED
    match status.cluster.health:
        case "healthy":
            return HEALTHY if status.state == "serving" else DEGRADED
        case "degraded":
            return DEGRADED
        case "no-quorum" | "down":
            return NO_QUORUM


def lines(status: Status, now: datetime.datetime) -> Iterator[Text]:
    """Yield what a person should read, most important first. No line depends on a terminal's width."""
    yield _title(status, now)
    if status.reason:
        yield Text(f"  {status.reason}")
    if status.conf.problem:
        yield Text(f"  a newer controller.conf was refused: {status.conf.problem}", style="red")
    if not status.dqlite_proven:
        yield Text(f"  this project's tests were never run on libdqlite {status.dqlite_version}", style="yellow")
    yield Text()
    yield from _cluster(status.cluster)
    if status.conf.db_unresolved:
        yield Text(f"  without an address yet: controller {', '.join(status.conf.db_unresolved)}", style="yellow")
    for note in status.address_notes:
        yield Text(f"  {note}", style="yellow")
    for wait in status.waits:
        yield Text()
        yield from _wait(wait, now)


def _title(status: Status, now: datetime.datetime) -> Text:
    serving = status.state == "serving"
    text = Text(f"controller {status.controller_id} is ")
    text.append(status.state, style="bold green" if serving else "bold yellow")
    text.append(f" for {age(status.since, now)}")
    text.append(
        f"  (ha-controller {status.version}, Dqlite {status.dqlite_version}, {_generation(status.conf)})",
        style="dim",
    )
    return text


def _generation(conf: Conf) -> str:
    return "no configuration yet" if conf.generation == 0 else f"configuration generation {conf.generation}"


def _cluster(cluster: Cluster | None) -> Iterator[Text]:
    if cluster is None:
        yield Text("in no cluster", style="yellow")
        return
    text = Text("cluster ")
    text.append(cluster.health, style=f"bold {_STYLES[cluster.health]}")
    leader = f"leader: controller {cluster.leader}" if cluster.leader is not None else "no leader"
    text.append(f", {leader}, {_margin(cluster)}")
    yield text
    yield Text(f"  {cluster.uuid}  epoch {cluster.epoch.number} ({cluster.epoch.tag})", style="dim")
    if cluster.log_ended_at:
        yield Text(f"  reconfigured by force to one member; its log ended at index {cluster.log_ended_at}")
    if cluster.advice:
        yield Text(f"  {cluster.advice}", style="yellow")
    if cluster.dropped:
        yield Text(
            f"  dropped by a forced reconfiguration, not yet seen refused: {', '.join(cluster.dropped)}",
            style="yellow",
        )
    yield Text()
    yield from _members(cluster.members)


def _margin(cluster: Cluster) -> str:
    if cluster.leader is None:
        return "writes wait for a leader"
    if not cluster.ha:
        return f"not HA: may lose 0 of {_count_voters(cluster)}, the loss of any voter stops writes"
    return f"HA: may lose {cluster.may_lose} of {_count_voters(cluster)}"


def _count_voters(cluster: Cluster) -> str:
    count = sum(member.role == "voter" for member in cluster.members)
    return f"{count} voter" if count == 1 else f"{count} voters"


def _members(members: Sequence[Member]) -> Iterator[Text]:
    head = ("CONTROLLER", "ROLE", "ADDRESS", "DQLITE ID", "STATE")
    rows = [
        (m.controller_id, m.role, m.address, str(m.dqlite_id), _member_state(m))
        for m in sorted(members, key=lambda m: (not m.controller_id.isdecimal(), _number(m.controller_id)))
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    yield _row(head, widths, "dim")
    for row, silent in zip(rows, (not row[-1].startswith("answers") for row in rows), strict=True):
        yield _row(row, widths, "red" if silent else "")


def _number(controller_id: str) -> tuple[int, str]:
    return (int(controller_id) if controller_id.isdecimal() else 0, controller_id)


def _member_state(member: Member) -> str:
    words = ["answers" if member.answers else "does not answer"]
    words += ["leader"] if member.leader else []
    words += ["here"] if member.here else []
    words += [member.problem] if member.problem else []
    return ", ".join(words)


def _row(cells: Iterable[str], widths: Sequence[int], style: str) -> Text:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return Text("  " + "  ".join(padded).rstrip(), style=style)


def _wait(wait: Wait, now: datetime.datetime) -> Iterator[Text]:
    text = Text("waiting for ")
    text.append(wait.for_, style="bold yellow")
    text.append(f" for {age(wait.since, now)}: {wait.reason}")
    yield text
    if wait.remedy:
        yield Text(f"  remedy: {wait.remedy}")


def age(since: str, now: datetime.datetime) -> str:
    """Return how long ago `since` was, in the largest unit that fits; the text itself if it is no time."""
    try:
        then = datetime.datetime.fromisoformat(since)
    except ValueError:
        return since
    if then.tzinfo is None:
        then = then.replace(tzinfo=datetime.UTC)
    # A wall clock may have been set back since; a negative age would only confuse.
    seconds = max(0, int((now - then).total_seconds()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"

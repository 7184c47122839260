"""`hactl recover`: go on with the newest data there is, when no quorum will come back by itself. Offline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from controller import asking, statusview
from controller.asking import Format, FormatOption
from controller.commands import backup

if TYPE_CHECKING:  # The verbs that ask controllerd load neither the C library nor an event loop.
    from dbaccessor.identity import Identity
    from dbaccessor.recovery import Candidate, Plan
    from dbaccessor.repair import Target


def recover(
    context: typer.Context,
    directories: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[DIR]...",
            help="State directories of stopped controllers, copies of them, or folders under aside/. "
            "Default: this machine's own.",
            show_default=False,
        ),
    ] = None,
    use: Annotated[Path | None, typer.Option(help="Go on with this one, whatever the order says.")] = None,
    into: Annotated[
        Path | None,
        typer.Option(help="The state directory that is to hold the result. Default: the one that is chosen."),
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", "--yes", help="Do it. Without this, only say what would be done.")
    ] = False,
    salvage: Annotated[
        bool, typer.Option(help="Go on with a damaged log up to the damage; what stands behind it is lost.")
    ] = False,
    force: Annotated[
        bool, typer.Option(help="Do it although another controller still has a leader, whose data then yields.")
    ] = False,
    format: FormatOption = Format.TEXT,
) -> None:
    """Go on with the newest data, as a cluster of one in a new epoch. Says what would be lost; changes nothing yet.

    Compares (epoch, term, index) of the directories. The chosen data is copied, and the copy recovered; what there was
    stays whole under aside/. Stop controllerd on every controller first, and give the directories of as many as you
    can reach: only what is given can be compared.

    \b
    Examples:
      hactl recover                                    what would this machine's own data give?
      hactl recover /var/lib/ha-controller /mnt/1 /mnt/2 --into /var/lib/ha-controller
      hactl recover /var/lib/ha-controller/aside/dqlite-… --into /var/lib/ha-controller --apply
    """
    from dbaccessor import recovery, repair

    paths = list(dict.fromkeys(directories or [context.obj]))
    try:
        if not apply:
            where, plan = None, recovery.compare([recovery.look(p) for p in paths], use, salvage=salvage)
            owned = [p for p in paths if repair.is_running(p)]
            if plan.chosen is not None:
                where = _target(plan.chosen, into)
            _tell(plan, where, format, done=None, owned=owned)
            raise typer.Exit(statusview.REFUSED if plan.refusal else statusview.HEALTHY)
        states = [p for p in paths if recovery.look(p).state_dir is not None]
        with repair.owning([*states, *([into] if into is not None else [])]):
            plan = recovery.compare([recovery.look(p) for p in paths], use, salvage=salvage)
            if plan.chosen is None:
                _tell(plan, None, format, done=None, owned=[])
                raise typer.Exit(statusview.REFUSED)
            where = _target(plan.chosen, into)
            where = repair.heed_others(where, plan.candidates, force=force)
            done = repair.carry_out(plan, where, salvage=salvage)
            others = [c for c in plan.candidates if c.path.resolve() != where.store.state_dir.resolve()]
            untold = repair.supersede(others, done)
    except repair.CannotRecover as error:
        asking.fail(statusview.REFUSED, str(error))
    except OSError as error:
        asking.fail(statusview.REFUSED, f"nothing was changed: {error}")
    _tell(plan, where, format, done=done, owned=[])
    for sentence in untold:
        asking.warn(sentence)


def _target(chosen: Candidate, into: Path | None) -> Target:
    from dbaccessor import repair

    place = into if into is not None else chosen.state_dir
    if place is None:
        raise repair.CannotRecover(
            f"{chosen.path} is no controller's own state directory: say with --into where the result is to be"
        )
    return repair.target(place, chosen.identity)


def _tell(plan: Plan, where: Target | None, format: Format, *, done: Identity | None, owned: list[Path]) -> None:
    if format is Format.JSON:
        asking.print_json(document(plan, where, done))
        return
    out = asking.console()
    for line in lines(plan, where, done, owned):
        out.print(line)


def document(plan: Plan, where: Target | None, done: Identity | None) -> dict[str, Any]:
    """The plan as docs/reference/hactl.md describes it."""
    return {
        "schema": 1,
        "directories": [_entry(c, c is plan.chosen) for c in plan.candidates],
        "refusal": plan.refusal,
        "into": None if where is None else str(where.store.state_dir),
        "controller-id": None if where is None else where.controller_id,
        "cluster-uuid": None if where is None else where.cluster_uuid,
        "losses": [{"directory": str(x.path), "what": x.sentence, "entries": x.entries} for x in plan.losses],
        "not-given": [{"controller-id": k.controller_id, "name": k.name, "role": k.role} for k in plan.absent],
        "warnings": list(plan.warnings),
        "done": None if done is None else {"epoch": {"number": done.epoch.number, "tag": done.epoch.tag}},
    }


def _entry(candidate: Candidate, chosen: bool) -> dict[str, Any]:
    own = candidate.identity
    return {
        "directory": str(candidate.path),
        "controller-id": None if own is None else own.controller_id,
        "cluster-uuid": None if own is None else own.cluster_uuid,
        "epoch": None if own is None else {"number": own.epoch.number, "tag": own.epoch.tag},
        "superseded": None if own is None or own.superseded is None else own.superseded.number,
        "term": candidate.log.term,
        "index": candidate.log.index,
        "first": candidate.log.first,
        "damage": candidate.log.damage,
        "problem": candidate.problem,
        "notes": list(candidate.notes),
        "chosen": chosen,
    }


def lines(plan: Plan, where: Target | None, done: Identity | None, owned: list[Path]) -> Iterator[Text]:
    """Yield what a person should read: what was found, what would be lost, what to do next."""
    for candidate in plan.candidates:
        yield from _found(candidate, candidate is plan.chosen)
    yield Text()
    if plan.chosen is None or where is None:
        yield Text(f"nothing can be done yet: {plan.refusal}", style="bold red")
        return
    place = where.store.state_dir
    verb = "recovered" if done is not None else "would recover"
    source = "" if plan.chosen.state_dir == place else f" into {place}"
    epoch = f"epoch {done.epoch}" if done is not None else f"an epoch numbered {plan.epoch_number} or above"
    yield Text(f"{verb} {plan.chosen.path}{source}: controller {where.controller_id} alone, in {epoch}", style="bold")
    yield Text("  lost:" if plan.losses else "  lost: nothing that these directories show")
    for loss in plan.losses:
        yield Text(f"    {loss.path}: {loss.sentence}", style="yellow")
    for known in plan.absent:
        role = f", {known.role}" if known.role else ""
        yield Text(f"  not given, may be newer: controller {known.controller_id} ({known.name}{role})", style="yellow")
    for warning in plan.warnings:
        yield Text(f"  careful: {warning}", style="bold yellow")
    if plan.losses or plan.absent:
        yield Text(f"  {backup.UNKNOWN_INSTANCES}", style="yellow")
    yield Text()
    if done is not None:
        yield Text("start it (systemctl start ha-controller), then the others: each puts its data aside and joins anew")
        return
    for path in owned:
        yield Text(f"controllerd runs on {path}: stop it first (systemctl stop ha-controller)", style="red")
    yield Text("nothing was changed; do it with --apply")


def _found(candidate: Candidate, chosen: bool) -> Iterator[Text]:
    own = candidate.identity
    text = Text(f"{candidate.path}", style="bold green" if chosen else "bold")
    if chosen:
        text.append("  <- this one")
    yield text
    if own is not None:
        past = f", superseded by epoch {own.superseded}" if own.superseded is not None else ""
        yield Text(f"  {own.name} of cluster {own.cluster_uuid}, {own.state}, epoch {own.epoch}{past}")
    if candidate.problem:
        yield Text(f"  cannot be used: {candidate.problem}", style="red")
    if candidate.has_entries:
        yield Text(f"  log ends at index {candidate.log.index}, term {candidate.log.term}")
    if candidate.log.damage:
        yield Text(f"  damaged: {candidate.log.damage}", style="red")
    for note in candidate.notes:
        yield Text(f"  {note}", style="yellow")

"""Which of several stopped controllers' directories holds the newest data? The comparison of `hactl recover`. Offline.

`look` reads one directory and changes nothing; `compare` is pure: from what was seen to a plan, or to the reason why
there is none. The order is that of (epoch number, term, index). Terms count only inside one epoch, because each epoch
begins with an entry of term 1. Equal numbers with different tags are two clusters that went their ways apart: no rule
says which of them counts, so a person has to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from dbaccessor import identity as identities
from dbaccessor.dqlite import nodedir, raftlog
from dbaccessor.identity import BrokenFile, Epoch, Identity, Known, NewerFile, Store, controller_of

_VOTER = "voter"


@dataclass(frozen=True)
class Candidate:
    """One directory as it was found.

    `state_dir` is the controller's whole state directory, None for a data directory without one (a folder under
    aside/, a copy). `problem` is why it cannot be used, "" for nothing.
    """

    path: Path
    data_dir: Path
    state_dir: Path | None = None
    identity: Identity | None = None
    log: raftlog.Log = field(default_factory=raftlog.Log)
    known: tuple[Known, ...] = ()
    addresses: dict[str, str] = field(default_factory=dict)
    problem: str = ""
    notes: tuple[str, ...] = ()

    @property
    def reach(self) -> tuple[int, int]:
        """How far the log goes, for comparing directories of one epoch."""
        return self.log.term, self.log.index

    @property
    def epochs(self) -> tuple[Epoch, ...]:
        """Every epoch that this directory speaks of."""
        own = self.identity
        return () if own is None else tuple(e for e in (own.epoch, own.superseded) if e is not None)

    @property
    def has_entries(self) -> bool:
        return self.log.index > 0


@dataclass(frozen=True)
class Loss:
    """What goes if the plan is carried out, and which directory shows it."""

    path: Path
    sentence: str
    entries: int = 0


@dataclass(frozen=True)
class Plan:
    """`chosen` goes on alone in epoch `epoch_number`. `refusal` is why nothing can be done yet, "" when it can."""

    candidates: tuple[Candidate, ...]
    chosen: Candidate | None = None
    refusal: str = ""
    epoch_number: int = 0
    losses: tuple[Loss, ...] = ()
    absent: tuple[Known, ...] = ()
    warnings: tuple[str, ...] = ()


def look(path: Path) -> Candidate:
    """Read a state directory, or a data directory that lies elsewhere. What cannot be read is said, not raised."""
    try:
        return _look(path)
    except OSError as error:
        return Candidate(path, path, problem=f"it cannot be read: {error.strerror or error}")


def _look(path: Path) -> Candidate:
    bare = nodedir.has_data(path) or (path / identities.MARKER).is_file()
    store = Store(path)
    data_dir = path if bare else store.data_dir
    if not path.is_dir():
        return Candidate(path, data_dir, problem="it is no directory")
    problem, notes = "", []
    identity, journal, members = None, None, identities.Members()
    try:
        identity = store.identity()  # Beside the data in both cases: put_aside lays a copy there.
        if not bare:
            journal, members = store.journal(), store.members()
    except (BrokenFile, NewerFile) as error:
        problem = str(error)
    if journal is not None:
        notes.append(f"a {journal.operation} was interrupted here; it is completed or undone first")
    log = raftlog.read(data_dir)
    # The data of a state directory is in use, whatever an earlier version left beside it when a change was undone.
    changed = _changed_since(data_dir) if bare else ""
    if changed and not log.damage:
        log = raftlog.Log(log.term, log.index, log.first, changed)
    if not problem and not log.index and not log.damage:
        problem = "it holds no entries" if nodedir.has_data(data_dir) else "it holds no data"
    if identity is not None and identity.state == "left":
        notes.append("it left the cluster for good, and may have missed what came after that")
    return Candidate(
        path,
        data_dir,
        None if bare else path,
        identity,
        log,
        members.known,
        dict(members.addresses),
        problem,
        tuple(notes),
    )


def _changed_since(data_dir: Path) -> str:
    """Name a file that is not what it was when this directory was put aside."""
    try:
        recorded = nodedir.parse_sums((data_dir / identities.SUMS).read_bytes())
    except FileNotFoundError:
        return ""
    found = nodedir.sums(data_dir)
    wrong = sorted(n for n in recorded if found.get(n) != recorded[n])
    return f"{wrong[0]} is not what it was when it was put aside" if wrong else ""


def compare(candidates: Sequence[Candidate], use: Path | None = None, *, salvage: bool = False) -> Plan:
    """Return the plan: the newest directory, or the one that `use` names, and what is lost with it. Pure."""
    candidates = tuple(candidates)
    numbers = [e.number for c in candidates for e in c.epochs]
    plan = Plan(candidates, epoch_number=max(numbers, default=0) + 1)
    chosen, refusal = _named(candidates, use) if use is not None else _newest(candidates)
    if chosen is not None and not refusal:
        refusal = _unfit(chosen, salvage)
    if chosen is None or refusal:
        return dataclasses.replace(plan, chosen=None, refusal=refusal)
    return dataclasses.replace(
        plan,
        chosen=chosen,
        losses=tuple(loss for c in candidates if (loss := _loss(chosen, c)) is not None),
        absent=_absent(candidates),
        warnings=tuple(_warnings(chosen, candidates)),
    )


def _named(candidates: tuple[Candidate, ...], use: Path) -> tuple[Candidate | None, str]:
    for candidate in candidates:
        if candidate.path == use:
            return candidate, ""
    return None, f"--use {use} is none of the directories given"


def _unfit(chosen: Candidate, salvage: bool) -> str:
    if chosen.problem:
        return f"{chosen.path}: {chosen.problem}"
    if chosen.log.damage and not salvage:
        return (
            f"{chosen.path} is damaged: {chosen.log.damage}; its log is whole up to index {chosen.log.index}: "
            "give another member's directory, or --salvage to go on from there"
        )
    return ""


def _newest(candidates: tuple[Candidate, ...]) -> tuple[Candidate | None, str]:
    """Return the newest, or None with the reason why a person has to name one."""
    usable = [c for c in candidates if not c.problem]
    if not usable:
        return None, "none of these directories holds data that can be used"
    for candidate in usable:
        if candidate.identity is None:
            return None, (
                f"{candidate.path} has data and no identity.json, so its epoch is not known: name the directory that "
                "counts with --use"
            )
    clusters = sorted({c.identity.cluster_uuid for c in usable if c.identity is not None})
    if len(clusters) > 1:
        return None, f"these are of different clusters ({', '.join(clusters)}): name the one that counts with --use"
    top = max((e for c in usable for e in c.epochs), key=lambda e: e.number)
    at_top = [c for c in usable if c.identity is not None and c.identity.epoch.number == top.number]
    tags = sorted({e.tag for c in usable for e in c.epochs if e.number == top.number})
    if not at_top:
        return None, (
            f"epoch {top} exists, and none of these directories is of it: give one that is, or name with --use the "
            "one that counts all the same"
        )
    if len(tags) > 1:
        return None, (
            f"epoch number {top.number} was begun {len(tags)} times, with the tags {', '.join(tags)}: these clusters "
            "went their ways apart, and no rule says which of them counts: name it with --use"
        )
    newest = max(at_top, key=lambda c: (c.reach, not c.log.damage))
    return newest, ""


def _loss(chosen: Candidate, other: Candidate) -> Loss | None:
    """What `other` has and `chosen` has not; None when that is surely nothing."""
    mine, its = chosen.identity, other.identity
    if other is chosen:
        if not chosen.log.damage:
            return None
        return Loss(other.path, f"whatever stood behind index {chosen.log.index}: {chosen.log.damage}")
    if not other.has_entries:
        return None
    if its is None or mine is None:
        return Loss(other.path, "it cannot be told what it has: it names no epoch", 0)
    if its.cluster_uuid != mine.cluster_uuid:
        return Loss(other.path, f"all of it: it is of another cluster, {its.cluster_uuid}", other.log.index)
    if its.epoch.number > mine.epoch.number:
        return Loss(other.path, f"all that was written since epoch {its.epoch} began", 0)
    if its.epoch.number < mine.epoch.number:
        return None  # Its epoch was ended by the chosen one's: that was decided, and said, at that time.
    if its.epoch.tag != mine.epoch.tag:
        return Loss(other.path, f"all that was written to it since epoch {its.epoch} began: the two went apart", 0)
    more = other.log.index - chosen.log.index
    if other.reach > chosen.reach:
        what = f"{more} entries, {chosen.log.index + 1} to {other.log.index}" if more > 0 else "its last entries"
        return Loss(other.path, f"{what}, and maybe some before them: it was written to longer", max(more, 0))
    if more > 0:
        return Loss(
            other.path,
            f"{more} entries behind index {chosen.log.index}, of an older term: none was acknowledged",
            more,
        )
    if other.log.damage:
        return Loss(other.path, f"what stood behind its index {other.log.index}, if anything did: {other.log.damage}")
    return None


def members_known(candidates: Iterable[Candidate]) -> tuple[Known, ...]:
    """Everybody that any of these directories counts as a member, by name."""
    found: dict[str, Known] = {}
    for candidate in candidates:
        own = candidate.identity
        here = [k for k in candidate.known if not k.dropped]
        if own is not None and not any(k.name == own.name for k in here):
            here.append(Known(own.controller_id, own.name))
        for known in here:
            address = known.address or candidate.addresses.get(known.controller_id, "")
            before = found.get(known.name)
            found[known.name] = msgspec.structs.replace(
                known,
                address=address or (before.address if before else ""),
                role=known.role or (before.role if before else ""),
            )
    return tuple(found[name] for name in sorted(found))


def _absent(candidates: tuple[Candidate, ...]) -> tuple[Known, ...]:
    """The members whose directory was not given, and may be newer than all that were."""
    given = {c.identity.name for c in candidates if c.identity is not None and not c.problem}
    return tuple(k for k in members_known(candidates) if k.name not in given)


def _warnings(chosen: Candidate, candidates: tuple[Candidate, ...]) -> Iterable[str]:
    own = chosen.identity
    if own is None:
        yield "its identity is not known: its epoch could not be compared"
        return
    higher = [e for c in candidates for e in c.epochs if e.number > own.epoch.number]
    for epoch in sorted({(e.number, e.tag) for e in higher}):
        yield (
            f"epoch {epoch[0]} ({epoch[1]}) exists: controllers that serve it will put their data aside when they meet "
            "this one, and what was written there is lost to the cluster"
        )
    voters = {k.name for k in members_known([chosen]) if k.role == _VOTER}
    given = {c.identity.name for c in candidates if c.identity is not None and not c.problem and not c.log.damage}
    missing = sorted(controller_of(n) for n in voters - given)
    if missing and len(voters & given) * 2 <= len(voters):
        yield (
            f"of {len(voters)} voters only {len(voters & given)} are given: an acknowledged write may be with "
            f"controller {', '.join(missing)} alone"
        )
    if chosen.known and own.name not in voters:
        role = next((k.role for k in chosen.known if k.name == own.name), "") or "member of unknown role"
        yield f"{own.name} was a {role} when it last knew, not a voter: its log may be old"

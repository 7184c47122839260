"""Which hook a unit runs next: what its agent has already told the charm, against what is true now. Pure.

This is how Juju's own uniter does it. There is no queue of events: a change that is undone before its hook ran is never
told, ten changes of one bag are one relation-changed, and a failed hook is simply next again.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Hook:
    """One hook. `name` is the file name Juju would run under hooks/."""

    kind: str
    endpoint: str = ""
    relation_id: int | None = None
    remote_unit: str = ""
    remote_app: str = ""
    departing_unit: str = ""
    secret_id: str = ""
    secret_revision: int = 0

    @property
    def name(self) -> str:
        return f"{self.endpoint}-{self.kind}" if self.endpoint else self.kind


@dataclass
class SeenRelation:
    """What the charm was told of one relation. `members` maps a unit to the version of its bag last told."""

    members: dict[str, int] = field(default_factory=dict)
    owed: str = ""  # A unit that joined and whose first -changed must come next.
    app_version: int = 0
    broken: bool = False


@dataclass
class Seen:
    """What the charm of one unit was told so far."""

    installed: bool = False
    started: bool = False
    stopped: bool = False
    removed: bool = False
    leader: bool = False
    config: str | None = None
    charm: int = 0
    relations: dict[int, SeenRelation] = field(default_factory=dict)
    secret_revisions: dict[str, int] = field(default_factory=dict)
    obsolete_told: set[tuple[str, int]] = field(default_factory=set)
    status_updates: int = 0
    failed: Hook | None = None

    def reboot(self) -> None:
        """The host came up again: config-changed and start are due once more, if they ever ran."""
        self.config = None
        self.started = False


@dataclass(frozen=True)
class RelationFacts:
    endpoint: str
    app: str
    members: dict[str, int]  # The other units in scope, those that are leaving too.
    app_version: int  # 0 for a bag this unit wrote itself, or that nobody wrote.


@dataclass(frozen=True)
class Facts:
    """What is true of the model now, from one unit's view."""

    unit: str
    dying: bool
    leader: bool
    config: str
    charm: int
    relations: dict[int, RelationFacts]
    secret_revisions: dict[str, int] = field(default_factory=dict)
    obsolete: tuple[tuple[str, int], ...] = ()
    status_updates: int = 0


def next_hook(seen: Seen, facts: Facts) -> Hook | None:
    """The hook that is due now, or None when the charm knows everything (or is gone)."""
    if seen.removed:
        return None
    if seen.failed is not None:
        return seen.failed
    if not seen.installed:
        return None if facts.dying else Hook("install")
    if facts.dying:
        return _leaving(seen, facts)
    if facts.charm != seen.charm:
        return Hook("upgrade-charm")
    for rid, relation in sorted(facts.relations.items()):
        if rid not in seen.relations:
            return Hook("relation-created", relation.endpoint, rid, remote_app=relation.app)
    if facts.leader and not seen.leader:
        return Hook("leader-elected")
    if facts.config != seen.config:
        return Hook("config-changed")
    if not seen.started:
        return Hook("start")
    return _relation_hook(seen, facts) or _secret_hook(seen, facts) or _periodic(seen, facts)


def _leaving(seen: Seen, facts: Facts) -> Hook:
    """Every peer departs from the leaver, then the relation breaks, then it stops."""
    for rid, known in sorted(seen.relations.items()):
        if known.broken:
            continue
        relation = facts.relations[rid]
        for unit in sorted(known.members):
            return Hook("relation-departed", relation.endpoint, rid, unit, relation.app, departing_unit=facts.unit)
        return Hook("relation-broken", relation.endpoint, rid, remote_app=relation.app)
    return Hook("remove") if seen.stopped else Hook("stop")


def _relation_hook(seen: Seen, facts: Facts) -> Hook | None:
    for rid, now in sorted(facts.relations.items()):
        known = seen.relations[rid]

        def hook(kind: str, unit: str = "", departing: str = "", rid: int = rid, now: RelationFacts = now) -> Hook:
            return Hook(kind, now.endpoint, rid, unit, now.app, departing)

        for unit in sorted(set(known.members) - set(now.members)):
            return hook("relation-departed", unit, unit)
        if known.owed:
            return hook("relation-changed", known.owed)
        for unit in sorted(set(now.members) - set(known.members)):
            return hook("relation-joined", unit)
        if now.app_version > known.app_version:
            return hook("relation-changed")
        for unit, version in sorted(now.members.items()):
            if version != known.members[unit]:
                return hook("relation-changed", unit)
    return None


def _secret_hook(seen: Seen, facts: Facts) -> Hook | None:
    for secret, revision in sorted(facts.secret_revisions.items()):
        if seen.secret_revisions.get(secret, 0) < revision:
            return Hook("secret-changed", secret_id=secret)
    for secret, revision in facts.obsolete:
        if (secret, revision) not in seen.obsolete_told:
            return Hook("secret-remove", secret_id=secret, secret_revision=revision)
    return None


def _periodic(seen: Seen, facts: Facts) -> Hook | None:
    return Hook("update-status") if facts.status_updates > seen.status_updates else None


def begin(seen: Seen, hook: Hook) -> dict[int, set[str]]:
    """The members each relation shows to this hook: a joining unit is already in, a departing one already out."""
    shown = {rid: set(r.members) for rid, r in seen.relations.items() if not r.broken}
    if hook.relation_id is not None:
        members = shown.setdefault(hook.relation_id, set())
        if hook.kind == "relation-joined":
            members.add(hook.remote_unit)
        elif hook.kind == "relation-departed":
            members.discard(hook.remote_unit)
    return shown


def commit(seen: Seen, hook: Hook, facts: Facts) -> None:
    """Record that the charm was told, with the versions that were true when the hook began (*facts*)."""
    seen.failed = None
    if not facts.leader:
        seen.leader = False
    seen.status_updates = max(seen.status_updates, facts.status_updates)
    match hook.kind:
        case "install":
            seen.installed, seen.charm = True, facts.charm
        case "upgrade-charm":
            seen.charm, seen.config = facts.charm, None
        case "leader-elected":
            seen.leader = True
        case "config-changed":
            seen.config = facts.config
        case "start":
            seen.started = True
        case "stop":
            seen.stopped = True
        case "remove":
            seen.removed = True
        case "secret-changed":
            seen.secret_revisions[hook.secret_id] = facts.secret_revisions.get(hook.secret_id, 0)
        case "secret-remove":
            seen.obsolete_told.add((hook.secret_id, hook.secret_revision))
        case _ if hook.relation_id is not None:
            _commit_relation(seen.relations.setdefault(hook.relation_id, SeenRelation()), hook, facts)
        case _:
            pass


def _commit_relation(known: SeenRelation, hook: Hook, facts: Facts) -> None:
    assert hook.relation_id is not None
    now = facts.relations[hook.relation_id]
    unit = hook.remote_unit
    match hook.kind:
        case "relation-joined":
            known.members[unit] = now.members.get(unit, 0)
            known.owed = unit
        case "relation-changed" if unit:
            known.owed = "" if known.owed == unit else known.owed
            known.members[unit] = now.members.get(unit, known.members.get(unit, 0))
        case "relation-changed":
            known.app_version = max(known.app_version, now.app_version)
        case "relation-departed":
            known.members.pop(unit, None)
            known.owed = "" if known.owed == unit else known.owed
        case "relation-broken":
            known.broken = True
        case _:
            pass


def stand_down(seen: Seen, facts: Facts) -> None:
    """Losing the lease runs no hook (Juju no longer has leader-deposed), but winning it back does."""
    if not facts.leader:
        seen.leader = False

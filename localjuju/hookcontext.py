"""One running hook's view of the model and its buffered writes, which commit() applies when the hook exits 0.

status-set, juju-log and action-log are the exceptions: like Juju, they take effect at once and stay.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from localjuju import events, secretstore
from localjuju.model import Model, Relation, Unit


class ToolError(Exception):
    """What a hook command prints after ERROR; it then exits 1."""


@dataclass
class ActionRun:
    """An action's parameters and what it said so far."""

    id: str
    name: str
    parameters: dict[str, Any]
    results: dict[str, Any] = field(default_factory=dict)
    failure: str | None = None
    log: list[str] = field(default_factory=list)


class HookContext:
    """A context lives as long as its hook. All its writes but the statuses wait for commit()."""

    def __init__(
        self,
        context_id: str,
        model: Model,
        unit: Unit,
        facts: events.Facts,
        hook: events.Hook | None = None,
        action: ActionRun | None = None,
    ) -> None:
        self.id = context_id
        self.model = model
        self.unit = unit
        self.facts = facts
        self.hook = hook
        self.action = action
        self.members = events.begin(unit.seen, hook) if hook else events.begin(unit.seen, events.Hook("juju-exec"))
        self._bags: dict[tuple[int, str], dict[str, str]] = {}
        self._snapshots: dict[tuple[int, str], dict[str, str]] = {}
        self._opened: set[str] = set()
        self._closed: set[str] = set()
        self._state: dict[str, str | None] = {}
        self._secrets: secretstore.SecretStore | None = None
        self._secret_writes: list[Callable[[secretstore.SecretStore], None]] = []
        self.reboot = ""

    def is_leader(self) -> bool:
        return self.model.is_leader(self.unit.name)

    # Relations

    def relations(self, endpoint: str) -> list[Relation]:
        return [self.model.relations[r] for r in sorted(self.members) if self.model.relations[r].endpoint == endpoint]

    def relation(self, reference: str) -> Relation:
        """By `name:id` or bare id, or the hook's own for ""."""
        number = reference.rpartition(":")[2]
        if not reference and self.hook and self.hook.relation_id is not None:
            number = str(self.hook.relation_id)
        if not number.isdigit() or int(number) not in self.members:
            raise ToolError(f'invalid value "{reference}" for option -r: relation not found')
        return self.model.relations[int(number)]

    def read_bag(self, relation: Relation, member: str, *, app: bool) -> dict[str, str]:
        """A bag as it was when this hook first looked, with this hook's own writes over it."""
        if app and member not in ("", relation.app) and secretstore.application_of(member) != relation.app:
            raise ToolError("permission denied")
        known = self.members[relation.id] | {self.unit.name}
        if self.hook and self.hook.remote_unit:
            known.add(self.hook.remote_unit)
        if not app and member not in known:
            raise ToolError(f'cannot read settings for unit "{member}" in relation "{relation.key}": unit not found')
        key = (relation.id, "" if app else member)
        if key not in self._snapshots:
            bag = relation.app_bag if app else relation.bag(member)
            self._snapshots[key] = dict(bag.content)
        merged = self._snapshots[key] | self._bags.get(key, {})
        return {k: v for k, v in merged.items() if v != ""}

    def write_bag(self, relation: Relation, changes: dict[str, str], *, app: bool) -> None:
        if app and not self.is_leader():
            raise ToolError("cannot write relation settings")
        self._bags.setdefault((relation.id, "" if app else self.unit.name), {}).update(changes)

    # Ports and charm state

    def ports(self) -> set[str]:
        return (self.unit.ports | self._opened) - self._closed

    def open_port(self, port: str) -> None:
        self._opened.add(port)
        self._closed.discard(port)

    def close_port(self, port: str) -> None:
        self._closed.add(port)
        self._opened.discard(port)

    def state(self) -> dict[str, str]:
        merged: dict[str, str | None] = {**self.unit.state, **self._state}
        return {k: v for k, v in merged.items() if v is not None}

    def set_state(self, changes: dict[str, str | None]) -> None:
        self._state.update(changes)

    # Secrets

    def secrets(self) -> secretstore.SecretStore:
        """What this hook sees: the model's own store, or a copy with its pending writes applied."""
        return self.model.secrets if self._secrets is None else self._secrets

    def write_secret(self, change: Callable[[secretstore.SecretStore], None]) -> None:
        """Try a change on a copy now, so that it is refused now, and do it for real at commit."""
        if self._secrets is None:
            self._secrets = copy.deepcopy(self.model.secrets)
        change(self._secrets)
        self._secret_writes.append(change)

    def read_secret(self, secret_id: str, label: str, *, refresh: bool, peek: bool) -> dict[str, str]:
        def read(store: secretstore.SecretStore) -> dict[str, str]:
            return store.read(secret_id, label, self.unit.name, refresh=refresh, peek=peek)

        content = read(self.secrets())
        # Tracking is Juju's bookkeeping, not the hook's write: it stays even if the hook fails.
        if self._secrets is not None and (
            secret_id.removeprefix("secret:") in self.model.secrets.secrets or not secret_id
        ):
            try:
                read(self.model.secrets)
            except secretstore.SecretProblem:
                pass  # Made in this hook; commit() will bring it.
        return content

    # The end

    def commit(self) -> None:
        """Apply every buffered write. Raises ToolError, having applied nothing, if leadership was lost meanwhile."""
        if any(member == "" for _, member in self._bags) and not self.is_leader():
            raise ToolError("leadership was lost before the hook's application settings were written")
        try:
            staged = copy.deepcopy(self.model.secrets)
            for change in self._secret_writes:
                change(staged)
        except secretstore.SecretProblem as problem:
            raise ToolError(str(problem)) from None
        if self._secret_writes:
            self.model.secrets.secrets = staged.secrets
        for (rid, member), changes in self._bags.items():
            relation = self.model.relations[rid]
            bag = relation.bag(member) if member else relation.app_bag
            bag.update(changes, self.unit.name)
        self.unit.ports = self.ports()
        self.unit.state = self.state()
        self.model.touch()

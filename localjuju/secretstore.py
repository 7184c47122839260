"""Secrets with their revisions, labels, grants and who tracks which revision. Pure."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field


class SecretProblem(Exception):
    """Refused; the text is what the hook command prints after ERROR."""


@dataclass
class Tracking:
    revision: int
    label: str = ""


@dataclass
class Secret:
    id: str
    owner: str  # An application's or a unit's name.
    label: str = ""
    description: str = ""
    rotate: str = "never"
    expire: str = ""
    revisions: dict[int, dict[str, str]] = field(default_factory=dict)
    latest: int = 0
    grants: set[str] = field(default_factory=set)
    trackers: dict[str, Tracking] = field(default_factory=dict)

    def manager(self, unit: str, leader: bool) -> bool:
        """Whether this unit may change it: its owner, or the leader of the application that owns it."""
        return self.owner == unit or (leader and self.owner == application_of(unit))

    def reader(self, unit: str) -> bool:
        app = application_of(unit)
        return self.owner in (unit, app) or unit in self.grants or app in self.grants


@dataclass
class SecretStore:
    secrets: dict[str, Secret] = field(default_factory=dict)

    def add(self, secret_id: str, owner: str, content: dict[str, str], **meta: str) -> None:
        secret = Secret(secret_id, owner)
        for name, value in meta.items():
            setattr(secret, name, value)
        if secret.label and any(s.owner == owner and s.label == secret.label for s in self.secrets.values()):
            raise SecretProblem(f'secret with label "{secret.label}" already exists')
        if not content:
            raise SecretProblem("missing secret value or filename")
        secret.revisions[1], secret.latest = content, 1
        self.secrets[secret_id] = secret

    def get(self, secret_id: str) -> Secret:
        key = secret_id.removeprefix("secret:").rpartition("/")[2]
        if key not in self.secrets:
            raise SecretProblem(f'secret "{key}" not found')
        return self.secrets[key]

    def managed(self, secret_id: str, unit: str, leader: bool) -> Secret:
        secret = self.get(secret_id)
        if not secret.manager(unit, leader):
            raise SecretProblem(f'secret "{secret.id}" not found' if not secret.reader(unit) else "permission denied")
        return secret

    def update(self, secret_id: str, unit: str, leader: bool, content: dict[str, str], **meta: str) -> None:
        secret = self.managed(secret_id, unit, leader)
        for name, value in meta.items():
            if value:
                setattr(secret, name, value)
        if content and content != secret.revisions.get(secret.latest):
            secret.latest += 1
            secret.revisions[secret.latest] = content

    def remove(self, secret_id: str, unit: str, leader: bool, revision: int | None) -> None:
        secret = self.managed(secret_id, unit, leader)
        if revision is None:
            del self.secrets[secret.id]
        elif revision not in secret.revisions:
            raise SecretProblem(f'secret "{secret.id}" revision {revision} not found')
        else:
            del secret.revisions[revision]
            if not secret.revisions:
                del self.secrets[secret.id]

    def by_label(self, label: str, unit: str) -> Secret | None:
        """The owner's label is for all units of an owning application; any other label is the reader's own."""
        for secret in self.secrets.values():
            if secret.label == label and secret.owner in (unit, application_of(unit)):
                return secret
            tracking = secret.trackers.get(unit)
            if tracking and tracking.label == label:
                return secret
        return None

    def read(self, secret_id: str, label: str, unit: str, *, refresh: bool, peek: bool) -> dict[str, str]:
        """secret-get: the tracked revision (the newest, on first sight), or the newest with refresh or peek."""
        secret = self.get(secret_id) if secret_id else self.by_label(label, unit)
        if secret is None:
            raise SecretProblem(f'secret with label "{label}" not found')
        if not secret.reader(unit):
            raise SecretProblem("permission denied")
        tracking = secret.trackers.get(unit)
        if tracking is None:
            tracking = secret.trackers[unit] = Tracking(secret.latest)
        if secret_id and label:
            tracking.label = label
        if refresh:
            tracking.revision = secret.latest
        revision = secret.latest if peek else tracking.revision
        if revision not in secret.revisions:
            raise SecretProblem(f'secret "{secret.id}" revision {revision} not found')
        return dict(secret.revisions[revision])

    def changed_for(self, unit: str, leader: bool) -> dict[str, int]:
        """Secrets this unit tracks at an older revision than the newest, and does not itself manage."""
        return {
            s.id: s.latest
            for s in self.secrets.values()
            if unit in s.trackers and s.trackers[unit].revision < s.latest and not s.manager(unit, leader)
        }

    def obsolete_for(self, unit: str, leader: bool) -> tuple[tuple[str, int], ...]:
        """Old revisions that nobody tracks any more; the manager is asked to remove them."""
        return tuple(
            (s.id, r)
            for s in self.secrets.values()
            if s.manager(unit, leader)
            for r in sorted(s.revisions)
            if r < s.latest and all(t.revision != r for t in s.trackers.values())
        )

    def forget_unit(self, unit: str) -> None:
        """A unit is gone: it tracks nothing, and what it owned goes with it."""
        for secret in list(self.secrets.values()):
            secret.trackers.pop(unit, None)
            secret.grants.discard(unit)
            if secret.owner == unit:
                del self.secrets[secret.id]


def application_of(unit: str) -> str:
    return unit.partition("/")[0]


def new_id() -> str:
    """Twenty characters that look like one of Juju's."""
    return uuid.uuid4().hex[:20]

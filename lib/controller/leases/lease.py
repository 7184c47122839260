"""Flow 2: the words of leases: which lease (Key), which holding of it (Token), and what can be wrong."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Token:
    """Numbers the holdings of one lease: it rises whenever the holder, or the holder's incarnation, changes.

    `epoch` is the number of the cluster's forced reconfigurations. It stands first because a reconfiguration or a
    restored backup may lose the latest counts, and a token must never be given out twice.
    """

    epoch: int
    count: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.count}"


@dataclass(frozen=True, order=True)
class Key:
    """Names one lease. In the namespace `singular-controller` model and name are the same uuid: the controller set's
    or a model's."""

    namespace: str
    model: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.model}/{self.name}"


class LeaseError(Exception):
    """Base of the errors of this package."""


class InvalidLease(LeaseError):
    """The request itself is wrong: an unknown namespace, a name that its secretary refuses, a duration out of range."""


class Denied(LeaseError):
    """Somebody else holds the lease. `holder` is a controller id."""

    def __init__(self, key: Key, holder: str) -> None:
        super().__init__(f"{key} is held by controller {holder}")
        self.key = key
        self.holder = holder


class Lost(LeaseError):
    """The responsibility is over: whoever worked under it must stop, and must not write or act any more."""


class Fenced(LeaseError):
    """A later holder has raised the fence of this database, or the fence is gone: nothing was written, and stop."""

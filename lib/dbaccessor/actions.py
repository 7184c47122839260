"""Flow 1, hop 5: what `decide` can answer: one Action, with one English sentence of reason."""

from __future__ import annotations

from dataclasses import dataclass

from dbaccessor.identity import Epoch


@dataclass(frozen=True)
class Wait:
    """Do nothing now. `topic` names the wait in status; `remedy` is what an operator can do, "" for nothing."""

    topic: str
    reason: str
    remedy: str = ""


@dataclass(frozen=True)
class Serve:
    """The node runs and has a leader: keep it so. `notice` is something an operator should see all the same."""

    reason: str
    notice: Wait | None = None


@dataclass(frozen=True)
class Bootstrap:
    """Found the cluster with this node as its only member."""

    reason: str


@dataclass(frozen=True)
class Start:
    """Start the node on the data that is there."""

    reason: str


@dataclass(frozen=True)
class Join:
    """Become a member of the running cluster through its leader (a raft name)."""

    leader: str
    reason: str


@dataclass(frozen=True)
class PutAside:
    """Stop the node, move its data away unharmed, and forget the identity."""

    reason: str


@dataclass(frozen=True)
class Forget:
    """Give up an identity whose data is gone; its Dqlite id is to be removed when this node joins again."""

    reason: str


@dataclass(frozen=True)
class Supersede:
    """A newer epoch exists: record that durably and close everything, before anything else."""

    epoch: Epoch
    reason: str


@dataclass(frozen=True)
class Reconfigure:
    """Go on with this node as the only member; `dropping` are the raft names left behind."""

    dropping: tuple[str, ...]
    reason: str


Action = Wait | Serve | Bootstrap | Start | Join | PutAside | Forget | Supersede | Reconfigure
